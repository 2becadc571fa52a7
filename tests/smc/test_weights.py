"""Log-weights: dead particles, extreme weights, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc
from pfjax.smc.weights import total

INF = float("inf")
LOG_WEIGHTS = st.lists(
    st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=4, max_size=4
)
compiled = jax.jit(
    lambda log_w: (smc.log_sum_exp(log_w), smc.normalise(log_w), smc.effective_sample_size(log_w))
)
compiled_cess = jax.jit(smc.conditional_ess)


@settings(deadline=None)  # the first example of a shape compiles
@given(LOG_WEIGHTS)
def test_agrees_with_float64_linear_weights(log_w):
    total, normalised, ess = (np.asarray(x) for x in compiled(jnp.float32(log_w)))
    w = np.exp(np.float64(log_w))
    if w.sum() == 0:
        assert total == -INF and ess == 0 and (normalised == -INF).all()
        return
    np.testing.assert_allclose(total, np.log(w.sum()), rtol=2e-6, atol=2e-6)
    live = w > 0
    assert ((normalised > -INF) == live).all()
    np.testing.assert_allclose(normalised[live], np.log(w[live] / w.sum()), rtol=1e-6, atol=2e-5)
    np.testing.assert_allclose(ess, w.sum() ** 2 / (w**2).sum(), rtol=2e-5)


def test_log_ratio_of_the_dead():
    top, bottom = jnp.array([-INF, -INF, 0.0]), jnp.array([-INF, 1.0, 2.0])
    assert smc.log_ratio(top, bottom).tolist() == [-INF, -INF, -2.0]


@pytest.mark.parametrize("function", [smc.log_sum_exp, smc.effective_sample_size, smc.normalise])
@pytest.mark.parametrize("log_w", [[-INF, -INF], [-INF, 0.5], [0.1, 0.5]])
def test_gradient_is_finite(function, log_w):
    def live_sum(x):
        y = function(x)
        return jnp.sum(jnp.where(jnp.isneginf(y), 0.0, y))

    assert np.isfinite(jax.grad(live_sum)(jnp.array(log_w))).all()


def test_gradient_of_log_sum_exp_is_the_weights():
    log_w = jnp.array([0.3, -INF, -1.2])
    np.testing.assert_allclose(
        jax.grad(smc.log_sum_exp)(log_w),
        np.exp([0.3, -INF, -1.2]) / np.exp([0.3, -1.2]).sum(),
        1e-6,
    )


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_bits_of_a_sum_do_not_depend_on_other_problems(n):
    """Also the sum itself, of whole numbers that float32 adds exactly."""
    log_w = np.random.default_rng(n).normal(size=(16, n)).astype(np.float32)
    together = np.asarray(compiled(log_w)[0])
    assert together.tolist() == [float(compiled(row)[0]) for row in log_w]
    whole = np.random.default_rng(n).integers(0, 100, (3, n))
    assert jax.jit(total)(whole.astype(np.float32)).tolist() == whole.sum(1).tolist()


@settings(deadline=None)  # the first example of a shape compiles
@given(LOG_WEIGHTS, LOG_WEIGHTS)
def test_conditional_ess_agrees_with_float64(log_w, log_g):
    cess = float(compiled_cess(jnp.float32(log_w), jnp.float32(log_g)))
    w, g = (np.exp(np.float64(np.float32(x))) for x in (log_w, log_g))
    if (w * g).sum() == 0:
        assert cess == 0
        return
    w = w / w.sum()
    np.testing.assert_allclose(cess, 4 * (w @ g) ** 2 / (w @ g**2), rtol=2e-4, atol=1e-30)


def test_conditional_ess_by_hand():
    """W = (1/4, 3/4), g = (3, 1): 2 (6/4)^2 / (12/4) = 3/2; g constant: 2; batch axes."""
    w, g = jnp.array([[0.25, 0.75]] * 2), jnp.array([[3.0, 1.0], [7.0, 7.0]])
    np.testing.assert_allclose(smc.conditional_ess(jnp.log(w), jnp.log(g)), [1.5, 2.0], rtol=1e-6)
