"""Optimal resampling: the threshold by bisection in float64, the law, nothing kept twice.

|z| < 4 on a statistic fails for correct code with probability 6e-5; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")


def threshold(w: np.ndarray, n: int) -> float:
    """c with sum_i min(w_i / c, 1) = n, for more than n particles alive."""
    low, high = 0.0, 1.0
    for _ in range(400):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(w / c, 1).sum() > n else (low, c)
    return high


def keep(n: int):
    return jax.jit(lambda key, log_w: smc.optimal(n)(key, log_w, jnp.zeros(key.shape, jnp.int32)))


COMPILED = {n: keep(n) for n in (1, 4, 11)}


@settings(deadline=None)  # the first example of a shape compiles
@given(
    log_w=st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(0.0), st.just(-INF)),
        min_size=11,
        max_size=11,
    ),
    n=st.sampled_from(list(COMPILED)),
    seed=st.integers(0, 2**31 - 1),
)
def test_contract(log_w, n, seed):
    log_w = smc.normalise(jnp.float32(log_w))
    ancestors, left, drawn = map(np.asarray, COMPILED[n](jax.random.key(seed), log_w))
    log_w = np.asarray(log_w, float)
    num_alive = (log_w > -INF).sum()
    assert len(set(ancestors.tolist())) == n == len(left) and (np.diff(ancestors) > 0).all()
    assert drawn == (num_alive > n) and (log_w[ancestors] > -INF).sum() == min(n, num_alive)
    assert ((left > -INF) == (log_w[ancestors] > -INF)).all()
    if not drawn:
        assert (left == log_w[ancestors]).all()
        return
    w = np.exp(log_w)
    c = threshold(w, n)
    np.testing.assert_allclose(left, np.log(np.maximum(w, c))[ancestors], rtol=1e-5, atol=1e-5)
    assert np.isin(np.flatnonzero(w > c * (1 + 1e-5)), ancestors).all()


@pytest.mark.parametrize("n", [1, 3, 5])
def test_law(n):
    """Inclusion with probability min(W / c, 1), and E[sum_j left_j f(A_j)] = sum_i W_i f_i."""
    w, repeats = np.array([0.02, 0.5, 0.1, 0.0, 0.13, 0.05, 0.2]), 20_000
    keys = jax.random.split(jax.random.key(n), repeats)
    log_w = jnp.broadcast_to(jnp.log(jnp.float32(w)), (repeats, 7))
    ancestors, left, _ = map(np.asarray, jax.jit(keep(n))(keys, log_w))
    kept = (ancestors[:, :, None] == np.arange(7)).sum(1)
    c = threshold(w, n)
    assert kept.max() == 1
    f = np.array([3.0, -1.0, 4.0, 100.0, 5.0, -9.0, 2.0])
    totals = (np.exp(left.astype(float)) * f[ancestors]).sum(1)
    samples = np.column_stack([kept, totals])
    expected = np.append(np.minimum(w / c, 1), w @ f)
    error = samples.std(0) / np.sqrt(repeats)
    difference = np.abs(samples.mean(0) - expected)
    assert (difference <= np.maximum(4 * error, 1e-6)).all(), difference / error


def test_many_small_particles_keep_their_digits():
    """4 of 2^14 equal particles but one: the others are kept with probability 3 / (2^14 - 1)."""
    m, repeats = 2**14, 256
    log_w = smc.normalise(jnp.zeros(m).at[777].set(15.0))
    chosen = jax.jit(lambda keys: jax.lax.map(lambda key: keep(4)(key, log_w)[0], keys))
    ancestors = np.asarray(chosen(jax.random.split(jax.random.key(0), repeats)))
    assert (ancestors == 777).sum() == repeats
    others = ancestors[ancestors != 777].reshape(repeats, 3)
    thirds = np.searchsorted([m / 3, 2 * m / 3], others)
    assert (thirds == [0, 1, 2]).mean() > 0.99


def test_refusals():
    with pytest.raises(ValueError, match="n: got 0, want the number of particles to keep"):
        smc.optimal(0)
    with pytest.raises(ValueError, match="got 3 particles, want at least the 4 kept"):
        smc.optimal(4)(jax.random.key(0), jnp.zeros(3), jnp.int32(1))
