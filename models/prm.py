"""Process reward models: a decoder and a head that gives the log-odds that the prefix is right.

    two classes   v = z_1 - z_0,   z = W_2 relu(W_1 h + b_1) + b_2     Qwen2.5-Math-PRM
    a value       v = w h + b                                          Skywork-o1-Open-PRM
    two tokens    v = z_plus - z_minus,   z the language model's logits     Math-Shepherd, RLHFlow

The probability is sigmoid(v) in all three. Margins stay float32: a probability rounded to bfloat16
saturates at 1 (`paper_log_odds`). References: Zhang et al. 2025, arXiv 2501.07301; Wang et al. 2024,
arXiv 2312.08935. Knows nothing of texts; where the head is read is told by `formats.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.models.linear import Linear, multiply


class ProcessRewardModel(nnx.Module):
    """Two classes, the form of `Qwen2ForProcessRewardModel`."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.decoder = Decoder(config, rngs=rngs)
        e = config.hidden_size
        self.score_in = Linear(e, e, bias=True, rngs=rngs)
        self.score_out = Linear(e, 2, bias=True, rngs=rngs)

    def classes(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b 2"]:
        """float32 logits of wrong and right."""
        return self.score_out(jax.nn.relu(self.score_in(hidden))).astype(jnp.float32)

    def margin(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b"]:
        """Log-odds, float32."""
        return log_odds(self.classes(hidden))


class ValueModel(nnx.Module):
    """One number, whose sigmoid is the probability; the form of Skywork-o1-Open-PRM."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.decoder = Decoder(config, rngs=rngs)
        self.value_head = Linear(config.hidden_size, 1, bias=True, rngs=rngs)

    def classes(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b 2"]:
        """float32 logits of wrong, which is 0, and right."""
        value = self.value_head(hidden).astype(jnp.float32)
        return jnp.concatenate([jnp.zeros_like(value), value], axis=-1)

    def margin(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b"]:
        """Log-odds, float32."""
        return log_odds(self.classes(hidden))


class TokenModel(nnx.Module):
    """The language model's own logits of two tokens; other tokens are left out."""

    def __init__(self, config: DecoderConfig, minus: int, plus: int, *, rngs: nnx.Rngs):
        self.config, self.minus, self.plus = config, minus, plus
        self.decoder = Decoder(config, rngs=rngs)

    def classes(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b 2"]:
        """float32 logits of the tokens for wrong and right."""
        ids = jnp.array([self.minus, self.plus], jnp.int32)
        if self.config.tie_embeddings:
            rows = self.decoder.embed_tokens(ids, hidden.dtype)
            z = multiply(hidden, rows, dtype=jnp.float32)
        else:
            head = self.decoder.lm_head
            rows = jnp.take(head.weight[...], ids, axis=0).astype(hidden.dtype)
            z = multiply(hidden, rows, dtype=jnp.float32)
            if head.scale is not None:
                scale = jnp.take(head.scale[...], ids).astype(jnp.float32)
                z = z * scale.reshape((1,) * (z.ndim - 1) + (2,))
        return self.decoder.finish(z)

    def margin(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b"]:
        """Log-odds, float32."""
        return log_odds(self.classes(hidden))


RewardModule = ProcessRewardModel | ValueModel | TokenModel


def log_odds(classes: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """z_1 - z_0, exact in float32."""
    return classes[..., 1] - classes[..., 0]


def paper_log_odds(classes: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """Log-odds of a softmax rounded to bfloat16, as published systems compute it; inf at 1.

    >>> v = paper_log_odds(jnp.array([[0.0, 9.0], [0.0, 2.0]]))
    >>> [round(x, 3) for x in v.tolist()]
    [inf, 1.982]
    """
    z = classes.astype(jnp.bfloat16).astype(jnp.float32)
    p = jax.nn.softmax(z, axis=-1)[..., 1].astype(jnp.bfloat16).astype(jnp.float32)
    return jnp.log(p) - jnp.log1p(-p)
