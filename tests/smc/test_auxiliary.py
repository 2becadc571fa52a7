"""The auxiliary filter where it is exact: fully adapted, without a forecast, without resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

MOVE = np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)
LIKELIHOOD = np.array([[0.5, 0.1], [0.4, 0.3], [0.1, 0.6], [0.1, 0.6]], np.float32)  # [t, state]
AHEAD = LIKELIHOOD @ MOVE.T  # p(y_t | x_t-1), [t, state before]


def fully_adapted() -> smc.FeynmanKac:
    """M_t is the optimal proposal, so that G_t is a function of the state before."""
    log_optimal = jnp.log(MOVE * LIKELIHOOD[:, None])

    def propagate(key, x, t):
        new = jax.random.categorical(key, log_optimal[t, x["now"]]).astype(jnp.int32)
        return {"now": new, "before": x["now"]}

    def log_potential(x, t):
        return jnp.where(t == 0, jnp.log(LIKELIHOOD)[0, x["now"]], jnp.log(AHEAD)[t, x["before"]])

    def init(key):
        return {"now": jax.random.bernoulli(key).astype(jnp.int32), "before": jnp.int32(0)}

    return smc.lift(init, propagate, log_potential)


@pytest.fixture(scope="module")
def adapted():
    log_eta = smc.per_particle(lambda x, t: jnp.log(AHEAD)[t, x["now"]])
    algorithm = smc.auxiliary_filter(fully_adapted(), 7, log_eta, smc.systematic)
    keys = jax.random.split(jax.random.key(1), 30)
    collect = lambda state, info: (state, info)  # noqa: E731
    return jax.jit(lambda keys: smc.run(keys, algorithm, 4, collect)[1])(keys)


def test_fully_adapted_weights_are_equal(adapted):
    states, infos = jax.tree.map(np.asarray, adapted)
    assert infos.resampled[1:].all()
    np.testing.assert_allclose(states.log_weights[1:], -np.log(7), rtol=1e-5)


def test_fully_adapted_increment_is_the_mean_forecast(adapted):
    """log sum_i W_t-1^i p(y_t | x_t-1^i), whatever ancestors are drawn."""
    states, infos = jax.tree.map(np.asarray, adapted)
    for t in (1, 2, 3):
        w = np.exp(states.log_weights[t - 1].astype(float))
        exact = np.log((w * AHEAD[t][states.particles["now"][t - 1]]).sum(-1))
        np.testing.assert_allclose(infos.log_evidence_increment[t], exact, rtol=1e-4)


def test_a_criterion_sees_the_first_stage_weights():
    """Equal weights are resampled for their forecasts; unequal ones, made equal by them, are not."""
    log_g = jnp.log(jnp.array([[1.0, 1.0, 9.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    log_eta = jnp.stack([-log_g[0], jnp.log(jnp.array([1.0, 100.0, 1.0, 1.0]))])
    model = smc.FeynmanKac(
        init=lambda keys: jnp.zeros(keys.shape),
        propagate=lambda keys, x, t: x,
        weigh=lambda x, t: (x, jnp.where(t[..., None] == 0, log_g, 0.0)),
    )
    resampler = smc.when(smc.ess_below(0.6), smc.systematic)
    algorithm = smc.auxiliary_filter(model, 4, lambda x, t: log_eta, resampler)
    keys = jax.random.split(jax.random.key(0))
    state, infos = jax.jit(lambda keys: smc.run(keys, algorithm, 2))(keys)
    assert infos.resampled[1].tolist() == [False, True]
    np.testing.assert_allclose(np.exp(state.log_weights[0]), np.array([1, 1, 9, 1]) / 12, rtol=1e-5)


def test_forecasts_of_zero(autoregression):
    """Nothing is drawn when every forecast is 0: the weights are carried, not lost."""
    hopeless = smc.auxiliary_filter(autoregression, 8, lambda x, t: jnp.full_like(x, -jnp.inf))
    plain = smc.particle_filter(autoregression, 8, smc.when(smc.never, smc.systematic))

    @jax.jit
    def both(key):
        return [smc.run(key, algorithm, 4)[0] for algorithm in (hopeless, plain)]

    for a, b in zip(*both(jax.random.key(4)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
