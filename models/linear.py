"""y = x W + b, with W as floating-point numbers or as 8-bit integers and a scale per output.

    W_ij = scale_j Q_ij,      Q int8 or float8_e4m3fn        (weight-only quantisation)

Activations stay as they are: only the bytes read per token fall. Knows nothing of decoders.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

FORMATS = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}


class Linear(nnx.Module):
    """`kernel` is [inputs, outputs]; `scale` [outputs] is there if the kernel has 8 bits."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None
        self.scale: nnx.Param | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        y = _matmul(x, self.kernel[...].astype(x.dtype))
        if self.scale is not None:
            y = y * _row(self.scale[...], y)
        return y if self.bias is None else y + _row(self.bias[...], y)


def quantize(
    kernel: Float[Array, "inputs outputs"], weight_format: str
) -> tuple[Array, Float[Array, " outputs"]]:
    """(8-bit kernel, float32 scale per output), rounded to nearest; `weight_format` int8 or fp8.

    >>> kernel, scale = quantize(jnp.array([[1.0, -4.0], [-2.0, 1.0]]), "int8")
    >>> kernel.tolist(), [round(127 * s, 3) for s in scale.tolist()]
    ([[64, -127], [-127, 32]], [2.0, 4.0])
    """
    if weight_format not in FORMATS:
        raise ValueError(f"weight_format is {weight_format!r}, wanted one of {', '.join(FORMATS)}.")
    dtype, top = FORMATS[weight_format]
    kernel = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kernel), axis=0)
    scale = jnp.where(largest > 0, largest / top, 1.0)
    ratio = kernel / scale[None]
    return (jnp.round(ratio) if weight_format == "int8" else ratio).astype(dtype), scale


def quantized(linear: Linear, weight_format: str) -> Linear:
    """The same layer with an 8-bit kernel."""
    graph, state = nnx.split(linear)
    new = nnx.merge(graph, state)
    kernel, scale = quantize(linear.kernel[...], weight_format)
    new.kernel = nnx.Param(kernel)
    new.scale = nnx.Param(scale)
    return new


def _row(x: Array, like: Array) -> Array:
    return x.astype(like.dtype).reshape((1,) * (like.ndim - 1) + x.shape)


@jax.custom_vjp
def _matmul(x, w):
    return _product(x, w)


def _product(x: Array, w: Array) -> Array:
    """x @ w; XLA:CPU uses its units for bfloat16 only for products with a float32 result."""
    if x.dtype != jnp.bfloat16:
        return x @ w
    return jax.lax.platform_dependent(x, w, cpu=_rounded_product, default=jnp.matmul)


def _rounded_product(x: Array, w: Array) -> Array:
    return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)


def _matmul_backward(saved, g):
    # Behind the barrier XLA:CPU writes g once; without it it recomputes g transposed.
    x, w = saved
    rows = tuple(range(x.ndim - 1))
    weight = jax.lax.dot_general(x, jax.lax.optimization_barrier(g), ((rows, rows), ((), ())))
    return g @ w.T, weight


_matmul.defvjp(lambda x, w: (_product(x, w), (x, w)), _matmul_backward)
