"""Persistent sampling: particles of all earlier temperatures stay, weighed against their mixture.

    x_t ~ K_t-1(., .) from n of the n t rows before, chosen by W_t-1     K_t-1 leaves gamma_t-1 invariant
    w_t(x) = L(x)^lambda_t / q_t(x)     q_t(x) = (1 + sum_{s<t} L(x)^lambda_s / Z_s) / (t + 1)
    Z_t = mean of w_t over the n (t + 1) rows that there are             gamma_t = prior L^lambda_t

Reference: Karamanis and Seljak (2024), Persistent sampling: enhancing the efficiency of sequential
Monte Carlo, equations 14 to 16 and algorithm 1; generation t here weighs for its temperature t + 1.
Knows nothing of kernels. The number of generations is bounded, so that shapes are static.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, select, split_in_two, vmap_axes
from pfjax.smc._checks import require_count, require_function
from pfjax.smc.choice import choice
from pfjax.smc.kernels import Kernel
from pfjax.smc.particle_filter import gather
from pfjax.smc.resampling import systematic
from pfjax.smc.samplers import (
    NextTemperature,
    Posterior,
    Rejuvenate,
    Tempered,
    log_power,
    move,
    resample_move,
    sampler,
)
from pfjax.smc.tempering import at_posterior, ess_after, farthest, read_schedule
from pfjax.smc.types import Algorithm, Horizon, Info, Resampler, State, bounded
from pfjax.smc.weights import log_ratio, usable


class Persistent(NamedTuple):
    """The particles of every generation, n rows each; the first five fields are those of `Tempered`.

    `drawn_at` is the inverse temperature that a row was moved at (0: from the prior), and
    `drawn_log_evidence` the log Z of that; +inf in rows that are not drawn yet.
    """

    position: PyTree[Array]
    log_prior: Float[Array, "*batch rows"]
    log_likelihood: Float[Array, "*batch rows"]
    inverse_temperature: Float[Array, "*batch rows"]
    step_size: Float[Array, "*batch rows"]
    drawn_at: Float[Array, "*batch rows"]
    drawn_log_evidence: Float[Array, "*batch rows"]


def persistent_sampling(
    posterior: Posterior,
    n: int,
    schedule: Float[Array, "steps"],
    kernel: Kernel,
    *,
    scheme: Resampler = systematic,
) -> Algorithm:
    """n particles more at every inverse temperature schedule[t]; n * steps rows, dead until drawn.

    Target: prior(x) L(x)^schedule[t], by all weighted rows, consistently in n. The evidence is biased
    at finite n (by O(1 / n)), even with a fixed schedule, as the mixture holds estimates of Z;
    `tempering` is unbiased. The prior must be one that `sample_prior` draws from; `log_prior` may lack
    its constant. `ancestors` are rows among all; `ess` may be above n. Raises `ValueError` for n < 1
    or a schedule that is no vector; `run` does for another number of generations than temperatures.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> normal = jax.scipy.stats.norm
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda x: normal.logpdf(x),
    ...     log_likelihood=lambda x: normal.logpdf(1.5, x, 0.5),
    ... )
    >>> schedule = jnp.array([0.1, 0.4, 1.0])
    >>> algorithm = smc.persistent_sampling(posterior, 500, schedule, smc.random_walk(0.5))
    >>> state, infos = smc.run(jax.random.key(0), algorithm, 3)
    >>> state.log_weights.shape, bool(infos.ess[2] > 500)
    ((1500,), True)
    >>> bool(jnp.abs(state.log_evidence - normal.logpdf(1.5, 0.0, 1.25**0.5)) < 0.1)
    True
    """
    next_temperature, length = read_schedule(schedule)
    because = f"the schedule has {length} temperatures"
    algorithm = _sampler(posterior, n, length, next_temperature, kernel, scheme)
    return bounded(algorithm, Horizon(length, length, because, reads_evidence=True))


def adaptive_persistent_sampling(
    posterior: Posterior,
    n: int,
    kernel: Kernel,
    *,
    max_steps: int,
    target: float = 3.0,
    scheme: Resampler = systematic,
) -> Algorithm:
    """As far in every generation as the ESS of all rows stays above `target` * n.

    Where it is below already the temperature stays, and n particles are added. Target: as that of
    `persistent_sampling`, with temperatures that depend on the particles: consistent, and the
    evidence biased at finite n. `at_posterior` ends the run, after at most max_steps generations,
    which is also how often n rows are kept. Raises `ValueError` for n or max_steps < 1, or for a
    target that is not positive or that max_steps * n rows cannot have.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda x: -0.5 * x**2,
    ...     log_likelihood=lambda x: -20.0 * (x - 1.5) ** 2,
    ... )
    >>> algorithm = smc.adaptive_persistent_sampling(
    ...     posterior, 200, smc.random_walk(0.5), max_steps=30
    ... )
    >>> state, infos = smc.run_until(jax.random.key(0), algorithm, smc.at_posterior, 30)
    >>> float(state.particles.inverse_temperature[0]), bool(infos.ess[-1] >= 600)
    (1.0, True)
    """
    max_steps = require_count("max_steps", max_steps)
    if not 0 < target < max_steps:
        raise ValueError(f"target: got {target}, want a number between 0 and max_steps {max_steps}")

    def next_temperature(
        log_w: Float[Array, "*batch rows"], x: Tempered, t: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        def solve(
            log_w: Float[Array, "rows"], log_l: Float[Array, "rows"], start: Float[Array, ""]
        ) -> Float[Array, ""]:
            return farthest(ess_after, jnp.float32(target * n), log_w, log_l, start)

        return vmap_axes(solve, t.ndim)(log_w, x.log_likelihood, x.inverse_temperature[..., 0])

    algorithm = _sampler(posterior, n, max_steps, next_temperature, kernel, scheme)
    because = f"its temperatures come from its particles, and it has rows for {max_steps} of them"
    return bounded(algorithm, Horizon(1, max_steps, because, at_posterior, reads_evidence=True))


def _sampler(
    posterior: Posterior,
    n: int,
    length: int,
    next_temperature: NextTemperature,
    kernel: Kernel,
    scheme: Resampler,
) -> Algorithm:
    n = require_count("n", n)
    require_function("kernel", kernel, "key, x, log_density", "such as smc.random_walk(0.5)")
    # A plain scheme: what it leaves is equal, and needs no weight of its own in the mixture.
    resampler = choice(n, scheme)
    # Generation 0 is that of any sampler; then rows are added that are not drawn yet.
    first = sampler(posterior, n, next_temperature, resample_move(kernel, resampler))
    later = sampler(posterior, n, next_temperature, _add(kernel, n, resampler))

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        state, info = first.init(key)
        axes = key.ndim

        def tiled(leaf: Array) -> Array:
            return jnp.concatenate([leaf] * length)

        def then(leaf: Array, fill: float) -> Array:
            rest = jnp.full((*leaf.shape[:-1], n * (length - 1)), fill, leaf.dtype)
            return jnp.concatenate([leaf, rest], axis=-1)

        zeros = jnp.zeros_like(state.particles.inverse_temperature)
        x = jax.tree.map(vmap_axes(tiled, axes), state.particles)
        drawn = {"drawn_at": then(zeros, 0.0), "drawn_log_evidence": then(zeros, jnp.inf)}
        x = Persistent(**x._asdict(), **drawn)
        stay = jnp.broadcast_to(jnp.arange(n * length, dtype=jnp.int32), x.drawn_at.shape)
        log_w = then(state.log_weights, -jnp.inf)
        return state._replace(particles=x, log_weights=log_w), info._replace(ancestors=stay)

    return Algorithm(init, later.step)


def _add(kernel: Kernel, n: int, resampler: Resampler) -> Rejuvenate:
    """Chooses n rows, moves them into rows of their own, and weighs all at the temperature as it is."""

    def rejuvenate(
        key: Key[Array, "*batch"], state: State, posterior: Posterior
    ) -> tuple[State, Int[Array, "*batch rows"], Bool[Array, "*batch"], PyTree[Array]]:
        x: Persistent = state.particles
        k_choose, k_move = split_in_two(key)
        chosen, _, resampled = resampler(k_choose, state.log_weights, state.t)
        keys = particle_keys(k_move, n)
        rows = gather(Tempered(*x[: len(Tempered._fields)]), chosen)
        rows, told = vmap_axes(lambda k, row: move(kernel, posterior, k, row), keys.ndim)(
            keys, rows
        )
        at = jnp.broadcast_to(state.log_evidence[..., None], chosen.shape)
        drawn = {"drawn_at": rows.inverse_temperature, "drawn_log_evidence": at.astype(jnp.float32)}
        new = Persistent(**rows._asdict(), **drawn)

        def put(old: Array, new: Array, t: Int[Array, ""]) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, t * n, 0)

        place = vmap_axes(put, key.ndim)
        # Without a live particle nothing is added, and the rows stay.
        alive = ~jnp.isneginf(state.log_evidence)
        stay = jnp.broadcast_to(
            jnp.arange(state.log_weights.shape[-1], dtype=jnp.int32), state.log_weights.shape
        )
        added = jax.tree.map(lambda a, b: place(a, b, state.t), (x, stay), (new, chosen))
        x, ancestors = select(alive, added, (x, stay))
        left = vmap_axes(lambda *a: _weights(n, *a), key.ndim)(x, state.log_evidence)
        return state._replace(particles=x, log_weights=left), ancestors, resampled, told

    return rejuvenate


def _weights(n: int, x: Persistent, log_evidence: Float[Array, ""]) -> Float[Array, "rows"]:
    """L^lambda / (q_t n (t + 1) Z) at the temperature that the rows have."""
    log_l = usable(x.log_likelihood)
    log_evidence = log_evidence.astype(log_l.dtype)

    def add(
        log_q: Float[Array, "rows"], part: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Float[Array, "rows"], None]:
        drawn_at, log_z = part
        return jnp.logaddexp(log_q, log_power(log_l, drawn_at) - log_z), None

    # (t + 1) q_t: one row tells of all n of its generation.
    parts = x.drawn_at[::n], x.drawn_log_evidence[::n].astype(log_l.dtype)
    log_q, _ = jax.lax.scan(add, jnp.full_like(log_l, -jnp.inf), parts)
    log_w = log_ratio(log_power(log_l, x.inverse_temperature), log_q + log_evidence)
    # What is no number has a weight here, so that it is told of when it dies.
    log_w = jnp.where(x.log_likelihood < jnp.inf, log_w, 0.0) - jnp.log(jnp.float32(n))
    return jnp.where(x.drawn_log_evidence < jnp.inf, log_w, -jnp.inf)
