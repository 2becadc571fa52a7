"""A process reward model: a decoder and a two-layer head read at a probe token.

    v = z_1 - z_0,   z = W_2 relu(W_1 h + b_1) + b_2     (log-odds that the prefix is right)

The form of Qwen2.5-Math-PRM (`Qwen2ForProcessRewardModel`; Zhang et al. 2025, arXiv 2501.07301),
whose probability softmax(z)_1 is sigmoid(v). Margins stay float32: a probability rounded to
bfloat16 saturates at 1.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder


class ProcessRewardModel(nnx.Module):
    """`decoder` gives hidden states, `margin` their float32 log-odds."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.decoder = Decoder(config, rngs=rngs)
        e = config.hidden_size
        self.score_in = nnx.Linear(e, e, rngs=rngs)
        self.score_out = nnx.Linear(e, 2, rngs=rngs)

    def margin(self, hidden: Float[Array, "*b e"]) -> Float[Array, "*b"]:
        """Log-odds z_1 - z_0, float32."""
        z = self.score_out(jax.nn.relu(self.score_in(hidden))).astype(jnp.float32)
        return z[..., 1] - z[..., 0]
