"""Arithmetic on log-weights in which a dead particle (-inf) is a legal value and NaN never appears.

    log_ratio(-inf, -inf) = -inf        (a particle that was dead stays dead)
    ESS = (sum_i W_i)^2 / sum_i W_i^2   (0 if all are dead)

Reference: Kong, Liu and Wong (1994), Sequential imputations and Bayesian missing data problems.
Gradients are finite too. Knows nothing of particles or resampling; +inf and NaN are not weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def prefix_sum(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Running sum over the last axis, with bits that do not depend on the axes in front.

    `jnp.sum` has no such order: on a CPU, from 256 numbers on, the bits of one problem depend on
    how many others are in the batch, hence on the number of devices (measured, jax 0.10).
    """
    return jnp.cumsum(x, axis=-1)


def log_sum_exp(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """log sum_i exp(log_w_i) over the last axis; -inf if all are -inf.

    >>> import jax.numpy as jnp
    >>> float(log_sum_exp(jnp.full(3, -jnp.inf)))
    -inf
    """
    peak = jax.lax.stop_gradient(jnp.max(log_w, axis=-1))
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    total = prefix_sum(jnp.exp(log_w - peak[..., None]))[..., -1]
    alive = total > 0
    return jnp.where(alive, jnp.log(jnp.where(alive, total, 1.0)) + peak, -jnp.inf)


def log_ratio(
    numerator: Float[Array, "*batch"], denominator: Float[Array, "*#batch"]
) -> Float[Array, "*batch"]:
    """numerator - denominator, where a numerator of -inf gives -inf whatever is below it.

    >>> import jax.numpy as jnp
    >>> float(log_ratio(jnp.float32(-jnp.inf), jnp.float32(-jnp.inf)))
    -inf
    """
    dead = jnp.isneginf(numerator)
    difference = jnp.where(dead, 0.0, numerator) - jnp.where(dead, 0.0, denominator)
    return jnp.where(dead, -jnp.inf, difference)


def normalise(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Log-weights whose log-sum-exp is 0; all -inf stays all -inf.

    >>> import jax.numpy as jnp
    >>> jnp.exp(normalise(jnp.log(jnp.array([1.0, 3.0, 0.0])))).tolist()
    [0.25, 0.75, 0.0]
    """
    return log_ratio(log_w, log_sum_exp(log_w)[..., None])


def effective_sample_size(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """ESS of log-weights that need not be normalised: between 1 and n, or 0 if all are dead.

    >>> import jax.numpy as jnp
    >>> float(effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf])))
    2.0
    """
    squares = prefix_sum(jnp.exp(2 * normalise(log_w)))[..., -1]
    alive = squares > 0
    return jnp.where(alive, 1 / jnp.where(alive, squares, 1.0), 0.0)
