"""The Qwen2 / Qwen2.5 decoder as flax.nnx modules.

    h <- h + W_o attention(rope(W_q x + b_q), rope(W_k x + b_k), W_v x + b_v),   x = rmsnorm(h)
    h <- h + W_down (silu(W_gate x) * W_up x),                                   x = rmsnorm(h)

Numerics follow transformers' modeling_qwen2 (norms and softmax in float32, rotate-half RoPE). The
module does not know about caches: `attention(layer, q, k, v)` is handed in and decides what the new
queries see.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.models.attention import Segment, attend, causal_mask
from pfjax.models.config import DecoderConfig

Attention = Callable[[int, Array, Array, Array], Array]


class RMSNorm(nnx.Module):
    """x * rsqrt(mean(x^2) + eps) in float32, cast back, then scaled (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...]
        return y.astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def rope_angles(positions: Int[Array, "*b t"], head_dim: int, theta: float):
    """(cos, sin) of shape [*b, t, 1, head_dim], float32, of the rotary angles (Su et al. 2021)."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies.reshape(
        (1,) * positions.ndim + (-1,)
    )
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    return x * cos.astype(x.dtype) + jnp.concatenate([-b, a], axis=-1) * sin.astype(x.dtype)


class SelfAttention(nnx.Module):
    """Query, key, value projections with bias, output projection without."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        e, d = config.hidden_size, config.head_dim
        self.head_dim = d
        self.q_proj = _linear(e, config.num_heads * d, True, rngs)
        self.k_proj = _linear(e, config.num_kv_heads * d, True, rngs)
        self.v_proj = _linear(e, config.num_kv_heads * d, True, rngs)
        self.o_proj = _linear(config.num_heads * d, e, False, rngs)

    def __call__(self, x, rope, index: int, attention: Attention):
        heads = (*x.shape[:-1], -1, self.head_dim)
        q = _rotate(self.q_proj(x).reshape(heads), *rope)
        k = _rotate(self.k_proj(x).reshape(heads), *rope)
        out = attention(index, q, k, self.v_proj(x).reshape(heads))
        return self.o_proj(out.reshape((*x.shape[:-1], -1)))


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        e, f = config.hidden_size, config.intermediate_size
        self.gate_proj = _linear(e, f, False, rngs)
        self.up_proj = _linear(e, f, False, rngs)
        self.down_proj = _linear(f, e, False, rngs)

    def __call__(self, x):
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, h, rope, index: int, attention: Attention):
        h = h + self.self_attn(self.input_layernorm(h), rope, index, attention)
        return h + self.mlp(self.post_attention_layernorm(h))


class Decoder(nnx.Module):
    """Token ids to final hidden states; `logits` maps hidden states to the vocabulary."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(0.02)
        self.embed_tokens = nnx.Embed(
            config.vocab_size, config.hidden_size, embedding_init=init, rngs=rngs
        )
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_embeddings:
            self.lm_head = _linear(config.hidden_size, config.vocab_size, False, rngs)

    def __call__(
        self, tokens: Int[Array, "*b t"], positions: Int[Array, "*b t"], attention: Attention
    ) -> Float[Array, "*b t e"]:
        h = jnp.take(self.embed_tokens.embedding[...], tokens, axis=0)
        rope = rope_angles(positions, self.config.head_dim, self.config.rope_theta)
        for index, layer in enumerate(self.layers):
            h = layer(h, rope, index, attention)
        return self.norm(h)

    def logits(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b v"]:
        """float32 logits of hidden states."""
        if self.config.tie_embeddings:
            table = self.embed_tokens.embedding[...]
            return jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)
        return self.lm_head(hidden).astype(jnp.float32)


def causal_attention(index: int, q: Array, k: Array, v: Array) -> Array:
    """Attention of a whole sequence [p, n, t, ...] on itself; the teacher-forced case."""
    del index
    return attend(q, [Segment(transposed(k), heads_first(v), causal_mask(q.shape[2]))])


def transposed(k: Float[Array, "p n t k d"]) -> Float[Array, "p n k d t"]:
    """Projected keys in the layout of `Segment.k`."""
    return k.transpose(0, 1, 3, 4, 2)


def heads_first(v: Float[Array, "p n t k d"]) -> Float[Array, "p n k t d"]:
    """Projected values in the layout of `Segment.v`."""
    return jnp.swapaxes(v, 2, 3)


def forward(decoder: Decoder, tokens: Int[Array, "b t"]) -> Float[Array, "b t e"]:
    """Hidden states of whole sequences, teacher-forced, positions 0..t-1."""
    x = tokens[:, None]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), x.shape)
    return decoder(x, positions, causal_attention)[:, 0]


def _linear(inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(0.02)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=rngs)
