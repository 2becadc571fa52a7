"""Resampling schemes: law of the counts, the dead, the float32 bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")
SCHEMES = {"systematic": smc.systematic, "multinomial": smc.multinomial}
COMPILED = {name: jax.jit(scheme) for name, scheme in SCHEMES.items()}
schemes = pytest.mark.parametrize("name", SCHEMES)
log_weights = st.sampled_from([1, 2, 17]).flatmap(
    lambda n: st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=n, max_size=n
    )
)
seeds = st.integers(0, 2**31 - 1)
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def linear(log_w) -> np.ndarray:
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def resample(name: str, seed: int, log_w) -> tuple[np.ndarray, np.ndarray, bool]:
    ancestors, left, resampled = COMPILED[name](
        jax.random.key(seed), smc.normalise(jnp.float32(log_w)), jnp.int32(1)
    )
    assert ancestors.dtype == jnp.int32 and left.dtype == jnp.float32
    return np.asarray(ancestors), np.asarray(left), bool(resampled)


@schemes
@COMPILES
@given(log_w=log_weights, seed=seeds)
def test_contract(name, log_w, seed):
    ancestors, left, resampled = resample(name, seed, log_w)
    n = len(log_w)
    if max(log_w) == -INF:
        assert (ancestors == np.arange(n)).all() and (left == -INF).all() and not resampled
        return
    assert resampled and (ancestors >= 0).all() and (ancestors < n).all()
    assert (np.asarray(log_w)[ancestors] > -INF).all()
    np.testing.assert_allclose(left, -np.log(n), rtol=1e-6)


@COMPILES
@given(log_w=log_weights.filter(lambda log_w: max(log_w) > -INF), seed=seeds)
def test_systematic_counts_are_floor_or_ceiling(log_w, seed):
    ancestors, _, _ = resample("systematic", seed, log_w)
    counts = np.bincount(ancestors, minlength=len(log_w))
    # 1e-4 is for float32: n * cumsum(w) - u is rounded at 17 * 2^-24 a few times.
    assert np.abs(counts - len(log_w) * linear(log_w)).max() < 1 + 1e-4
    assert (np.diff(ancestors) >= 0).all()


@schemes
def test_law_of_the_counts(name):
    """E[c_i] = N W_i, and for multinomial E[c_i c_j] too: |z| < 4 on 5 + 25 statistics."""
    w, repeats = np.array([0.45, 0.0, 0.3, 0.05, 0.2]), 20_000
    n = len(w)
    log_w = jnp.broadcast_to(jnp.log(jnp.float32(w)), (repeats, n))
    keys = jax.random.split(jax.random.key(3), repeats)
    ancestors = np.asarray(COMPILED[name](keys, log_w, jnp.ones(repeats, jnp.int32))[0])
    counts = (ancestors[:, :, None] == np.arange(n)).sum(1).astype(float)
    assert (np.abs(z_scores(counts, n * w)) < 4).all()
    if name == "systematic":
        return
    products = (counts[:, :, None] * counts[:, None, :]).reshape(repeats, -1)
    independent = (n * (n - 1) * np.outer(w, w) + n * np.diag(w)).ravel()
    assert (np.abs(z_scores(products, independent)) < 4).all()


def z_scores(samples: np.ndarray, expected: np.ndarray) -> np.ndarray:
    error = samples.std(0) / np.sqrt(len(samples))
    difference = samples.mean(0) - expected
    constant = error < 1e-12
    assert np.abs(difference[constant]).max(initial=0) < 1e-6
    return np.where(constant, 0, difference / np.where(constant, 1, error))


@schemes
def test_one_survivor(name):
    for survivor in (0, 2, 6):
        log_w = np.full(7, -INF)
        log_w[survivor] = -3.0
        assert resample(name, survivor, log_w)[0].tolist() == [survivor] * 7


@schemes
@pytest.mark.parametrize("num_trailing_dead", [0, 1000])
def test_dead_particles_among_many_are_never_chosen(name, num_trailing_dead):
    """Float32 prefix sums grow across weights of 0; a comb on them alone picks the dead.

    The seeds are those of 4096 whose uniform is closest to 1: the last tooth is next to the end.
    """
    n = 2**16
    uniforms = jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed)))(jnp.arange(4096))
    for seed in np.argsort(uniforms)[-20:].tolist():
        rng = np.random.default_rng(seed)
        w = rng.random(n, np.float32) * (rng.random(n) < 0.5)
        w[n - num_trailing_dead :] = 0
        ancestors, _, _ = resample(name, seed, jnp.log(w))
        assert (ancestors < n).all() and (w[ancestors] > 0).all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_systematic_counts_at_n_65536(spread):
    n = 2**16
    for seed in range(5):
        log_w = smc.normalise(spread * jax.random.normal(jax.random.key(seed), (n,)))
        ancestors, _, _ = resample("systematic", seed, log_w)
        excess = np.abs(np.bincount(ancestors, minlength=n) - n * linear(log_w)).max() - 1
        # Measured over 100 draws: 0.0044. An ulp of n is 0.0078.
        assert excess < 0.01


@schemes
def test_every_problem_has_its_own_key(name):
    keys = jax.random.split(jax.random.key(0), (2, 3))
    log_w = jnp.full((2, 3, 8), -jnp.log(8.0)) + 0.3 * jnp.arange(8.0).reshape(1, 1, 8)
    log_w = smc.normalise(log_w)
    together = COMPILED[name](keys, log_w, jnp.ones((2, 3), jnp.int32))
    assert len({tuple(a) for a in np.asarray(together[0]).reshape(6, 8)}) > 1
    for index in np.ndindex(2, 3):
        alone = COMPILED[name](keys[index], log_w[index], jnp.int32(1))
        for a, b in zip(together, alone, strict=True):
            assert (np.asarray(a[index]) == np.asarray(b)).all()
