"""Weights and caches without a checkpoint: random numbers of the right shapes, made on the device.

Weights and caches are 0.02 times normal, caches in repetitions of 64 K numbers, norms 1. Times do not
depend on the values, but zeros would flatter memory and arithmetic alike.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key, PyTree

from pfjax.plan.weights import Model, weights
from pfjax.reasoning.move import is_cache

_NOISE = 1 << 16


def random_module(model: Model, dtype: str) -> nnx.Module:
    """A decoder or a reward module of the model's shape, made leaf by leaf."""
    graph, state = weights(model, dtype, None, 1)
    flat = []
    for i, (path, leaf) in enumerate(nnx.to_flat_state(state)):
        if path[-1] == "scale":
            flat.append((path, leaf.replace(jnp.ones(leaf.shape, leaf.dtype))))
        else:
            # The device's own generator: threefry takes seconds to compile for every shape.
            key = jax.random.fold_in(jax.random.key(1, impl="rbg"), i)
            flat.append((path, leaf.replace(_normal(key, leaf.shape, dtype))))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def filled(tree: PyTree) -> PyTree[Array]:
    """Abstract arrays made real: caches noise, all else zero."""

    def fill(node):
        if not is_cache(node):
            return jnp.zeros(node.shape, node.dtype)
        dtype = node.k[0].dtype
        noise = 50 * _normal(jax.random.key(6, impl="rbg"), (_NOISE,), dtype)
        return jax.tree.map(lambda leaf: _repeated(noise, leaf.shape), node)

    return jax.tree.map(fill, tree, is_leaf=is_cache)


@partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: str) -> Array:
    """0.02 times normal numbers."""
    return 0.02 * jax.random.normal(key, shape, dtype)


@partial(jax.jit, static_argnums=1)
def _repeated(noise: Array, shape: tuple[int, ...]) -> Array:
    return jnp.tile(noise, -(-prod(shape) // noise.size))[: prod(shape)].reshape(shape)
