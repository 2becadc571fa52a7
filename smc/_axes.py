"""Leading axes: independent problems, one key each, and one key per particle.

    key of particle i = fold_in(key of the problem, i)

Knows nothing of weights, models or devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree, Shaped


def vmap_axes(function: Callable, num_axes: int) -> Callable:
    """`function` mapped over the first `num_axes` axes of every argument."""
    for _ in range(num_axes):
        function = jax.vmap(function)
    return function


def require_typed(key: Key[Array, "*batch"]) -> None:
    """Raises `ValueError` for a raw uint32 key, whose shape does not say how many keys it is."""
    if not hasattr(key, "dtype"):
        got = repr(key) if isinstance(key, int | float | str | None) else type(key).__name__
        raise ValueError(f"key: got {got}, want a typed key; make it with jax.random.key(seed)")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"key: got an array of {key.dtype}{list(key.shape)}, want a typed key; "
            "make it with jax.random.key(seed), or wrap it with jax.random.wrap_key_data(key)"
        )


def fold_in(key: Key[Array, "*batch"], number: int | Int[Array, ""]) -> Key[Array, "*batch"]:
    """`jax.random.fold_in` of the same number into the key of every problem."""
    return vmap_axes(lambda k: jax.random.fold_in(k, number), key.ndim)(key)


def split_in_two(
    key: Key[Array, "*batch"],
) -> tuple[Key[Array, "*batch"], Key[Array, "*batch"]]:
    """The key of every problem, split once."""
    pair = vmap_axes(jax.random.split, key.ndim)(key)
    return pair[..., 0], pair[..., 1]


def split_in(number: int, key: Key[Array, "*batch"]) -> Key[Array, "number *batch"]:
    """The key of every problem, split once; the parts are in front."""
    return jnp.moveaxis(vmap_axes(lambda k: jax.random.split(k, number), key.ndim)(key), -1, 0)


def particle_keys(key: Key[Array, "*batch"], n: int) -> Key[Array, "*batch n"]:
    """One key per particle, `fold_in(key, slot)`."""
    slots = jnp.arange(n, dtype=jnp.int32)
    return vmap_axes(lambda k: jax.vmap(lambda slot: jax.random.fold_in(k, slot))(slots), key.ndim)(
        key
    )


def per_problem(key: Key[Array, "*batch"], value: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The value repeated along the axes of the key."""
    # Computed from the keys, not broadcast: under an explicit mesh it is then sharded as they are.
    zeros = jax.random.key_data(key)[..., 0] * jnp.uint32(0)

    def repeat(zero: Array) -> Array:
        if value.dtype == bool:
            return value | (zero != 0)
        return value + zero.astype(value.dtype)

    return vmap_axes(repeat, key.ndim)(zeros)


def select(
    mask: Shaped[Array, "*batch"], on_true: PyTree[Array], on_false: PyTree[Array]
) -> PyTree[Array]:
    """`where(mask, on_true, on_false)` for trees whose leaves have the axes of `mask` in front."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)
