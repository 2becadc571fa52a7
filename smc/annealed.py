"""Annealed resampling without bias: ancestors drawn from flattened weights, the rest is carried.

    a_i = W_i^(1/tau) / sum_k W_k^(1/tau)        left-over weight = W_i / (N a_i)

tau = 1 is plain resampling, tau -> infinity draws uniformly and leaves all of the weight.
Reference: Liu (2001), Monte Carlo Strategies in Scientific Computing, section 3.4.4 (resampling with
any probabilities a_i). Target: leaves that of the weighted particles unchanged (unbiased), whatever
the schedule. Knows nothing of particles or of how ancestors are drawn.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_function, require_resampler
from pfjax.smc.types import Resampler, marked_like
from pfjax.smc.weights import log_ratio, normalise, usable


@runtime_checkable
class Schedule(Protocol):
    """The temperature tau >= 1 before generation t, from the normalised log-weights if it likes."""

    def __call__(
        self, log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"], /
    ) -> Float[Array, "*batch"]: ...


def annealed(schedule: Schedule, resampler: Resampler) -> Resampler:
    """Gives `resampler` the weights W^(1/tau) and multiplies what it leaves by W / W^(1/tau).

    A criterion inside (`annealed(s, when(c, r))`) sees the flattened weights, one outside the true
    ones. Works on every resampler of the contract, `optimal` included.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax.smc import systematic
    >>> resample = annealed(lambda log_w, t: jnp.float32(2), systematic)
    >>> log_w = jnp.log(jnp.array([0.64, 0.36]))
    >>> ancestors, left, _ = resample(jax.random.key(0), log_w, jnp.int32(1))
    >>> ancestors.tolist(), [round(x, 4) for x in jnp.exp(left).tolist()]
    ([0, 1], [0.56, 0.42])
    """

    require_function("schedule", schedule, "log_w, t", "such as smc.ess_annealing(horizon)")
    require_resampler(resampler)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch m"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        log_w = usable(log_w)
        tau = jnp.asarray(schedule(log_w, t))[..., None]
        # An infinite temperature makes the live ones equal, but must not make the dead ones NaN.
        log_a = normalise(jnp.where(jnp.isneginf(log_w), -jnp.inf, log_w / tau))
        ancestors, left, resampled = resampler(key, log_a, t)
        ratio = log_ratio(log_w, log_a)
        carried = vmap_axes(lambda rows, index: rows[index], ancestors.ndim - 1)(ratio, ancestors)
        return ancestors, left + carried, resampled

    return marked_like(resampler, resample)
