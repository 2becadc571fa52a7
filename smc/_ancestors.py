"""From cumulative counts to ancestors, and what a plain scheme leaves of the weights.

    A_j = number of particles whose copies end at or before slot j

Knows nothing of how the counts were drawn. One problem at a time (callers vmap).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_axes
from pfjax.smc._fixed_point import cumulative_copies, exact_prefix_sum, stored
from pfjax.smc.weights import usable


def ancestors_from_ends(end: Int[Array, "m"], n: int) -> Int[Array, "n"]:
    """Particle i fills the slots from end[i - 1] up to end[i]; sorted, and end[-1] is n.

    >>> ancestors_from_ends(jnp.array([0, 2, 2, 3]), 3).tolist()
    [1, 1, 3]
    """
    ended = jnp.zeros(n, jnp.int32).at[end].add(1, mode="drop")
    return exact_prefix_sum(ended)


def independent_draws(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    """n independent draws from the normalised weights, unsorted; n where all are dead.

    The distribution function has 2^31 levels, and is flat across dead particles.
    """
    whole, part = cumulative_copies(log_w, 2**23)
    # The last level below each value: -1 for a value of 0, and 2^31 - 1 for one of 2^23.
    last_level = (whole << 8 | (part >> 24).astype(jnp.int32)) - 1
    level = (jax.random.bits(key, (n,), jnp.uint32) >> 1).astype(jnp.int32)
    return _first_at_least(stored(last_level), stored(level))


def _first_at_least(table: Int[Array, "m"], x: Int[Array, "n"]) -> Int[Array, "n"]:
    """Bisection, as `jnp.searchsorted`, which does not trace on an explicit mesh (jax 0.10)."""
    m = table.shape[0]
    found = jnp.zeros_like(x)
    for k in reversed(range(m.bit_length())):
        further = found + 2**k
        is_below = (further <= m) & (table.at[further - 1].get(mode="clip") < x)
        found = jnp.where(is_below, further, found)
    return found


def plainly(
    rows_of: Callable[[Key[Array, ""], Float[Array, "n"], int], Int[Array, "n"]],
    key: Key[Array, "*batch"],
    log_w: Float[Array, "*batch n"],
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """A plain scheme as a `Resampler`: as many rows as there were, every copy left 1/N."""

    def one(
        key: Key[Array, ""], log_w: Float[Array, "n"]
    ) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
        return equally_weighted(rows_of(key, log_w, log_w.shape[0]), log_w)

    require_axes(key, log_w)
    return vmap_axes(one, key.ndim)(key, usable(log_w))


def equally_weighted(
    ancestors: Int[Array, "n"], log_w: Float[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    """The result of a scheme with E[copies] = N W: each copy is left 1/N; rows stay if all are dead."""
    n = log_w.shape[0]
    alive = jnp.any(~jnp.isneginf(log_w))
    ancestors = jnp.where(alive, ancestors, jnp.arange(n, dtype=jnp.int32))
    # Written with log_w, so that an explicit mesh sees the axes of log_w.
    left = jnp.where(alive, jnp.where(log_w == log_w, -jnp.log(jnp.float32(n)), log_w), -jnp.inf)
    return ancestors, left, alive
