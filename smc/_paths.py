"""Rows of trees of particles, and paths: one particle per generation, or one that holds its past.

    x_t of a path = leaf[t]            without `model.rewind`: leaves [steps, *batch, ...]
    x_t of a path = rewind(path, t)    with it: leaves [*batch, ...]

Knows nothing of weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc.types import FeynmanKac


def pick(particles: PyTree[Array], slot: Int[Array, "*lead"]) -> PyTree[Array]:
    """Particle `slot` of leaves with axes `*lead n`."""
    take = vmap_axes(lambda rows, i: rows[i], slot.ndim)
    return jax.tree.map(lambda leaf: take(leaf, slot), particles)


def put_first(particles: PyTree[Array], one: PyTree[Array], num_axes: int) -> PyTree[Array]:
    """The particles, behind `num_axes` axes, with `one` in slot 0."""
    put = vmap_axes(lambda rows, row: rows.at[0].set(row), num_axes)
    return jax.tree.map(put, particles, one)


def repeat(one: PyTree[Array], n: int, num_axes: int) -> PyTree[Array]:
    """n particles, all equal to `one`, behind `num_axes` axes."""
    copies = vmap_axes(lambda row: jnp.broadcast_to(row, (n, *row.shape)), num_axes)
    return jax.tree.map(copies, one)


def at(model: FeynmanKac, path: PyTree[Array], t: Int[Array, "*batch"]) -> PyTree[Array]:
    """The particle of generation t of a path, leaves [*batch, ...]."""
    if model.rewind is not None:
        return first(model.rewind(repeat(path, 1, t.ndim), t), t.ndim)
    return pick(jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, t.ndim), path), t)


def first(particles: PyTree[Array], num_axes: int) -> PyTree[Array]:
    """The particle in slot 0, behind `num_axes` axes."""
    return jax.tree.map(vmap_axes(lambda rows: rows[0], num_axes), particles)


def draw_slot(key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """One slot by its weight; slot 0 if all are dead."""
    draw = vmap_axes(jax.random.categorical, key.ndim)
    return draw(key, log_w).astype(jnp.int32)


def lineage(
    ancestors: Int[Array, "steps *batch n"], slot: Int[Array, "*batch"]
) -> Int[Array, "steps *batch"]:
    """The slot in every generation of the ancestor of `slot` of the last one."""

    def parent(
        slot: Int[Array, "*batch"], row: Int[Array, "*batch n"]
    ) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
        return pick(row, slot), slot

    return jax.lax.scan(parent, slot, ancestors, reverse=True)[1]
