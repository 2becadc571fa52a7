"""Choosing n of m: the law of the counts, the dead, the bound of the comb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")
SCHEMES = {
    scheme.__name__: scheme
    for scheme in (
        smc.systematic,
        smc.stratified,
        smc.multinomial,
        smc.residual,
        smc.ssp,
        smc.killing,
    )
}
ROUNDED = ("systematic", "ssp")  # each count is n W_i rounded down or up
schemes = pytest.mark.parametrize("name", SCHEMES)
choose = jax.jit(
    lambda key, log_w, t, n, name: smc.choice(n, SCHEMES[name])(key, log_w, t),
    static_argnums=(3, 4),
)
log_weights = st.sampled_from([1, 3, 12]).flatmap(
    lambda m: st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=m, max_size=m
    )
)


@schemes
@settings(deadline=None, max_examples=40)  # the first example of a shape compiles
@given(log_w=log_weights, n=st.sampled_from([2, 5]), seed=st.integers(0, 2**31 - 1))
def test_contract(name, log_w, n, seed):
    """Fewer rows than there are, as many, and more."""
    rows, left, chosen = choose(
        jax.random.key(seed), smc.normalise(jnp.float32(log_w)), jnp.int32(1), n, name
    )
    assert rows.shape == left.shape == (n,) and rows.dtype == jnp.int32
    if max(log_w) == -INF:
        first = np.minimum(np.arange(n), len(log_w) - 1)
        assert (rows == first).all() and (left == -INF).all() and not chosen
        return
    log_w = np.asarray(log_w, float)
    w = np.exp(log_w - log_w.max())
    counts = np.bincount(rows, minlength=len(w))
    assert chosen and (w[rows] > 0).all() and len(counts) == len(w)
    # 1e-4 is for float32, as in the resampler.
    excess = counts - n * w / w.sum()
    if name in ROUNDED:
        assert np.abs(excess).max() < 1 + 1e-4
    elif name in ("stratified", "residual"):
        assert excess.min() > (-2 if name == "stratified" else -1) - 1e-4
    np.testing.assert_allclose(left, -np.log(n), rtol=1e-6)


@schemes
@pytest.mark.parametrize("n", [3, 13])
def test_expected_counts(name, n):
    """E[copies of i] = n W_i: |z| < 4 on 5 statistics (6e-5 each), 20 000 draws."""
    w, repeats = np.array([0.45, 0.0, 0.3, 0.05, 0.2]), 20_000
    log_w = jnp.broadcast_to(jnp.log(jnp.float32(w)), (repeats, 5))
    keys = jax.random.split(jax.random.key(3), repeats)
    rows = np.asarray(choose(keys, log_w, jnp.ones(repeats, jnp.int32), n, name)[0])
    counts = (rows[:, :, None] == np.arange(5)).sum(1).astype(float)
    assert (counts[:, 1] == 0).all()
    error = counts.std(0)[w > 0] / np.sqrt(repeats)
    assert (np.abs((counts.mean(0) - n * w)[w > 0]) < 4 * error + 1e-9).all()


@schemes
def test_as_many_as_there_are_is_the_scheme_itself(name):
    log_w = smc.normalise(jax.random.normal(jax.random.key(0), (7,)))
    ours = choose(jax.random.key(1), log_w, jnp.int32(1), 7, name)
    theirs = jax.jit(SCHEMES[name])(jax.random.key(1), log_w, jnp.int32(1))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_lookahead_and_waste_free_choose_with_any_scheme():
    """More than a resampler: n of n m drafts, chains from any of the particles."""
    model = smc.lift(
        lambda key: jax.random.normal(key), lambda key, x, t: x, lambda x, t: jnp.float32(0)
    )
    algorithm = smc.lookahead_filter(model, 4, 3, choose=lambda n: smc.choice(n, smc.killing))
    state, infos = smc.run(jax.random.key(0), algorithm, 2)
    assert infos.ancestors.shape == (2, 4) and abs(float(state.log_evidence)) < 1e-6


def test_refuses_no_row():
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.systematic_choice(0)
