"""y = x W^T + b, with W as floating-point numbers or as 8-bit integers and a scale per output.

    W_ij = scale_i Q_ij,      Q int8 or float8_e4m3fn        (weight-only quantisation)

Activations stay as they are: only the bytes read per token fall. Knows nothing of decoders.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from pfjax.models.sharding import partitioned

_FEW = 64
_SMALL, _BLOCK = 1 << 16, 1 << 20
FORMATS = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}


class Linear(nnx.Module):
    """`weight` is [outputs, inputs], as files have it; `scale` [outputs] is there if it has 8 bits."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.weight = nnx.Param(init(rngs.params(), (outputs, inputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None
        self.scale: nnx.Param | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        if self.scale is None:
            y = _product(x, self.weight[...].astype(x.dtype))
        else:
            y = multiply_stored(x, self.weight[...], dtype=x.dtype)
            y = y * _row(self.scale[...], y)
        return y if self.bias is None else y + _row(self.bias[...], y)


def quantize(
    weight: Float[Array, "outputs inputs"], weight_format: str
) -> tuple[Array, Float[Array, " outputs"]]:
    """(8-bit weight, float32 scale per output), rounded to nearest; `weight_format` int8 or fp8.

    >>> weight, scale = quantize(jnp.array([[1.0, -2.0], [-4.0, 1.0]]), "int8")
    >>> weight.tolist(), [round(127 * s, 3) for s in scale.tolist()]
    ([[64, -127], [-127, 32]], [2.0, 4.0])
    """
    if weight_format not in FORMATS:
        raise ValueError(f"weight_format is {weight_format!r}, wanted one of {', '.join(FORMATS)}.")
    dtype, top = FORMATS[weight_format]
    weight = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(weight), axis=1)
    # Products, because the host has to get the same bits: XLA divides by what is broadcast so, or not.
    scale = jnp.where(largest > 0, largest * jnp.float32(1 / top), 1.0)
    ratio = weight * (1 / scale)[:, None]
    return (jnp.round(ratio) if weight_format == "int8" else ratio).astype(dtype), scale


def quantized(linear: Linear, weight_format: str) -> Linear:
    """The same layer with an 8-bit weight."""
    graph, state = nnx.split(linear)
    new = nnx.merge(graph, state)
    weight, scale = quantize(linear.weight[...], weight_format)
    new.weight = nnx.Param(weight)
    new.scale = nnx.Param(scale)
    return new


def _row(x: Array, like: Array) -> Array:
    return x.astype(like.dtype).reshape((1,) * (like.ndim - 1) + x.shape)


def multiply(
    x: Float[Array, "*b inputs"], weight: Float[Array, "outputs inputs"], *, dtype: DTypeLike
) -> Float[Array, "*b outputs"]:
    """x W^T, summed in float32, as `dtype`.

    XLA:CPU packs the right operand anew for every product, which for few rows takes longer than to
    multiply, so there the weight stands on the left. It uses its units for bfloat16 only for products
    with a float32 result.
    """
    if x.dtype == jnp.float32 and _rows(x) > _FEW:
        return _plain(x, weight, dtype=dtype)
    plain, on_cpu = partial(_plain, dtype=dtype), partial(_on_cpu, dtype=dtype)
    return jax.lax.platform_dependent(x, weight, cpu=on_cpu, default=plain)


def _plain(x: Array, weight: Array, *, dtype: DTypeLike) -> Array:
    over = ((x.ndim - 1,), (1,)), ((), ())
    return jax.lax.dot_general(x, weight, over, preferred_element_type=dtype)


def _on_cpu(x: Array, weight: Array, *, dtype: DTypeLike) -> Array:
    if _rows(x) > _FEW:
        return _plain(x, weight, dtype=jnp.float32).astype(dtype)
    y = _plain(weight, x.reshape(-1, x.shape[-1]), dtype=jnp.float32)
    # Without the barrier the compiler would exchange the operands again.
    return jax.lax.optimization_barrier(y).T.astype(dtype).reshape(*x.shape[:-1], len(weight))


def multiply_stored(
    x: Float[Array, "*b inputs"], weight: Shaped[Array, "outputs inputs"], *, dtype: DTypeLike
) -> Float[Array, "*b outputs"]:
    """`multiply` with a weight that is kept as other numbers than x, such as int8."""
    whole, blocks = partial(_converted, dtype=dtype), partial(_by_blocks, dtype=dtype)
    if weight.size < _SMALL or partitioned():
        return whole(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=blocks, default=whole)


def _converted(x: Array, weight: Array, dtype: DTypeLike) -> Array:
    return multiply(x, weight.astype(x.dtype), dtype=dtype)


def _by_blocks(x: Array, weight: Array, dtype: DTypeLike) -> Array:
    # XLA:CPU converts all weights of a program before its first product; in a loop one block at a time.
    count = max(2, -(-weight.size // _BLOCK))
    size = len(weight) // count

    def block(start: Array) -> Array:
        return _converted(x, jax.lax.dynamic_slice_in_dim(weight, start, size), dtype)

    y = jax.lax.map(block, size * jnp.arange(count, dtype=jnp.int32))
    y = jnp.moveaxis(y, 0, -2).reshape(*x.shape[:-1], -1)
    rest = weight[count * size :]
    return jnp.concatenate([y, _converted(x, rest, dtype)], axis=-1) if len(rest) else y


def _rows(x: Array) -> int:
    return prod(x.shape[:-1])


@jax.custom_vjp
def _product(x, w):
    return multiply(x, w, dtype=x.dtype)


def _product_backward(saved, g):
    # Behind the barrier XLA:CPU writes g once; without it it recomputes g transposed.
    x, w = saved
    rows = tuple(range(x.ndim - 1))
    weight = jax.lax.dot_general(jax.lax.optimization_barrier(g), x, ((rows, rows), ((), ())))
    return g @ w, weight


_product.defvjp(lambda x, w: (_product(x, w), (x, w)), _product_backward)
