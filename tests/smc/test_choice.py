"""Choosing n of m: the law of the counts, the dead, the bound of the comb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")
choose = jax.jit(lambda key, log_w, t, n: smc.systematic_choice(n)(key, log_w, t), static_argnums=3)
log_weights = st.sampled_from([1, 3, 12]).flatmap(
    lambda m: st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=m, max_size=m
    )
)


@settings(deadline=None)  # the first example of a shape compiles
@given(log_w=log_weights, n=st.sampled_from([1, 2, 5]), seed=st.integers(0, 2**31 - 1))
def test_contract(log_w, n, seed):
    n = min(n, len(log_w))
    rows, left, chosen = choose(
        jax.random.key(seed), smc.normalise(jnp.float32(log_w)), jnp.int32(1), n
    )
    assert rows.shape == left.shape == (n,) and rows.dtype == jnp.int32
    if max(log_w) == -INF:
        assert rows.tolist() == list(range(n)) and (left == -INF).all() and not chosen
        return
    log_w = np.asarray(log_w, float)
    w = np.exp(log_w - log_w.max())
    counts = np.bincount(rows, minlength=len(w))
    assert chosen and (w[rows] > 0).all()
    # 1e-4 is for float32, as in the resampler.
    assert np.abs(counts - n * w / w.sum()).max() < 1 + 1e-4
    np.testing.assert_allclose(left, -np.log(n), rtol=1e-6)


def test_expected_counts():
    """E[copies of i] = n W_i: |z| < 4 on 5 statistics, 20 000 draws."""
    w, n, repeats = np.array([0.45, 0.0, 0.3, 0.05, 0.2]), 3, 20_000
    log_w = jnp.broadcast_to(jnp.log(jnp.float32(w)), (repeats, 5))
    keys = jax.random.split(jax.random.key(3), repeats)
    rows = np.asarray(choose(keys, log_w, jnp.ones(repeats, jnp.int32), n)[0])
    counts = (rows[:, :, None] == np.arange(5)).sum(1).astype(float)
    assert (counts[:, 1] == 0).all()
    error = counts.std(0)[w > 0] / np.sqrt(repeats)
    assert (np.abs((counts.mean(0) - n * w)[w > 0]) < 4 * error).all()


def test_refuses_no_row():
    with pytest.raises(ValueError, match="n: got 0 rows to choose"):
        smc.systematic_choice(0)
