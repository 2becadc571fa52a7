"""Arithmetic on log-weights in which a dead particle (-inf) is a legal value and NaN never appears.

    log_ratio(-inf, -inf) = -inf        (a particle that was dead stays dead)
    ESS = (sum_i W_i)^2 / sum_i W_i^2   (0 if all are dead)
    usable(NaN) = usable(+inf) = -inf   (where log-weights come from outside)

Reference: Kong, Liu and Wong (1994), Sequential imputations and Bayesian missing data problems.
Gradients are finite too. Knows nothing of particles or resampling; +inf and NaN are not weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def prefix_sum(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Running sum over the last axis, with bits that do not depend on the axes in front."""
    return jnp.cumsum(x, axis=-1)


def total(x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Sum over the last axis by halving: ((x_0 + x_h) + ...), the order a function of n alone.

    `jnp.sum` has no such order: on a CPU, from 256 numbers on, the bits of one problem depend on
    how many others are in the batch, hence on the number of devices (measured, jax 0.10).
    """
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        odd = x[..., 2 * half :]
        x = x[..., :half] + x[..., half : 2 * half]
        x = jnp.concatenate([x, odd], axis=-1) if odd.shape[-1] else x
    return x[..., 0]


def log_sum_exp(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """log sum_i exp(log_w_i) over the last axis; -inf if all are -inf.

    >>> import jax.numpy as jnp
    >>> float(log_sum_exp(jnp.full(3, -jnp.inf)))
    -inf
    """
    log_w, peak = _below_zero(log_w)
    log_mass = _log_mass(log_w)
    return jnp.where(jnp.isneginf(log_mass), -jnp.inf, log_mass + peak)


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
    >>> jnp.exp(normalise(jnp.log(jnp.array([1.0, 3.0, 0.0])))).round(6).tolist()
    [0.25, 0.75, 0.0]
    """
    # Less the peak first: far from 0 a sum of rounded exponents is not 1.
    log_w, _ = _below_zero(log_w)
    return log_ratio(log_w, _log_mass(log_w)[..., None])


def usable(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """The log-weights, with -inf for NaN and +inf, which are not weights.

    >>> import jax.numpy as jnp
    >>> usable(jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf])).tolist()
    [0.0, -inf, -inf, -inf]
    """
    return jnp.where(log_w < jnp.inf, log_w, -jnp.inf)


def effective_sample_size(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """ESS of log-weights that need not be normalised: between 1 and n, or 0 if all are dead.

    >>> import jax.numpy as jnp
    >>> float(effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf])))
    2.0
    """
    squares = total(jnp.exp(2 * normalise(log_w)))
    alive = squares > 0
    return jnp.where(alive, 1 / jnp.where(alive, squares, 1.0), 0.0)


def conditional_ess(
    log_w: Float[Array, "*batch n"], log_g: Float[Array, "*batch n"]
) -> Float[Array, "*batch"]:
    """N (sum_i W_i g_i)^2 / sum_i W_i g_i^2: how evenly g weighs particles that have weights W.

    Between 0 and n; n where g is constant on the live particles, whatever W is; 0 if all are dead.
    It is the ESS of one step, for the next temperature of a sampler. `log_w` is what was there
    *before* g, so it is no `Criterion`: that sees only W g (Zhou, Johansen and Aston 2016, eq. 3.14).

    >>> import jax.numpy as jnp
    >>> float(conditional_ess(jnp.log(jnp.array([0.2, 0.8])), jnp.array([1.5, 1.5])))
    2.0
    """
    log_w = normalise(log_w)
    # A factor of g changes nothing, and large sums would cancel.
    log_g, _ = _below_zero(jnp.where(jnp.isneginf(log_w), -jnp.inf, log_g))
    first, second = log_sum_exp(log_w + log_g), log_sum_exp(log_w + 2 * log_g)
    return log_w.shape[-1] * jnp.exp(log_ratio(2 * first, second))


def dtype_of(*numbers: Float[Array, "..."]) -> jnp.dtype:
    """float64 if one of them is, and not just for being a Python number; else float32."""
    double = [x.dtype == jnp.float64 and not jax.typeof(x).weak_type for x in numbers]
    return jnp.dtype(jnp.float64 if any(double) else jnp.float32)


def add_exactly(
    total: Float[Array, "*batch"], error: Float[Array, "*batch"], *terms: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The sum of all, as the nearest number and what is left of it (Knuth's two-sum, twice as exact).

    >>> one, small = jnp.float32(1), jnp.float32(1e-9)
    >>> [float(x) for x in add_exactly(one, small, -one)]
    [9.999999717180685e-10, 0.0]
    """
    for x in terms:
        # The barrier: XLA adds constants to one another first, (a + c) + d = a + (c + d).
        old, x = jax.lax.optimization_barrier((total.astype(x.dtype), x))
        total = old + x
        error = error.astype(x.dtype) + _rounding(old, x, total)
    old, error = total, jax.lax.stop_gradient(error)
    total = old + error
    return total, _rounding(old, error, total)


def _rounding(
    a: Float[Array, "*batch"], b: Float[Array, "*batch"], rounded: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """a + b - rounded, exactly; 0 if that is not finite."""
    a, b, rounded = jax.lax.stop_gradient((a, b, rounded))
    part = rounded - a
    error = (a - (rounded - part)) + (b - part)
    return jnp.where(jnp.isfinite(rounded), error, 0.0)


def _below_zero(log_w: Float[Array, "*batch n"]) -> tuple[Array, Float[Array, "*batch"]]:
    """The log-weights less their peak, and the peak; 0 if all are -inf."""
    peak = jax.lax.stop_gradient(jnp.max(log_w, axis=-1))
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return log_w - peak[..., None], peak


def _log_mass(log_w: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    mass = total(jnp.exp(log_w))
    alive = mass > 0
    return jnp.where(alive, jnp.log(jnp.where(alive, mass, 1.0)), -jnp.inf)
