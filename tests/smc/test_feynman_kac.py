"""`lift` only maps: one particle at a time gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_lift_is_the_functions_of_one_particle(batch):
    def init(key):
        return {"x": jax.random.normal(key), "words": jnp.zeros(2, jnp.int32)}

    def propagate(key, p, t):
        return {"x": p["x"] + jax.random.normal(key), "words": p["words"].at[t % 2].set(t)}

    def log_potential(p, t):
        return p["x"] * t.astype(jnp.float32) + p["words"].sum().astype(jnp.float32)

    model = smc.lift(init, propagate, log_potential)
    keys = jax.random.split(jax.random.key(1), (*batch, 4))
    t = jnp.arange(np.prod(batch, dtype=int), dtype=jnp.int32).reshape(batch) + 1

    @jax.jit
    def once(keys, t):
        y = model.propagate(keys, model.init(keys), t)
        return y, *model.weigh(y, t)

    y, z, log_g = jax.tree.map(np.asarray, once(keys, t))
    assert log_g.shape == (*batch, 4) and log_g.dtype == jnp.result_type(float)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), y, z))

    @jax.jit
    def alone(key, t):
        p = propagate(key, init(key), t)
        return p, log_potential(p, t)

    for index in np.ndindex(*batch, 4):
        one, log_g_one = alone(keys[index], t[index[:-1]])
        np.testing.assert_array_equal(y["words"][index], one["words"])
        np.testing.assert_allclose(y["x"][index], one["x"], rtol=1e-6)
        np.testing.assert_allclose(log_g[index], log_g_one, rtol=1e-6)


def test_log_transition_is_mapped_and_optional():
    functions = (lambda key: jnp.float32(0), lambda key, x, t: x, lambda x, t: x)
    assert smc.lift(*functions).log_transition is None
    log_m = smc.lift(
        *functions, log_transition=lambda a, b, t: a - 2 * b + t.astype(jnp.float32)
    ).log_transition
    x_prev, x = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.5, 0.0], [1.0, -1.0]])
    assert log_m(x_prev, x, jnp.array([0, 10])).tolist() == [[0, 2], [11, 16]]


def test_per_particle_maps_over_problems_then_particles():
    def function(a, b, t):
        return a["x"].sum() * b + t.astype(jnp.float32)

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (3, 2, 5, 4)), rng.integers(0, 9, (3, 2, 5))
    t = np.arange(6).reshape(3, 2)
    found = smc.per_particle(function)({"x": jnp.float32(a)}, jnp.float32(b), jnp.asarray(t))
    np.testing.assert_array_equal(found, a.sum(-1) * b + t[..., None])
