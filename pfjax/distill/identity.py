"""Digests of what a result depends on: weights, rewards, texts.

A weight array's checksum is taken on its device: integer sums mod 2^32, so neither order nor mesh matters.
A function is known by its code and the values inside (`engine.likeness`), one of an installed module by its
name, an object that is not written in Python by its type.
"""

import hashlib
from types import CodeType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from pfjax import models
from pfjax.engine.likeness import Itself, likeness
from pfjax.search.rewards import Mix, Reward, Texts, Tokens

_SALTS = 0x9E3779B1, 0x85EBCA6B


def text(value: str) -> str:
    """Sixteen hexadecimal digits of a text."""
    return hashlib.sha256(value.encode(errors="replace")).hexdigest()[:16]


def weights(tree: PyTree[Array]) -> str:
    """The digest of every leaf's place, shape, type and bits."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sums = [int(_checksum(leaf, salt)) for salt in map(np.uint32, _SALTS)]
        found.append((jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), sums))
    return text(repr(found))


def policy(model: models.Policy) -> str:
    """The digest of weights, tokenizer and ends."""
    return text(repr((weights(model.split[1]), model.tokenizer.source, model.eos_ids)))


def reward(value: Reward | None) -> str:
    """The digest of a PRM and how it reads, of a function, or of the parts; "none" for None."""
    if isinstance(value, models.PRM):
        reads = value.encode("Is it 4 or 5?", ["It is 4.", "So it is 4."])
        return text(repr((weights(value.split[1]), value.tokenizer.source, reads)))
    if isinstance(value, Mix):
        return text(repr((value.how, [reward(part) for part in value.parts], value.weights)))
    if isinstance(value, (Tokens, Texts)):
        return text(repr((type(value).__name__, function(value.function))))
    return "none" if value is None else function(value)


def function(value: object) -> str:
    """The digest of a function, or of a value that is made of some, as `engine.likeness` sees it."""
    return text(repr(_said(likeness(value))))


def _said(key: object) -> object:
    """A likeness in words that are the same in every process."""
    if isinstance(key, Itself):
        value = key.value
        named = hasattr(value, "__qualname__") or hasattr(value, "__name__")
        return _name(value if named else type(value))
    if isinstance(key, CodeType):
        return key.co_code.hex(), key.co_names, [_said(c) for c in key.co_consts]
    if isinstance(key, tuple):
        return [_said(part) for part in key]
    if isinstance(key, frozenset):
        return sorted(repr(_said(part)) for part in key)
    return _name(key) if isinstance(key, type) else repr(key)


def _name(value: object) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{getattr(value, '__module__', '')}.{name}"


@jax.jit
def _checksum(leaf: Array, salt: Array) -> Array:
    if leaf.dtype == jnp.bool_ or jnp.issubdtype(leaf.dtype, jnp.integer):
        bits = leaf.astype(jnp.uint32)
    else:
        width = min(leaf.dtype.itemsize, 4)
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]
        bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    at = jnp.arange(bits.size, dtype=jnp.uint32).reshape(bits.shape)
    mixed = (bits ^ (at * salt)) * jnp.uint32(0xC2B2AE35)
    mixed = (mixed ^ (mixed >> jnp.uint32(15))) * jnp.uint32(0x27D4EB2F)
    return jnp.sum(mixed ^ (mixed >> jnp.uint32(13)), dtype=jnp.uint32)
