"""Attention over several key-value segments with one softmax.

    out = softmax(concat_s(cap(q k_s^T) + mask_s)) concat_s(v_s),      cap(x) = c tanh(x / c) or x

Queries come scaled. They are [p, n, t, h, d] (p problems, n particles, t new tokens, h heads); a
segment's keys and values are either shared by the particles of a problem, [p, k, s, d], or private,
[p, n, k, s, d], with k key-value heads. Scores are float32 and are joined before the softmax: merging two bfloat16
softmaxes costs precision. Grouped-query attention: Ainslie et al. 2023, arXiv 2305.13245. Knows
nothing of layers, caches or positions.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


class Segment(NamedTuple):
    """Keys, values and which of them a query may see; `mask` broadcasts to [p, n, t, s].

    Of int8 keys and values every column has a scale; scores and weights are multiplied by it, so that
    the products read bytes.
    """

    k: Shaped[Array, "p *n k d s"]
    v: Shaped[Array, "p *n k s d"]
    mask: Bool[Array, "..."]
    k_scale: Float[Array, "p *n k s"] | None = None
    v_scale: Float[Array, "p *n k s"] | None = None


def causal_mask(length: int, window: int | None = None) -> Bool[Array, "1 1 t t"]:
    """True where query position t may see key position s <= t, with a window s > t - window."""
    seen = jnp.tril(jnp.ones((length, length), bool))
    if window is not None:
        seen = seen & ~jnp.tril(jnp.ones((length, length), bool), -window)
    return seen[None, None]


def attend(
    q: Float[Array, "p n t h d"], segments: list[Segment], *, softcap: float | None = None
) -> Float[Array, "p n t h d"]:
    """Grouped-query attention of every query over all segments; the list must not be empty.

    The query heads of a group and the new tokens are rows of one matrix, for a shared segment those
    of all particles too, so that every product is a plain batched matrix product. The softmax is
    taken over the pieces with their common maximum.
    """
    p, n, t, h, d = q.shape
    kv_heads = segments[0].v.shape[-3]
    rows = h // kv_heads * t
    q = q.reshape(p, n, t, kv_heads, h // kv_heads, d)
    q = q.transpose(0, 1, 3, 4, 2, 5).reshape(p, n, kv_heads, rows, d)
    pieces = [_scores(q, segment, t, softcap) for segment in segments]
    top = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1) for s in pieces])
    mass, out = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for s, segment in zip(pieces, segments, strict=True):
        w = jnp.exp(s - top[..., None])
        mass = mass + jnp.sum(w, axis=-1) if mass.ndim else jnp.sum(w, axis=-1)
        w = w if segment.v_scale is None else w * _columns(segment.v_scale)
        part = _mix(w.astype(q.dtype), segment.v.astype(q.dtype))
        out = out + part if out.ndim else part
    out = (out / mass[..., None]).astype(q.dtype).reshape(p, n, kv_heads, -1, t, d)
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(p, n, t, h, d)


def _scores(q: Array, segment: Segment, t: int, softcap: float | None) -> Float[Array, "p n k r s"]:
    """float32 scores, -inf where masked."""
    p, n, kv_heads, rows, d = q.shape
    k = segment.k.astype(q.dtype)
    if k.ndim == 4:
        flat = q.transpose(0, 2, 1, 3, 4).reshape(p, kv_heads, n * rows, d)
        s = jnp.einsum("pkrd,pkds->pkrs", flat, k, preferred_element_type=jnp.float32)
        s = s.reshape(p, kv_heads, n, rows, -1).transpose(0, 2, 1, 3, 4)
    else:
        s = jnp.einsum("pnkrd,pnkds->pnkrs", q, k, preferred_element_type=jnp.float32)
    s = s if segment.k_scale is None else s * _columns(segment.k_scale)
    s = s.reshape(p, n, kv_heads, -1, t, s.shape[-1])
    s = s if softcap is None else softcap * jnp.tanh(s / softcap)
    s = jnp.where(segment.mask[:, :, None, None], s, -jnp.inf)
    return s.reshape(p, n, kv_heads, rows, -1)


def _columns(scale: Float[Array, "p *n k s"]) -> Float[Array, "p n k 1 s"]:
    return (scale if scale.ndim == 4 else scale[:, None])[..., None, :]


def _mix(w: Array, v: Array) -> Float[Array, "p n k r d"]:
    """float32 sums."""
    p, n, kv_heads, rows, s = w.shape
    if v.ndim == 5:
        return jnp.einsum("pnkrs,pnksd->pnkrd", w, v, preferred_element_type=jnp.float32)
    flat = w.transpose(0, 2, 1, 3, 4).reshape(p, kv_heads, n * rows, s)
    out = jnp.einsum("pkrs,pksd->pkrd", flat, v, preferred_element_type=jnp.float32)
    return out.reshape(p, kv_heads, n, rows, -1).transpose(0, 2, 1, 3, 4)
