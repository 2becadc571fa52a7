"""Wrappers: the decision is per problem, survivors keep their slot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

KEY = jax.random.key(5)


def stub(ancestors, left) -> smc.Resampler:
    return lambda key, log_w, t: (ancestors, left, jnp.ones(ancestors.shape[:-1], bool))


@jax.jit
def permute(ancestors, left):
    return smc.in_place(stub(ancestors, left))(KEY, left, jnp.int32(1))[:2]


ancestor_vectors = st.sampled_from([1, 2, 5, 16]).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)
)


@settings(deadline=None)  # the first example of a shape compiles
@given(ancestor_vectors)
def test_in_place_keeps_survivors_counts_and_pairs(ancestors):
    left = np.linspace(-3.0, -1.0, len(ancestors), dtype=np.float32)
    moved, moved_left = permute(jnp.int32(ancestors), jnp.asarray(left))
    moved, moved_left = np.asarray(moved), np.asarray(moved_left)
    before = sorted(zip(ancestors, left.tolist(), strict=True))
    assert sorted(zip(moved.tolist(), moved_left.tolist(), strict=True)) == before
    survivors = np.unique(ancestors)
    assert (moved[survivors] == survivors).all()


def test_in_place_is_the_identity_on_arange():
    left = jnp.linspace(-3.0, -1.0, 6)
    moved, moved_left = permute(jnp.arange(6, dtype=jnp.int32), left)
    assert (moved == jnp.arange(6)).all() and (moved_left == left).all()


def test_in_place_over_leading_axes():
    ancestors = jnp.array([[[0, 0, 0], [2, 2, 1]], [[1, 0, 1], [2, 1, 0]]], jnp.int32)
    left = jnp.arange(12.0).reshape(2, 2, 3)
    moved, moved_left = permute(ancestors, left)
    assert moved.tolist() == [[[0, 0, 0], [2, 1, 2]], [[0, 1, 1], [0, 1, 2]]]
    assert moved_left.tolist() == [[[0, 1, 2], [4, 5, 3]], [[7, 6, 8], [11, 10, 9]]]


def test_when_decides_for_each_problem():
    w = np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    log_w, t = jnp.log(jnp.float32(w)), jnp.ones(3, jnp.int32)
    keys = jax.random.split(KEY, 3)
    decided = smc.when(smc.ess_below(0.5), smc.systematic)
    ancestors, left, resampled = map(np.asarray, jax.jit(decided)(keys, log_w, t))
    always, always_left, _ = map(np.asarray, jax.jit(smc.systematic)(keys, log_w, t))
    assert resampled.tolist() == [False, True, False]
    assert ancestors[0].tolist() == [0, 1, 2, 3] == ancestors[2].tolist()
    assert (left[0] == np.asarray(log_w)[0]).all() and (left[2] == -jnp.inf).all()
    assert (ancestors[1] == always[1]).all() and (left[1] == always_left[1]).all()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (smc.every(1), [True, True, True, True]),
        (smc.every(3), [False, False, True, False]),
        (smc.never, [False, False, False, False]),
        (smc.ess_below(0.55), [False, True, False, True]),
    ],
)
def test_criteria(criterion, expected):
    even, uneven = [0.4, 0.6], [0.01, 0.99]
    log_w = jnp.log(jnp.array([even, uneven, even, uneven]))
    assert jax.jit(criterion)(log_w, jnp.arange(1, 5)).tolist() == expected


def test_every_refuses_zero():
    with pytest.raises(ValueError, match="k: got 0, want at least 1"):
        smc.every(0)


def test_the_order_of_the_wrappers_does_not_matter():
    log_w = 2 * np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32)
    keys, t = jax.random.split(KEY, 20), jnp.ones(20, jnp.int32)

    @jax.jit
    def both_orders(keys, log_w, t):
        inside = smc.when(smc.ess_below(0.5), smc.in_place(smc.systematic))
        outside = smc.in_place(smc.when(smc.ess_below(0.5), smc.systematic))
        log_w = smc.normalise(log_w)
        return inside(keys, log_w, t), outside(keys, log_w, t)

    inside, outside = jax.tree.map(np.asarray, both_orders(keys, log_w, t))
    assert 0 < inside[2].sum() < 20
    for a, b in zip(inside, outside, strict=True):
        assert (a == b).all()
