"""Systematic choice of n of m weighted candidates: n copies in all, m and n may differ.

    A = ancestors of the n teeth (u + j)/n of a comb        |copies of i - n W_i| < 1

Reference: Carpenter, Clifford and Fearnhead (1999), Improved particle filter for nonlinear problems.
Target: leaves that of the weighted candidates unchanged (unbiased). Unlike `optimal` it leaves equal
weights and may repeat a candidate. Knows nothing of particles.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import ancestors_from_ends
from pfjax.smc._axes import vmap_axes
from pfjax.smc._fixed_point import expected_copies, running_copies
from pfjax.smc.types import Resampler


def systematic_choice(n: int) -> Resampler:
    """n rows of the m that `log_w` has, each left the weight 1/n; for m = n it is `systematic`.

    With all dead it takes the first n rows, or the last one again where there are fewer. Raises
    `ValueError` for n < 1.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.5, 0.0, 0.5]))
    >>> rows, left, _ = systematic_choice(2)(jax.random.key(0), log_w, jnp.int32(1))
    >>> rows.tolist(), jnp.exp(left).tolist()
    ([1, 3], [0.5, 0.5])
    """
    if n < 1:
        raise ValueError(f"n: got {n} rows to choose, want at least 1")

    def choose(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch m"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        del t
        return vmap_axes(lambda k, w: _systematic(k, w, n), key.ndim)(key, log_w)

    return choose


def _systematic(
    key: Key[Array, ""], log_w: Float[Array, "m"], n: int
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    whole, part = running_copies(*expected_copies(log_w, n))
    end = whole + (jax.random.bits(key) < part).astype(jnp.int32)
    alive = jnp.any(~jnp.isneginf(log_w))
    first = jnp.minimum(jnp.arange(n, dtype=jnp.int32), log_w.shape[0] - 1)
    rows = jnp.where(alive, ancestors_from_ends(end, n), first)
    left = jnp.where(alive, -jnp.log(jnp.float32(n)), -jnp.inf)
    # Written with the rows, so that an explicit mesh sees their axes.
    return rows, jnp.where(rows == rows, left, 0.0), alive
