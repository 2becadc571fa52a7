"""Resampling policies under the names of the papers that published them.

    paper      A ~ Multinomial(W)                        every step
    entropic   A ~ W^(1/tau_t), systematic               every step, tau_t > 1 early and when uneven
    steer      n of m candidates without replacement     every step
    rebase     copies = round(n W^(1/T) / sum)           every step

References are with each policy. `paper`, `unbiased_entropic` and `steer` leave the target of the
weighted particles unchanged; `entropic` and `rebase` are as published and have none. Knows nothing
of particles, rewards or of which potential made the weights.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import ancestors_from_ends, equally_weighted
from pfjax.smc._axes import vmap_axes
from pfjax.smc._fixed_point import exact_prefix_sum
from pfjax.smc.annealed import Schedule, annealed
from pfjax.smc.optimal import optimal
from pfjax.smc.resampling import multinomial, systematic
from pfjax.smc.types import Resampler
from pfjax.smc.weights import effective_sample_size, normalise, total, usable

paper: Resampler = multinomial
"""Multinomial at every step: Puri et al. (2025), arXiv 2502.01618, algorithm 1. Unbiased."""


def ess_annealing(horizon: int, *, below: float = 0.5, until: float = 0.5) -> Schedule:
    """tau = max(1, (N / ESS) (1 - s)), s = t / horizon, while ESS < below * N and s < until; else 1.

    Giannone et al. (2025), arXiv 2510.05825, the ESS form of entropic annealing (their default).
    Raises `ValueError` for horizon < 1.

    >>> log_w = jnp.log(jnp.array([1.0, 0.0, 0.0, 0.0]))
    >>> [float(ess_annealing(10)(log_w, jnp.int32(t))) for t in (0, 2, 5)]
    [4.0, 3.200000047683716, 1.0]
    """

    def temperature(log_w: Float[Array, "*batch n"], s: Float[Array, "*batch"]) -> Array:
        return log_w.shape[-1] / effective_sample_size(log_w) * (1 - s)

    return _early(temperature, horizon, below, until)


def entropy_annealing(horizon: int, *, below: float = 0.5, until: float = 0.5) -> Schedule:
    """tau = max(1, 1 / (H + (1 - H) s)), H = -sum_i W_i log W_i / log N; when, as `ess_annealing`.

    Giannone et al. (2025), arXiv 2510.05825, the entropy form.

    >>> log_w = jnp.log(jnp.array([1.0, 0.0, 0.0, 0.0]))
    >>> [float(entropy_annealing(10)(log_w, jnp.int32(t))) for t in (1, 2, 5)]
    [10.0, 5.0, 1.0]
    """

    def temperature(log_w: Float[Array, "*batch n"], s: Float[Array, "*batch"]) -> Array:
        alive = ~jnp.isneginf(log_w)
        terms = jnp.where(alive, jnp.exp(log_w) * jnp.where(alive, log_w, 0.0), 0.0)
        entropy = -total(terms) / jnp.log(jnp.float32(max(log_w.shape[-1], 2)))
        return 1 / (entropy + (1 - entropy) * s)

    return _early(temperature, horizon, below, until)


def linear_annealing(horizon: int, *, below: float = 0.5, until: float = 0.5) -> Schedule:
    """tau = 2 - s, s = t / horizon; when, as `ess_annealing`.

    Giannone et al. (2025), arXiv 2510.05825, the base form.

    >>> log_w = jnp.log(jnp.array([1.0, 0.0, 0.0, 0.0]))
    >>> [float(linear_annealing(8)(log_w, jnp.int32(t))) for t in (0, 2, 4)]
    [2.0, 1.75, 1.0]
    """
    return _early(lambda log_w, s: 2 - s, horizon, below, until)


def entropic(horizon: int, schedule: Schedule | None = None) -> Resampler:
    """The entropic particle filter as published (arXiv 2510.05825): annealed, then weights forgotten.

    Systematic at every step on W^(1/tau), every copy left 1/N. Target: none, since what annealing
    takes from the weights is lost. `schedule` is `ess_annealing(horizon)` unless given.

    >>> log_w = jnp.log(jnp.array([0.64, 0.36]))
    >>> _, left, _ = entropic(8)(jax.random.key(0), log_w, jnp.int32(1))
    >>> jnp.exp(left).tolist()
    [0.5, 0.5]
    """
    resampler = annealed(schedule or ess_annealing(horizon), systematic)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        ancestors, left, resampled = resampler(key, log_w, t)
        equal = jnp.where(jnp.isneginf(left), left, -jnp.log(jnp.float32(left.shape[-1])))
        return ancestors, equal, resampled

    return resample


def unbiased_entropic(horizon: int, schedule: Schedule | None = None) -> Resampler:
    """The ancestors of `entropic`, with what annealing leaves carried in the weights: unbiased.

    >>> log_w = jnp.log(jnp.array([0.9, 0.1, 0.0, 0.0]))
    >>> _, left, _ = unbiased_entropic(8)(jax.random.key(0), log_w, jnp.int32(1))
    >>> bool(jnp.ptp(left) > 0)
    True
    """
    return annealed(schedule or ess_annealing(horizon), systematic)


def steer(n: int) -> Resampler:
    """Keeps n of m candidates, without replacement, at every step: Lew et al. (2023), section 3.

    arXiv 2306.03081, "sequential Monte Carlo steering": each of n particles is expanded into m / n
    candidates, which share its weight. The same resampler as `optimal(n)`; unbiased.

    >>> log_w = jnp.log(jnp.array([0.0, 0.5, 0.5, 0.0]))
    >>> steer(2)(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 2]
    """
    return optimal(n)


def rebase(temperature: float = 1.0) -> Resampler:
    """The rounding of REBASE (Wu et al. 2024, arXiv 2408.00724), deterministic. Target: none.

    In the paper copies = round(n p), p = W^(1/T) / sum; that need not add up to n, so their program
    walks down the sorted p: copies_i = ceil(slots left * p_i / sum of the p not yet served), which
    is what is done here, one particle after the other. With potentials exp(v), T is their T_b.
    Raises `ValueError` for temperature <= 0.

    >>> log_w = jnp.log(jnp.array([0.1, 0.5, 0.3, 0.1]))
    >>> rebase()(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 1, 2, 2]
    """
    if temperature <= 0:
        raise ValueError(f"temperature: got {temperature}, want a number above 0")

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        del t
        return vmap_axes(_rounded, key.ndim)(normalise(usable(log_w) / temperature))

    return resample


def _rounded(
    log_p: Float[Array, "n"],
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    n = log_p.shape[0]
    best_first = jnp.argsort(-log_p)
    p = jnp.exp(jax.lax.stop_gradient(log_p))[best_first]
    unserved = jnp.cumsum(p[::-1])[::-1]

    def serve(
        slots_left: Float[Array, ""], here: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        # A share that is an integer, but for float32, is not rounded up.
        share = slots_left * here[0] / jnp.maximum(here[1], jnp.finfo(jnp.float32).tiny)
        copies = jnp.ceil(share * (1 - 1e-5))
        return slots_left - copies, copies

    slots_left, copies = jax.lax.scan(serve, jnp.sum(p) * 0 + n, (p, unserved))
    copies = copies.at[0].add(slots_left).astype(jnp.int32)
    end = exact_prefix_sum(jnp.zeros(n, jnp.int32).at[best_first].set(copies))
    return equally_weighted(ancestors_from_ends(end, n), log_p)


def _early(
    temperature: Callable[[Float[Array, "*batch n"], Float[Array, "*batch"]], Array],
    horizon: int,
    below: float,
    until: float,
) -> Schedule:
    """The temperature, at least 1, while ESS < below * N and t / horizon < until; 1 otherwise."""
    if horizon < 1:
        raise ValueError(f"horizon: got {horizon} generations, want at least 1")

    def schedule(
        log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        s = t.astype(jnp.float32) / horizon
        uneven = effective_sample_size(log_w) < below * log_w.shape[-1]
        return jnp.where(uneven & (s < until), jnp.maximum(temperature(log_w, s), 1.0), 1.0)

    return schedule
