"""Key-value caches in three segments: prompt | committed suffix | step buffer.

The prompt of a problem is stored once, [p, k, s, d]; every particle owns a committed suffix, [p, n,
k, s, d]; a step in progress writes to a small buffer at one scalar column, so that nothing large
changes inside a loop. `commit` moves the buffer behind each row's suffix. Keys are stored after
RoPE. Caches are zeros, never `empty`: a masked NaN is still NaN. Layers with a sliding window keep
all keys and mask the old ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pfjax.models.attention import Segment, attend, causal_mask
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, heads_first, transposed
from pfjax.models.sharding import by_heads


class KV(NamedTuple):
    """Keys and values, one array a layer, in the layouts of `Segment`."""

    k: tuple[Float[Array, "p *n k d s"], ...]
    v: tuple[Float[Array, "p *n k s d"], ...]


class Prefix(NamedTuple):
    """The prompt's keys and values, shared by a problem's particles.

    `length` columns are real; `context` is the length that a sequence may reach, see `rope_angles`.
    """

    kv: KV
    length: Int[Array, " p"]
    context: Int[Array, " p"]


def empty(config: DecoderConfig, rows: tuple[int, ...], columns: int, dtype=jnp.float32) -> KV:
    """A zero cache for `rows` of `columns` tokens."""
    heads, size = (*rows, config.num_kv_heads), config.head_dim
    k = tuple(jnp.zeros((*heads, size, columns), dtype) for _ in range(config.num_layers))
    v = tuple(jnp.zeros((*heads, columns, size), dtype) for _ in range(config.num_layers))
    return _placed(KV(k, v))


def _placed(kv: KV) -> KV:
    return jax.tree.map(lambda x: by_heads(x, -3), kv)


def prefill(
    decoder: Decoder, tokens: Int[Array, "p t"], length: Int[Array, " p"], room: int = 0
) -> Prefix:
    """The cache of a right-padded prompt; columns from `length` on hold junk, masked later.

    At most `room` tokens will follow the prompt.
    """
    keys, values = [], []
    config = decoder.config

    def attention(index, q, k, v):
        k, v = transposed(k), heads_first(v)
        keys.append(k[:, 0])
        values.append(v[:, 0])
        segment = Segment(k, v, causal_mask(q.shape[2], config.window(index)))
        return attend(q, [segment], softcap=config.attention_softcap)

    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    context = length + room
    decoder(tokens[:, None], positions[:, None], attention, context[:, None])
    return Prefix(_placed(KV(tuple(keys), tuple(values))), length, context)


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
    config = decoder.config
    new_columns = column + jnp.arange(tokens.shape[2], dtype=jnp.int32)
    start = prefix.length[:, None] + length
    positions = start[..., None] + new_columns[None, None]
    widths = (prefix.kv.k[0].shape[-1], cache.k[0].shape[-1], buffer.k[0].shape[-1])
    ends = (prefix.length[:, None, None], length[..., None], 1 + new_columns[None, None])
    masks = {}
    for window in {config.window(i) for i in range(config.num_layers)}:
        begins = _oldest(window, prefix, positions, ends[2])
        masks[window] = tuple(map(_between, widths, begins, ends))
    keys, values = list(buffer.k), list(buffer.v)

    def attention(i, q, k, v):
        keys[i] = jax.lax.dynamic_update_slice_in_dim(keys[i], transposed(k), column, axis=4)
        values[i] = jax.lax.dynamic_update_slice_in_dim(values[i], heads_first(v), column, axis=3)
        stored = ((prefix.kv.k[i], prefix.kv.v[i]), (cache.k[i], cache.v[i]), (keys[i], values[i]))
        segments = [
            Segment(*kv, mask) for kv, mask in zip(stored, masks[config.window(i)], strict=True)
        ]
        return attend(q, segments, softcap=config.attention_softcap)

    context = jnp.broadcast_to(prefix.context[:, None], length.shape)
    hidden = decoder(tokens, positions, attention, context)
    return hidden, _placed(KV(tuple(keys), tuple(values)))


def _oldest(window: int | None, prefix: Prefix, positions: Int[Array, "p n t"], ends):
    """The first column of prefix, cache and buffer that each new token sees; None: all."""
    if window is None:
        return None, None, None
    first = positions - window + 1
    return first, first - prefix.length[:, None, None], ends - window


def commit(cache: KV, buffer: KV, length: Int[Array, "p n"]) -> KV:
    """Writes the buffer behind the first `length` columns of every row.

    The cache must be at least max(length) + buffer columns wide; columns past a row's new length
    hold junk.
    """

    def place(axis):
        update = jax.lax.dynamic_update_slice_in_dim
        put = jax.vmap(jax.vmap(lambda row, new, at: update(row, new, at, axis)))
        return lambda old, new: put(old, new, length)

    return _placed(
        KV(tuple(map(place(2), cache.k, buffer.k)), tuple(map(place(1), cache.v, buffer.v)))
    )


def widen(cache: KV, columns: int) -> KV:
    """The same cache with zeros behind it up to `columns`; itself if it is that wide."""
    more = columns - cache.k[0].shape[-1]
    if more <= 0:
        return cache

    def grow(x, axis):
        return jnp.pad(x, [(0, more if i == x.ndim + axis else 0) for i in range(x.ndim)])

    return _placed(KV(tuple(grow(k, -1) for k in cache.k), tuple(grow(v, -2) for v in cache.v)))


def _between(columns: int, low: Int[Array, "p n t"] | None, high: Int[Array, "p n t"]):
    """True in column s where low <= s < high; bool[p, n, t, columns]."""
    at = jnp.arange(columns, dtype=jnp.int32)[None, None, None]
    below = at < high[..., None]
    return below if low is None else below & (at >= low[..., None])
