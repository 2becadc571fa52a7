"""The grid against another rule on another grid; the bootstrap filter against the grid.

Unbiasedness: 20 000 filters, |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

MU, RHO, SIGMA, STEPS = -1.0, 0.9, 0.4, 8
NUM_FILTERS, N = 20_000, 16


def gauss_legendre(returns: np.ndarray) -> tuple[float, float, float]:
    """log p(y), mean and variance of the last state, by 400 Gauss-Legendre nodes in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    spread = SIGMA / np.sqrt(1 - RHO**2)
    x, dx = MU + 8 * spread * nodes, 8 * spread * weights

    def density(x, mean, sd):
        return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    joint = density(x, MU, spread) * density(returns[0], 0, np.exp(x / 2))
    for y in returns[1:]:
        ahead = (joint * dx) @ density(x[None], MU + RHO * (x[:, None] - MU), SIGMA)
        joint = ahead * density(y, 0, np.exp(x / 2))
    total = (joint * dx).sum()
    mean = (joint * dx) @ x / total
    return np.log(total), mean, (joint * dx) @ (x - mean) ** 2 / total


@pytest.fixture(scope="module")
def parameters():
    return smc.StochasticVolatility(*map(jnp.float32, (MU, RHO, SIGMA)))


@pytest.fixture(scope="module")
def returns(parameters):
    simulate = jax.jit(smc.simulate_returns, static_argnums=2)
    return simulate(jax.random.key(8), parameters, STEPS)


def test_quadrature(parameters, returns):
    exact = gauss_legendre(np.asarray(returns, float))
    compiled = jax.jit(smc.quadrature_filter, static_argnums=2)
    single = compiled(parameters, returns, 201)
    np.testing.assert_allclose([row[-1] for row in map(np.asarray, single)], exact, rtol=1e-4)
    with jax.enable_x64(True):
        wide = smc.StochasticVolatility(*map(jnp.float64, (MU, RHO, SIGMA)))
        double = compiled(wide, jnp.float64(np.asarray(returns)), 401)
        np.testing.assert_allclose([row[-1] for row in map(np.asarray, double)], exact, rtol=1e-9)


def test_simulated_returns_have_the_stationary_moments(parameters):
    """log y^2 = x + log chi^2: its mean, variance and lag-1 covariance, over 20 000 series."""
    keys = jax.random.split(jax.random.key(2), NUM_FILTERS)
    y = jax.jit(jax.vmap(lambda key: smc.simulate_returns(key, parameters, 3)))(keys)
    z = np.log(np.asarray(y, float) ** 2) - MU + 1.2703628454614782
    variance = SIGMA**2 / (1 - RHO**2)
    for sample, answer in [
        (z[:, 0], 0.0),
        (z[:, 2], 0.0),
        (z[:, 0] * z[:, 1], RHO * variance),
        (z[:, 0] * z[:, 2], RHO**2 * variance),
        (z[:, 1] ** 2, variance + np.pi**2 / 2),
    ]:
        assert abs(sample.mean() - answer) < 4 * sample.std() / np.sqrt(NUM_FILTERS)


@pytest.mark.slow
def test_unbiased(parameters, returns):
    log_p, mean, variance = gauss_legendre(np.asarray(returns, float))

    @jax.jit
    def run(keys):
        algorithm = smc.particle_filter(smc.stochastic_volatility(parameters, returns), N)
        return smc.run(keys, algorithm, STEPS)[0]

    state = run(jax.random.split(jax.random.key(4), NUM_FILTERS))
    x, w = np.asarray(state.particles, float), np.exp(np.asarray(state.log_weights, float))
    ratio = np.exp(np.asarray(state.log_evidence, float) - log_p)
    for f, answer in [(0 * x + 1, 1), (x, mean), (x**2, variance + mean**2)]:
        estimate = ratio * (w * f).sum(1)
        error = estimate.std() / np.sqrt(NUM_FILTERS)
        assert abs(estimate.mean() - answer) < 4 * error and error < 0.02


def test_log_transition(parameters, returns):
    log_m = smc.stochastic_volatility(parameters, returns).log_transition(
        jnp.float32([0.5, -2.0]), jnp.float32([0.1, -1.0]), jnp.int32(3)
    )
    away = np.array([0.1, -1.0]) - (MU + RHO * (np.array([0.5, -2.0]) - MU))
    exact = -0.5 * (away / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_m, exact, rtol=1e-5)
