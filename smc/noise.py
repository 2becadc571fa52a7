"""Cheap noise for models that are elementwise in the particle: the words of a key, as normals.

    z = sqrt(2) erf^-1((2 k + 1) / 2^24)    k = the upper 24 bits of a 32-bit word, signed

Reference: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. A key
that `fold_in` made is a block of that counter-based generator, so its words are random bits already
and `jax.random.normal` would encrypt them once more for every number. Knows nothing of models.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pfjax.smc._axes import require_typed, vmap_axes


def normals(keys: Key[Array, "*batch n"], d: int) -> Float[Array, "d *batch n"]:
    """d independent standard normals per particle, the particle axis last.

    For keys made by `fold_in` or `split`, such as those that a model is given; use such a key for
    nothing else. A `jax.random.key(seed)` itself is not random. Costs no encryption for d up to the
    words of a key (2), then one for each further pair. Raises `ValueError` for raw keys or d < 1.

    >>> import jax
    >>> keys = jax.random.split(jax.random.key(0), 1000)
    >>> normals(keys, 3).shape, bool(abs(normals(keys, 2).mean()) < 0.1)
    ((3, 1000), True)
    """
    require_typed(keys)
    if d < 1:
        raise ValueError(f"d: got {d} normals per particle, want at least 1")
    words = jnp.moveaxis(jax.random.key_data(keys), -1, 0)
    if d > words.shape[0]:
        blocks = range(-(-d // words.shape[0]))
        words = jnp.concatenate([_block(keys, j) for j in blocks])
    k = (words[:d].astype(jnp.int32) >> 8).astype(jnp.float32)
    return jnp.float32(2**0.5) * jax.lax.erf_inv((k + 0.5) * jnp.float32(2**-23))


def _block(keys: Key[Array, "*batch n"], j: int) -> Array:
    child = vmap_axes(lambda key: jax.random.fold_in(key, j), keys.ndim)(keys)
    return jnp.moveaxis(jax.random.key_data(child), -1, 0)
