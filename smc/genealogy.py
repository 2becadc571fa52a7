"""Who descends from whom, from the stacked ancestors of a run.

    B_T-1 = arange    B_t-1 = A_t[B_t]        (slots of the ancestors of the last generation)
    E_0 = arange      E_t = E_t-1[A_t]        (slots of the eves, the ancestors in generation 0)

References: Jacob, Murray and Rubenthaler (2015), Path storage in the particle filter; Lee and
Whiteley (2018), Variance estimation in the particle filter, section 2, for the eves.
Row 0 of the ancestors has no parents and is not read. Knows nothing of weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_ancestors


def ancestral_lineage(ancestors: Int[Array, "steps *batch n"]) -> Int[Array, "steps *batch n"]:
    """Slot, in each generation, of the ancestor of each particle of the last generation.

    >>> import jax.numpy as jnp
    >>> ancestral_lineage(jnp.array([[0, 1, 2], [2, 1, 1], [0, 0, 1]])).tolist()
    [[2, 2, 1], [0, 0, 1], [0, 1, 2]]
    """
    require_ancestors(ancestors)
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

    lineage = ancestral_lineage(ancestors)
    return vmap_axes(mark, lineage.ndim - 1)(lineage)


def unique_ancestors(ancestors: Int[Array, "steps *batch n"]) -> Int[Array, "steps *batch"]:
    """How many particles of each generation have a descendant in the last one.

    >>> import jax.numpy as jnp
    >>> unique_ancestors(jnp.array([[0, 1, 2], [2, 1, 1], [0, 0, 1]])).tolist()
    [2, 2, 3]
    """
    return jnp.sum(alive(ancestors), axis=-1, dtype=jnp.int32)


def eve_indices(ancestors: Int[Array, "steps *batch n"]) -> Int[Array, "steps *batch n"]:
    """Slot in generation 0 of the ancestor of each particle of each generation.

    >>> import jax.numpy as jnp
    >>> eve_indices(jnp.array([[0, 1, 2], [2, 1, 1], [0, 0, 1]])).tolist()
    [[0, 1, 2], [2, 1, 1], [2, 2, 1]]
    """
    require_ancestors(ancestors)
    first = jnp.broadcast_to(
        jnp.arange(ancestors.shape[-1], dtype=ancestors.dtype), ancestors.shape[1:]
    )

    def children(
        eves: Int[Array, "*batch n"], parent_of: Int[Array, "*batch n"]
    ) -> tuple[Int[Array, "*batch n"], Int[Array, "*batch n"]]:
        eves = jnp.take_along_axis(eves, parent_of, axis=-1)
        return eves, eves

    later = jax.lax.scan(children, first, ancestors[1:])[1]
    return jnp.concatenate([first[None], later])


def trajectories(
    particles: PyTree[Array], ancestors: Int[Array, "steps *batch n"]
) -> PyTree[Array]:
    """The path that led to each particle of the last generation, from the collected particles.

    Leaves of `particles` have leading axes `steps *batch n`, as stacked by `run`; row t of the
    result holds, in slot j, the generation-t ancestor of particle j of the last generation.

    >>> import jax.numpy as jnp
    >>> trajectories(jnp.array([[5, 6], [7, 8]]), jnp.array([[0, 1], [1, 1]])).tolist()
    [[6, 6], [7, 8]]
    """
    lineage = ancestral_lineage(ancestors)
    take = vmap_axes(lambda rows, slots: rows[slots], lineage.ndim - 1)
    return jax.tree.map(lambda leaf: take(leaf, lineage), particles)
