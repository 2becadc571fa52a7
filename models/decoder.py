"""The pre-norm decoder of all families, as flax.nnx modules.

    h <- h + r attention(rope(W_q x + b_q), rope(W_k x + b_k), W_v x + b_v) W_o,   x = rmsnorm(h)
    h <- h + r W_down (act(W_gate x) * W_up x),                                    x = rmsnorm(h)

What differs between the families is a switch of `DecoderConfig`. Numerics follow transformers'
modeling files (norms and softmax in float32, rotate-half RoPE). The module does not know about
caches: `attention(layer, q, k, v)` is handed in and decides what the new queries see.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.models.attention import Segment, attend, causal_mask
from pfjax.models.config import DecoderConfig
from pfjax.models.embedding import Embedding
from pfjax.models.linear import Linear
from pfjax.models.rope import rope_angles, rotate

Attention = Callable[[int, Array, Array, Array], Array]


class RMSNorm(nnx.Module):
    """x * rsqrt(mean(x^2) + eps) in float32, scaled (Zhang and Sennrich 2019).

    The scale is w after the cast to x's dtype, or 1 + w before it (Gemma).
    """

    def __init__(self, size: int, config: DecoderConfig):
        self.unit_offset, self.eps = config.unit_offset_norm, config.rms_norm_eps
        start = jnp.zeros if self.unit_offset else jnp.ones
        self.scale = nnx.Param(start((size,), jnp.float32))

    def __call__(self, x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        if self.unit_offset:
            return (y * (1 + scale.astype(jnp.float32))).astype(x.dtype)
        return y.astype(x.dtype) * scale


class SelfAttention(nnx.Module):
    """Projections, norms of queries and keys where the family has them, and the output."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        e, d, bias = config.hidden_size, config.head_dim, config.qkv_bias
        self.head_dim, self.scale = d, config.scale
        self.q_proj = Linear(e, config.num_heads * d, bias=bias, rngs=rngs)
        self.k_proj = Linear(e, config.num_kv_heads * d, bias=bias, rngs=rngs)
        self.v_proj = Linear(e, config.num_kv_heads * d, bias=bias, rngs=rngs)
        self.o_proj = Linear(config.num_heads * d, e, bias=config.output_bias, rngs=rngs)
        if config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(d, config), RMSNorm(d, config)

    def __call__(self, x, rope, index: int, attention: Attention):
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k = self.q_proj(x).reshape(heads), self.k_proj(x).reshape(heads)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, *rope) * jnp.asarray(self.scale, q.dtype)
        out = attention(index, q, rotate(k, *rope), self.v_proj(x).reshape(heads))
        return self.o_proj(out.reshape((*x.shape[:-1], -1)))


class MLP(nnx.Module):
    """A gated unit: SwiGLU or, with tanh-GELU, GeGLU (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        e, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gate_proj = Linear(e, f, bias=bias, rngs=rngs)
        self.up_proj = Linear(e, f, bias=bias, rngs=rngs)
        self.down_proj = Linear(f, e, bias=bias, rngs=rngs)

    def __call__(self, x):
        gate = self.gate_proj(x)
        gate = jax.nn.silu(gate) if self.activation == "silu" else jax.nn.gelu(gate)
        return self.down_proj(gate * self.up_proj(x))


class Layer(nnx.Module):
    """One pre-norm block; with sandwich norms its two sums are normalised too (Gemma)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        e = config.hidden_size
        self.sandwich, self.multiplier = config.sandwich_norms, config.residual_multiplier
        self.input_layernorm = RMSNorm(e, config)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(e, config)
        if self.sandwich:
            self.pre_feedforward_layernorm = RMSNorm(e, config)
            self.post_feedforward_layernorm = RMSNorm(e, config)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, h, rope, index: int, attention: Attention):
        added = self.self_attn(self.input_layernorm(h), rope, index, attention)
        if self.sandwich:
            h = h + self.post_attention_layernorm(added)
            added = self.mlp(self.pre_feedforward_layernorm(h))
            return h + self.post_feedforward_layernorm(added)
        h = h + self._times(added)
        return h + self._times(self.mlp(self.post_attention_layernorm(h)))

    def _times(self, x):
        return x if self.multiplier == 1.0 else x * jnp.asarray(self.multiplier, x.dtype)


class Decoder(nnx.Module):
    """Token ids to hidden states; `logits` maps hidden states to the vocabulary."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        rows = config.vocab_size + config.vocab_padding
        self.embed_tokens = Embedding(rows, config.hidden_size, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, rows, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "*b t"],
        positions: Int[Array, "*b t"],
        attention: Attention,
        context: Int[Array, "*b"] | None = None,
    ) -> Float[Array, "*b t e"]:
        """Hidden states; `context` is the length each sequence may reach, see `rope_angles`."""
        config = self.config
        h = self.embed_tokens(tokens, self.norm.scale[...].dtype)
        if config.embedding_multiplier != 1.0:
            h = h * jnp.asarray(config.embedding_multiplier, h.dtype)
        rope = rope_angles(config.rope, config.head_dim, positions, context)
        local = rope
        if config.local_rope is not None:
            local = rope_angles(config.local_rope, config.head_dim, positions, context)
        for index, layer in enumerate(self.layers):
            here = rope if config.window(index) is None else local
            h = layer(h, here, index, attention)
        return self.norm(h)

    def logits(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b v"]:
        """float32 logits of hidden states."""
        if self.config.tie_embeddings:
            z = self.embed_tokens.products(hidden)
        else:
            z = self.lm_head(hidden).astype(jnp.float32)
        if self.config.vocab_padding:
            z = z[..., : self.config.vocab_size]
        return self.finish(z)

    def finish(self, z: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Logits from products with the head."""
        if self.config.logits_divisor != 1.0:
            z = z / self.config.logits_divisor
        cap = self.config.logit_softcap
        return z if cap is None else cap * jnp.tanh(z / cap)


def causal_attention(config: DecoderConfig) -> Attention:
    """Attention of whole sequences [p, n, t, ...] on themselves; the teacher-forced case."""

    def attention(index: int, q: Array, k: Array, v: Array) -> Array:
        mask = causal_mask(q.shape[2], config.window(index))
        segment = Segment(transposed(k), heads_first(v), mask)
        return attend(q, [segment], softcap=config.attention_softcap)

    return attention


def transposed(k: Float[Array, "p n t k d"]) -> Float[Array, "p n k d t"]:
    """Projected keys in the layout of `Segment.k`."""
    return k.transpose(0, 1, 3, 4, 2)


def heads_first(v: Float[Array, "p n t k d"]) -> Float[Array, "p n k t d"]:
    """Projected values in the layout of `Segment.v`."""
    return jnp.swapaxes(v, 2, 3)


def forward(
    decoder: Decoder, tokens: Int[Array, "b t"], length: Int[Array, " b"] | None = None
) -> Float[Array, "b t e"]:
    """Hidden states of whole sequences, teacher-forced, positions 0..t-1.

    Of right-padded rows `length` tokens are real; None: all.
    """
    x = tokens[:, None]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), x.shape)
    context = None if length is None else length[:, None]
    return decoder(x, positions, causal_attention(decoder.config), context)[:, 0]
