"""A reference model that is not Gaussian: stochastic volatility, exact by quadrature on a grid.

    x_0 ~ N(mu, sigma^2 / (1 - rho^2))    x_t = mu + rho (x_t-1 - mu) + sigma N(0, 1)
    y_t ~ N(0, exp(x_t))

References: Kim, Shephard and Chib (1998), Stochastic volatility, section 1; Kitagawa (1987),
Non-Gaussian state-space modeling, for the grid. The exact function takes one series, in the
precision of its arguments. Knows nothing of learning.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Key

from pfjax.smc._axes import split_in_two
from pfjax.smc.state_space import state_space
from pfjax.smc.types import FeynmanKac


class StochasticVolatility(NamedTuple):
    """Mean of the log-variance, its autocorrelation (|rho| < 1), and its noise (sigma > 0)."""

    mu: Float[Array, ""]
    rho: Float[Array, ""]
    sigma: Float[Array, ""]


def stochastic_volatility(
    parameters: StochasticVolatility, returns: Float[Array, "steps"]
) -> FeynmanKac:
    """The bootstrap model; a particle is the log-variance x_t.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> parameters = smc.StochasticVolatility(*jnp.array([-1.0, 0.9, 0.3]))
    >>> returns = smc.simulate_returns(jax.random.key(1), parameters, 20)
    >>> model = smc.stochastic_volatility(parameters, returns)
    >>> state, _ = smc.run(jax.random.key(0), smc.particle_filter(model, 4096), 20)
    >>> exact, _, _ = smc.quadrature_filter(parameters, returns)
    >>> bool(abs(state.log_evidence - exact[-1]) < 0.1)
    True
    """
    mu, rho, sigma = parameters

    def normal(key: Key[Array, ""]) -> Float[Array, ""]:
        return jax.random.normal(key, dtype=returns.dtype)

    return state_space(
        initial=lambda key: mu + _spread(parameters) * normal(key),
        transition=lambda key, x, t: mu + rho * (x - mu) + sigma * normal(key),
        log_observation=lambda x, y, t: norm.logpdf(y, 0.0, jnp.exp(x / 2)),
        observations=returns,
        log_transition=lambda x_prev, x, t: norm.logpdf(x, mu + rho * (x_prev - mu), sigma),
    )


def simulate_returns(
    key: Key[Array, ""], parameters: StochasticVolatility, num_steps: int
) -> Float[Array, "num_steps"]:
    """Returns y_0, ..., y_T drawn from the model."""
    mu, rho, sigma = parameters
    k_state, k_return = split_in_two(key)
    shocks = jax.random.normal(k_state, (num_steps,), mu.dtype)

    def step(
        x: Float[Array, ""], shock: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        x = mu + rho * (x - mu) + sigma * shock
        return x, x

    first = mu + _spread(parameters) * shocks[0]
    rest = jax.lax.scan(step, first, shocks[1:])[1]
    x = jnp.concatenate([first[None], rest])
    return jnp.exp(x / 2) * jax.random.normal(k_return, (num_steps,), mu.dtype)


def quadrature_filter(
    parameters: StochasticVolatility, returns: Float[Array, "steps"], num_nodes: int = 1001
) -> tuple[Float[Array, "steps"], Float[Array, "steps"], Float[Array, "steps"]]:
    """log p(y_0:t), and the mean and variance of x_t given y_0:t, for every t.

    The trapezoid rule over mu +- 10 stationary standard deviations: exact to rounding once the
    nodes are closer than sigma / 2.

    >>> parameters = StochasticVolatility(*jnp.array([0.0, 0.5, 1e-3]))
    >>> y = jnp.array([0.5, -2.0])
    >>> constant = norm.logpdf(y).sum()
    >>> bool(abs(quadrature_filter(parameters, y, 2001)[0][-1] - constant) < 1e-4)
    True
    """
    mu, rho, sigma = parameters
    width = 10 * _spread(parameters)
    x = mu + width * jnp.linspace(-1, 1, num_nodes, dtype=mu.dtype)
    step_size = 2 * width / (num_nodes - 1)
    kernel = jnp.exp(norm.logpdf(x[None], mu + rho * (x - mu)[:, None], sigma)) * step_size
    first = jnp.exp(norm.logpdf(x, mu, _spread(parameters))) * step_size

    def step(
        ahead: Float[Array, "nodes"], y: Float[Array, ""]
    ) -> tuple[Float[Array, "nodes"], tuple[Float[Array, ""], ...]]:
        joint = ahead * jnp.exp(norm.logpdf(y, 0.0, jnp.exp(x / 2)))
        total = jnp.sum(joint)
        p = joint / total
        mean = jnp.sum(p * x)
        return p @ kernel, (jnp.log(total), mean, jnp.sum(p * (x - mean) ** 2))

    increments, mean, variance = jax.lax.scan(step, first, returns)[1]
    return jnp.cumsum(increments), mean, variance


def _spread(parameters: StochasticVolatility) -> Float[Array, ""]:
    """The stationary standard deviation."""
    return parameters.sigma / jnp.sqrt(1 - parameters.rho**2)
