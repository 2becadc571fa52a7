"""Who descends from whom, from the stacked ancestors of a run.

    B_T-1 = arange    B_t-1 = A_t[B_t]

Reference: Jacob, Murray and Rubenthaler (2015), Path storage in the particle filter.
Row 0 of the ancestors has no parents and is not read. Knows nothing of weights or particles.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pfjax.smc._axes import vmap_axes


def ancestral_lineage(ancestors: Int[Array, "steps *batch n"]) -> Int[Array, "steps *batch n"]:
    """Slot, in each generation, of the ancestor of each particle of the last generation.

    >>> import jax.numpy as jnp
    >>> ancestral_lineage(jnp.array([[0, 1, 2], [2, 1, 1], [0, 0, 1]])).tolist()
    [[2, 2, 1], [0, 0, 1], [0, 1, 2]]
    """
    last = jnp.broadcast_to(
        jnp.arange(ancestors.shape[-1], dtype=ancestors.dtype), ancestors.shape[1:]
    )

    def parents(
        slots: Int[Array, "*batch n"], parent_of: Int[Array, "*batch n"]
    ) -> tuple[Int[Array, "*batch n"], Int[Array, "*batch n"]]:
        return jnp.take_along_axis(parent_of, slots, axis=-1), slots

    return jax.lax.scan(parents, last, ancestors, reverse=True)[1]


def alive(ancestors: Int[Array, "steps *batch n"]) -> Bool[Array, "steps *batch n"]:
    """Which particles of each generation have a descendant in the last one.

    >>> import jax.numpy as jnp
    >>> alive(jnp.array([[0, 1, 2], [2, 1, 1], [0, 0, 1]])).tolist()
    [[False, True, True], [True, True, False], [True, True, True]]
    """

    def mark(slots: Int[Array, "n"]) -> Bool[Array, "n"]:
        return jnp.zeros_like(slots, bool).at[slots].set(True)

    return vmap_axes(mark, ancestors.ndim - 1)(ancestral_lineage(ancestors))
