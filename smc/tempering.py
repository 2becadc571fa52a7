"""Temperatures of a sampler: given beforehand, or chosen on the way from the weighted particles.

    fixed       lambda_t = schedule[t]
    adaptive    lambda_t = max{lambda <= 1: CESS(lambda) >= fraction N}
    CESS        N (sum_i W_i u_i)^2 / sum_i W_i u_i^2,    u_i = L(x_i)^(lambda - lambda_t-1)

Reference: Zhou, Johansen and Aston (2016), Toward automatic model comparison: an adaptive
sequential Monte Carlo approach, algorithm 4. W are the weights carried from before, not 1/N.
Knows nothing of how particles are moved (`pfjax.smc.samplers`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pfjax.smc._axes import vmap_axes
from pfjax.smc.samplers import Posterior, Rejuvenate, Tempered, log_power, sampler
from pfjax.smc.types import Algorithm, State
from pfjax.smc.weights import conditional_ess

# Halvings of [0, 1]: down to an inverse temperature of 1e-11 with all 24 bits of a float32.
_NUM_HALVINGS = 60


def tempering(
    posterior: Posterior, n: int, schedule: Float[Array, "steps"], rejuvenate: Rejuvenate
) -> Algorithm:
    """A sampler with n particles and the inverse temperature schedule[t] in generation t.

    Target: prior(x) L(x)^schedule[t]; E[exp(log_evidence)] is its integral, the evidence when the
    schedule ends at 1. Afterwards the last temperature stays, and particles are only moved. Any
    order is valid. Raises `ValueError` for an empty schedule or one that is not a vector.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> normal = jax.scipy.stats.norm
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda x: normal.logpdf(x),
    ...     log_likelihood=lambda x: normal.logpdf(1.5, x, 0.5),
    ... )
    >>> algorithm = smc.tempering(
    ...     posterior, 1000, jnp.array([0.1, 0.4, 1.0]), smc.resample_move(smc.random_walk(0.5))
    ... )
    >>> state, _ = jax.jit(lambda key: smc.run(key, algorithm, 3))(jax.random.key(0))
    >>> exact = normal.logpdf(1.5, 0.0, 1.25**0.5)
    >>> bool(jnp.abs(state.log_evidence - exact) < 0.1)
    True
    """
    schedule = jnp.asarray(schedule, jnp.float32)
    if schedule.ndim != 1 or not schedule.size:
        raise ValueError(f"schedule: got shape {schedule.shape}, want a vector of length >= 1")

    def next_temperature(
        log_w: Float[Array, "*batch n"], x: Tempered, t: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        del log_w, x

        def read(i: Int[Array, ""]) -> Float[Array, ""]:
            # Not an index: an explicit mesh would have to be told where the result goes.
            now = jnp.arange(schedule.size, dtype=jnp.int32) == jnp.minimum(i, schedule.size - 1)
            return jnp.sum(jnp.where(now, schedule, 0.0))

        return vmap_axes(read, t.ndim)(t)

    return sampler(posterior, n, next_temperature, rejuvenate)


def adaptive_tempering(
    posterior: Posterior, n: int, rejuvenate: Rejuvenate, *, fraction: float = 0.9
) -> Algorithm:
    """A sampler that goes as far as the conditional ESS stays above `fraction` of n.

    Target: prior(x) L(x)^lambda_t with lambda_t in the particles; consistent, but as lambda_t
    depends on the particles the evidence is biased at finite n: for an unbiased one, run
    `tempering` again with the schedule that was found. `at_posterior` ends the run. With every
    particle dead it ends at once. Raises `ValueError` for a fraction outside (0, 1).

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda x: -0.5 * x**2,
    ...     log_likelihood=lambda x: -20.0 * (x - 1.5) ** 2,
    ... )
    >>> algorithm = smc.adaptive_tempering(posterior, 500, smc.resample_move(smc.random_walk(0.5)))
    >>> state, _ = smc.run_until(jax.random.key(0), algorithm, smc.at_posterior, 50)
    >>> float(state.particles.inverse_temperature[0]), bool(4 < state.t < 30)
    (1.0, True)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, want a number between 0 and 1, such as 0.9")

    def next_temperature(
        log_w: Float[Array, "*batch n"], x: Tempered, t: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        solve = vmap_axes(partial(_farthest, fraction), t.ndim)
        return solve(log_w, x.log_likelihood, x.inverse_temperature[..., 0])

    return sampler(posterior, n, next_temperature, rejuvenate)


def at_posterior(state: State) -> Bool[Array, "*batch"]:
    """Whether a sampler has reached the inverse temperature 1: the `done` of `run_until`."""
    return state.particles.inverse_temperature[..., 0] >= 1


def _farthest(
    fraction: float,
    log_w: Float[Array, "n"],
    log_likelihood: Float[Array, "n"],
    start: Float[Array, ""],
) -> Float[Array, ""]:
    log_w, log_l = jax.lax.stop_gradient((log_w, log_likelihood))
    # Below 0 where there is weight: the ESS is the same, and large sums do not cancel.
    peak = jnp.max(jnp.where(jnp.isneginf(log_w), -jnp.inf, log_l))
    log_l = log_l - jnp.where(jnp.isneginf(peak), 0.0, peak)

    def enough(advance: Float[Array, ""]) -> Bool[Array, ""]:
        ess = conditional_ess(log_w, log_power(log_l, advance))
        return ess >= fraction * log_w.shape[0]

    def halve(
        _: Array, bracket: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        low, high = bracket
        middle = (low + high) / 2
        inside = enough(middle)
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    low, _ = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, (jnp.zeros_like(start), 1 - start))
    dead = jnp.all(jnp.isneginf(log_w + log_l))
    return jnp.where(dead | enough(1 - start), 1.0, start + low)
