"""The bootstrap model of a state-space model is `lift` with the observations indexed by t."""

import jax
import jax.numpy as jnp
import numpy as np

from pfjax import smc


def test_observations_weigh_until_they_end():
    """Every leaf is indexed by t; each problem is at its own t; then G = 1."""
    rows = {"y": jnp.array([1.0, 2.0, 4.0]), "scale": jnp.array([10.0, 20.0, 30.0])}
    model = smc.state_space(
        initial=lambda key: jax.random.normal(key),
        transition=lambda key, x, t: x + t.astype(jnp.float32),
        log_observation=lambda x, y, t: y["scale"] * (x - y["y"]) + t.astype(jnp.float32),
        observations=rows,
        log_transition=lambda x_prev, x, t: x - 2 * x_prev,
    )
    x = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [5.0, 7.0]])
    t = jnp.array([0, 1, 2, 3])
    same, log_g = model.weigh(x, t)
    assert same is x
    assert log_g.tolist() == [[-10, 0], [-39, -19], [-118, -88], [0, 0]]
    moved = model.propagate(jax.random.split(jax.random.key(0), (4, 2)), x, t)
    assert moved.tolist() == (np.asarray(x) + np.arange(4)[:, None]).tolist()
    assert model.log_transition(x, 3 * x, t).tolist() == x.tolist()


def test_without_a_density_there_is_no_log_transition():
    model = smc.state_space(
        lambda key: jnp.float32(0), lambda key, x, t: x, lambda x, y, t: y, jnp.zeros(2)
    )
    assert model.log_transition is None and model.rewind is None and model.splice is None
