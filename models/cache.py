"""Key-value caches in three segments: prompt | committed suffix | step buffer.

The prompt of a problem is stored once, [p, k, s, d]; every particle owns a committed suffix, [p, n,
k, s, d]; a step in progress writes to a small buffer at one scalar column, so that nothing large
changes inside a loop. `commit` moves the buffer behind each row's suffix. Keys are stored after
RoPE. Caches are zeros, never `empty`: a masked NaN is still NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pfjax.models.attention import Segment, attend, causal_mask
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, heads_first, transposed


class KV(NamedTuple):
    """Keys and values, one array a layer, in the layouts of `Segment`."""

    k: tuple[Float[Array, "p *n k d s"], ...]
    v: tuple[Float[Array, "p *n k s d"], ...]


class Prefix(NamedTuple):
    """The prompt's keys and values, shared by a problem's particles; `length` columns are real."""

    kv: KV
    length: Int[Array, " p"]


def empty(config: DecoderConfig, rows: tuple[int, ...], columns: int, dtype=jnp.float32) -> KV:
    """A zero cache for `rows` of `columns` tokens."""
    heads, size = (*rows, config.num_kv_heads), config.head_dim
    k = tuple(jnp.zeros((*heads, size, columns), dtype) for _ in range(config.num_layers))
    v = tuple(jnp.zeros((*heads, columns, size), dtype) for _ in range(config.num_layers))
    return KV(k, v)


def prefill(decoder: Decoder, tokens: Int[Array, "p t"], length: Int[Array, " p"]) -> Prefix:
    """The cache of a right-padded prompt; columns from `length` on hold junk, masked later."""
    keys, values = [], []

    def attention(index, q, k, v):
        k, v = transposed(k), heads_first(v)
        keys.append(k[:, 0])
        values.append(v[:, 0])
        return attend(q, [Segment(k, v, causal_mask(q.shape[2]))])

    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    decoder(tokens[:, None], positions[:, None], attention)
    return Prefix(KV(tuple(keys), tuple(values)), length)


def extend(
    decoder: Decoder,
    tokens: Int[Array, "p n t"],
    prefix: Prefix,
    cache: KV,
    length: Int[Array, "p n"],
    buffer: KV,
    column: Int[Array, ""],
) -> tuple[Float[Array, "p n t e"], KV]:
    """Hidden states of t new tokens a row; keys and values go to the buffer from `column` on.

    Row (p, n) continues at position prefix.length[p] + length[p, n] + column.
    """
    t, width = tokens.shape[2], buffer.k[0].shape[-1]
    new_columns = column + jnp.arange(t, dtype=jnp.int32)
    start = prefix.length[:, None] + length
    positions = start[..., None] + new_columns[None, None]
    prefix_mask = _below(prefix.kv.k[0].shape[-1], prefix.length[:, None, None])
    cache_mask = _below(cache.k[0].shape[-1], length[..., None])
    buffer_mask = _below(width, 1 + new_columns[None, None])
    keys, values = list(buffer.k), list(buffer.v)

    def attention(i, q, k, v):
        keys[i] = jax.lax.dynamic_update_slice_in_dim(keys[i], transposed(k), column, axis=4)
        values[i] = jax.lax.dynamic_update_slice_in_dim(values[i], heads_first(v), column, axis=3)
        segments = [
            Segment(prefix.kv.k[i], prefix.kv.v[i], prefix_mask),
            Segment(cache.k[i], cache.v[i], cache_mask),
            Segment(keys[i], values[i], buffer_mask),
        ]
        return attend(q, segments)

    hidden = decoder(tokens, positions, attention)
    return hidden, KV(tuple(keys), tuple(values))


def commit(cache: KV, buffer: KV, length: Int[Array, "p n"]) -> KV:
    """Writes the buffer behind the first `length` columns of every row.

    The cache must be at least max(length) + buffer columns wide; columns past a row's new length
    hold junk.
    """

    def place(axis):
        update = jax.lax.dynamic_update_slice_in_dim
        put = jax.vmap(jax.vmap(lambda row, new, at: update(row, new, at, axis)))
        return lambda old, new: put(old, new, length)

    return KV(
        tuple(map(place(2), cache.k, buffer.k)),
        tuple(map(place(1), cache.v, buffer.v)),
    )


def widen(cache: KV, columns: int) -> KV:
    """The same cache with zeros behind it up to `columns`; itself if it is that wide."""
    more = columns - cache.k[0].shape[-1]
    if more <= 0:
        return cache

    def grow(x, axis):
        return jnp.pad(x, [(0, more if i == x.ndim + axis else 0) for i in range(x.ndim)])

    return KV(tuple(grow(k, -1) for k in cache.k), tuple(grow(v, -2) for v in cache.v))


def _below(columns: int, limit: Int[Array, "p n t"]):
    """True in column s where s < limit; bool[p, n, t, columns]."""
    return jnp.arange(columns, dtype=jnp.int32)[None, None, None] < limit[..., None]
