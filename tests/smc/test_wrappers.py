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


@pytest.mark.slow
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


THETA = (0.4, -0.3)
SEEN = [0, 1, 1, 0, 1]


def tables(xp, theta):
    """Transition to, and emission of, state 1 from states 0 and 1; log-odds that move with theta."""
    stay, emit = theta[0], theta[1]
    odds = xp.stack([xp.asarray([stay, -1.5 * stay + 0.2]), xp.asarray([emit, 1.0 - emit])])
    return 1 / (1 + xp.exp(-odds))


def evidence(theta: np.ndarray) -> float:
    """p(SEEN) by the forward algorithm, started in state 0 or 1 with probability 1/2."""
    move, emit = tables(np, theta)
    alpha = np.array([0.5, 0.5])
    for t, y in enumerate(SEEN):
        if t:
            alpha = alpha @ np.stack([1 - move, move], 1)
        alpha = alpha * (emit if y else 1 - emit)
    return float(alpha.sum())


def weighted_paths(theta) -> smc.FeynmanKac:
    """States drawn by fair coins, so that theta is in the potentials alone."""
    move, emit = tables(jnp, theta)
    seen = jnp.asarray(SEEN)

    def propagate(key, pair, t):
        return jnp.stack([pair[1], jax.random.bernoulli(key).astype(jnp.int32)])

    def log_potential(pair, t):
        p, q = move[pair[0]], emit[pair[1]]
        log_move = jnp.log(2 * jnp.where(pair[1] == 1, p, 1 - p))
        return jnp.log(jnp.where(seen[t] == 1, q, 1 - q)) + jnp.where(t == 0, 0.0, log_move)

    return smc.lift(
        lambda key: propagate(key, jnp.zeros(2, jnp.int32), 0), propagate, log_potential
    )


def gradient_z_scores(resampler: smc.Resampler) -> np.ndarray:
    """z of the mean of Z_hat grad log Z_hat = grad Z_hat, over 20 000 filters, against grad Z."""
    repeats = 20_000

    def log_evidence(theta, key):
        algorithm = smc.particle_filter(weighted_paths(theta), 6, resampler)
        return smc.run(key, algorithm, len(SEEN))[0].log_evidence

    keys = jax.random.split(jax.random.key(9), repeats)
    theta = jnp.float32(THETA)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_evidence), (None, 0)))(theta, keys)
    samples = np.exp(np.asarray(value, float))[:, None] * np.asarray(slope, float)
    step = 1e-5 * np.eye(2)
    exact = [(evidence(THETA + h) - evidence(THETA - h)) / 2e-5 for h in step]
    return (samples.mean(0) - exact) / (samples.std(0) / np.sqrt(repeats))


@pytest.mark.slow
@pytest.mark.parametrize(
    "resampler",
    [
        smc.multinomial,
        smc.systematic,
        smc.when(smc.ess_below(0.7), smc.in_place(smc.ssp)),
        smc.annealed(lambda log_w, t: jnp.full(t.shape, 2.0), smc.residual),
    ],
    ids=["multinomial", "systematic", "when in place", "annealed"],
)
def test_stop_gradient_is_unbiased(resampler):
    """|z| < 4 on 2 statistics; a correct wrapper fails with probability 1.3e-4."""
    z = gradient_z_scores(smc.stop_gradient(resampler))
    assert (np.abs(z) < 4).all(), z


@pytest.mark.slow
def test_fixed_ancestors_give_a_biased_gradient():
    assert np.abs(gradient_z_scores(smc.multinomial)).max() > 10


@pytest.mark.slow
def test_stop_gradient_changes_no_number_and_is_finite_for_the_dead():
    log_w = jnp.log(jnp.array([[0.0, 0.7, 0.3], [0.0, 0.0, 0.0]]))
    keys, t = jax.random.split(KEY), jnp.ones(2, jnp.int32)
    resamplers = (smc.systematic, smc.stop_gradient(smc.systematic))
    plain, wrapped = (jax.jit(r)(keys, log_w, t) for r in resamplers)
    for a, b in zip(plain, wrapped, strict=True):
        assert (a == b).all()

    def live_left(x):
        left = smc.stop_gradient(smc.systematic)(keys, x, t)[1]
        return jnp.sum(jnp.where(jnp.isneginf(left), 0.0, left))

    slope = np.asarray(jax.jit(jax.grad(live_left))(log_w))
    counts = np.bincount(np.asarray(plain[0][0]), minlength=3)
    assert (slope[0] == counts).all() and (slope[1] == 0).all()
