"""Key-value caches in three segments: prompt | committed suffix | step buffer.

The prompt of a problem is stored once, [p, k, s, d]; every particle owns a committed suffix, [p, n,
k, s, d]; a step in progress writes to a small buffer at one scalar column, so that nothing large
changes inside a loop. `commit` moves the buffer behind each row's suffix. Keys are stored after
RoPE. Caches are zeros, never `empty`: a masked NaN is still NaN. Layers with a sliding window keep
all keys and mask the old ones. A suffix of int8 takes a quarter of float32's bytes: `commit` rounds
what it takes from the buffer, with one scale a head and token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from pfjax.models.attention import Segment, attend, causal_mask
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, heads_first, transposed
from pfjax.models.sharding import by_heads


class KV(NamedTuple):
    """Keys and values, one array a layer, in the layouts of `Segment`; scales of int8 ones, else none."""

    k: tuple[Shaped[Array, "p *n k d s"], ...]
    v: tuple[Shaped[Array, "p *n k s d"], ...]
    k_scale: tuple[Float[Array, "p *n k s"], ...] = ()
    v_scale: tuple[Float[Array, "p *n k s"], ...] = ()


class Prefix(NamedTuple):
    """The prompt's keys and values, shared by a problem's particles.

    `length` columns are real; `context` is the length that a sequence may reach, see `rope_angles`.
    """

    kv: KV
    length: Int[Array, " p"]
    context: Int[Array, " p"]


KV_FORMATS = ("int8",)


def suffix_dtype(prefix: Prefix, kv_format: str | None) -> jnp.dtype:
    """What suffixes behind a prompt are kept in: what the prompt is, or a format of fewer bits."""
    return prefix.kv.k[0].dtype if kv_format is None else jnp.dtype(kv_format)


def empty(config: DecoderConfig, rows: tuple[int, ...], columns: int, dtype=jnp.float32) -> KV:
    """A zero cache for `rows` of `columns` tokens; `dtype` int8 for a suffix of rounded entries."""
    heads, size, layers = (*rows, config.num_kv_heads), config.head_dim, range(config.num_layers)
    k = tuple(jnp.zeros((*heads, size, columns), dtype) for _ in layers)
    v = tuple(jnp.zeros((*heads, columns, size), dtype) for _ in layers)
    if jnp.dtype(dtype) != jnp.int8:
        return _placed(KV(k, v))
    scales = [tuple(jnp.zeros((*heads, columns), jnp.float32) for _ in layers) for _ in "kv"]
    return _placed(KV(k, v, *scales))


def _placed(kv: KV) -> KV:
    heads = KV(-3, -3, -2, -2)
    return KV(*[tuple(by_heads(x, at) for x in part) for part, at in zip(kv, heads, strict=True)])


def rounded(kv: KV) -> KV:
    """int8 keys and values: x ~ scale * int8, scale = max |x| / 127 over a head of a token."""
    k, k_scale = _rounded(kv.k, -2)
    v, v_scale = _rounded(kv.v, -1)
    return KV(k, v, k_scale, v_scale)


def _rounded(parts: tuple[Array, ...], axis: int):
    scales = [jnp.max(jnp.abs(x.astype(jnp.float32)), axis, keepdims=True) / 127 for x in parts]
    whole = tuple(
        jnp.round(x.astype(jnp.float32) / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8)
        for x, scale in zip(parts, scales, strict=True)
    )
    return whole, tuple(jnp.squeeze(scale, axis) for scale in scales)


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
    if cache.k_scale:
        # Tied to the column, or XLA would widen the whole suffix once, before the loop over columns.
        cache, column = jax.lax.optimization_barrier((cache, column))
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
        of_prompt, of_suffix, of_step = masks[config.window(i)]
        segments = [
            Segment(prefix.kv.k[i], prefix.kv.v[i], of_prompt),
            Segment(cache.k[i], cache.v[i], of_suffix, *[s[i] for s in cache[2:] if s]),
            Segment(keys[i], values[i], of_step),
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
    if cache.k_scale:
        buffer = rounded(buffer)

    def place(axis):
        update = jax.lax.dynamic_update_slice_in_dim
        put = jax.vmap(jax.vmap(lambda row, new, at: update(row, new, at, axis)))
        return lambda old, new: put(old, new, length)

    columns = KV(2, 1, 1, 1)
    pairs = zip(cache, buffer, columns, strict=True)
    return _placed(KV(*[tuple(map(place(axis), old, new)) for old, new, axis in pairs]))


def widen(cache: KV, columns: int) -> KV:
    """The same cache with zeros behind it up to `columns`; itself if it is that wide."""
    more = columns - cache.k[0].shape[-1]
    if more <= 0:
        return cache

    def grow(x, axis):
        return jnp.pad(x, [(0, more if i == x.ndim + axis else 0) for i in range(x.ndim)])

    columns = KV(-1, -2, -1, -1)
    parts = zip(cache, columns, strict=True)
    return _placed(KV(*[tuple(grow(x, axis) for x in part) for part, axis in parts]))


def _between(columns: int, low: Int[Array, "p n t"] | None, high: Int[Array, "p n t"]):
    """True in column s where low <= s < high; bool[p, n, t, columns]."""
    at = jnp.arange(columns, dtype=jnp.int32)[None, None, None]
    below = at < high[..., None]
    return below if low is None else below & (at >= low[..., None])
