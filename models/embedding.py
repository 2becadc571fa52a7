"""A table with a row for every token: looked up, and multiplied where it is the head too.

    h = scale_t Q_t,      z = scale * (h Q^T)        Q floating-point (scale 1) or 8 bits, as in `linear.py`

One scale a row serves both. Knows nothing of decoders.
"""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pfjax.models.linear import multiply, multiply_stored


class Embedding(nnx.Module):
    """`embedding` is [rows, size]; `scale` [rows] is there if it has 8 bits."""

    def __init__(self, rows: int, size: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = nnx.Param(init(rngs.params(), (rows, size), jnp.float32))
        self.scale: nnx.Param | None = nnx.data(None)

    def __call__(self, tokens: Int[Array, "*b"], dtype: DTypeLike) -> Float[Array, "*b size"]:
        """Rows; those of 8 bits as `dtype`."""
        rows = jnp.take(self.embedding[...], tokens, axis=0)
        if self.scale is None:
            return rows
        scale = jnp.take(self.scale[...], tokens)[..., None].astype(jnp.float32)
        return (rows.astype(jnp.float32) * scale).astype(dtype)

    def products(self, hidden: Float[Array, "*b size"]) -> Float[Array, "*b rows"]:
        """hidden W^T, float32."""
        table = self.embedding[...]
        if self.scale is None:
            return multiply(hidden, table, dtype=jnp.float32)
        z = multiply_stored(hidden, table, dtype=jnp.float32)
        return z * self.scale[...].astype(jnp.float32).reshape((1,) * (z.ndim - 1) + (-1,))
