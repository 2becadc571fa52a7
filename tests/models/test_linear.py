"""Products with weights [outputs, inputs]: the same for few rows, where the weight stands on the left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax.models.linear import _FEW, Linear, multiply

SHAPES = ((), (3,), (1, _FEW), (1, _FEW + 1), (2, 5, 7))


def layer_and_input(shape: tuple[int, ...], dtype) -> tuple[Linear, jax.Array]:
    layer = Linear(24, 40, bias=True, rngs=nnx.Rngs(0))
    layer.bias = nnx.Param(jnp.arange(40.0) / 10)
    layer.weight = nnx.Param(30 * layer.weight[...])
    return layer, jax.random.normal(jax.random.key(1), (*shape, 24), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype, error", ((jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)), ids=str)
def test_values_and_gradients_are_those_of_the_formula(shape, dtype, error):
    """In float64 by NumPy; bfloat16 rounds the weight, the result and what the gradient starts from."""
    layer, x = layer_and_input(shape, dtype)
    graph, state = nnx.split(layer)
    above = jax.random.normal(jax.random.key(2), (*shape, 40), dtype)

    @jax.jit
    def run(state, x):
        y, back = jax.vjp(lambda s, x: nnx.merge(graph, s)(x), state, x)
        return y, *back(above)

    y, of_state, of_x = run(state, x)
    assert y.dtype == of_x.dtype == dtype and y.shape == (*shape, 40)
    wide = lambda a: np.asarray(a, np.float64)  # noqa: E731
    w, b = wide(layer.weight[...].astype(dtype)), wide(layer.bias[...])
    rows, up = wide(x).reshape(-1, 24), wide(above).reshape(-1, 40)
    wanted = {
        "y": (y, rows @ w.T + b),
        "x": (of_x, up @ w),
        "weight": (of_state["weight"][...], up.T @ rows),
        "bias": (of_state["bias"][...], up.sum(0)),
    }
    for name, (found, there) in wanted.items():
        scale = np.abs(there).max()
        np.testing.assert_allclose(
            wide(found).reshape(there.shape), there, atol=error * scale, err_msg=name
        )


@pytest.mark.parametrize("rows", (_FEW, _FEW + 1))
def test_products_of_bfloat16_are_summed_in_float32(rows):
    """256 ones and then small numbers: a sum kept in bfloat16 would lose every one of them."""
    x = jnp.ones((rows, 512), jnp.bfloat16)
    w = jnp.concatenate([jnp.ones((8, 256)), jnp.full((8, 256), 0.25)], axis=1).astype(jnp.bfloat16)
    found = jax.jit(lambda x, w: multiply(x, w, dtype=jnp.float32))(x, w)
    np.testing.assert_array_equal(found, np.full((rows, 8), 320.0))


@pytest.mark.parametrize("rows, left", ((16, True), (128, False)))
def test_the_weight_of_few_rows_is_the_left_operand(rows, left):
    """Else XLA:CPU packs it anew for every product; twice slower at 16 rows."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, 24), (40, 24))]
    compiled = jax.jit(lambda x, w: multiply(x, w, dtype=jnp.float32)).lower(*shapes).compile()
    assert (f"f32[40,{rows}]" in compiled.as_text()) == left
