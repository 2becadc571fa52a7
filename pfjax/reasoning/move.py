"""Copying rows of particles after resampling.

In-place ancestors (`smc.in_place`) leave every survivor in its slot, so a row that is overwritten is
nobody's source and rows can be copied one after the other. XLA:CPU gathers large rows at a fraction
of the copy bandwidth, so there only the rows that change are touched; elsewhere one gather is
faster than a loop.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from pfjax import smc
from pfjax.models import cache


def is_cache(node) -> bool:
    """Whether a node of a tree is a key-value cache."""
    return isinstance(node, cache.KV)


def move_in_place(particles: PyTree[Array], ancestors: Int[Array, "p n"]) -> PyTree[Array]:
    """`smc.gather` for ancestors a with a[a] = a."""
    leaves, tree = jax.tree.flatten(particles, is_leaf=is_cache)
    large = [leaf for leaf in leaves if is_cache(leaf)]
    moved = iter(jax.lax.platform_dependent(large, ancestors, cpu=_copy_rows, default=smc.gather))
    rest = iter(smc.gather([leaf for leaf in leaves if not is_cache(leaf)], ancestors))
    return tree.unflatten([next(moved if is_cache(leaf) else rest) for leaf in leaves])


def _copy_rows(tree: PyTree[Array], ancestors: Int[Array, "p n"]) -> PyTree[Array]:
    p, n = ancestors.shape
    slots = jnp.arange(p * n, dtype=jnp.int32)
    source = (ancestors.astype(jnp.int32) + n * jnp.arange(p, dtype=jnp.int32)[:, None]).ravel()
    changed = source != slots
    order = jnp.argsort(~changed, stable=True).astype(jnp.int32)
    flat = jax.tree.map(lambda x: x.reshape(p * n, *x.shape[2:]), tree)

    def copy(i, rows):
        to = order[i]
        put = partial(_put, source=source[to], to=to)
        return jax.tree.map(put, rows)

    flat = jax.lax.fori_loop(0, jnp.sum(changed, dtype=jnp.int32), copy, flat)
    return jax.tree.map(lambda x: x.reshape(p, n, *x.shape[1:]), flat)


def _put(rows: Array, source: Int[Array, ""], to: Int[Array, ""]) -> Array:
    row = jax.lax.dynamic_index_in_dim(rows, source, keepdims=True)
    return jax.lax.dynamic_update_slice_in_dim(rows, row, to, axis=0)
