"""What every algorithm promises: legal weights, true ancestors, the dead, one seed one result.

Auxiliary, look-ahead and island filters and the samplers, on one model each.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

INF = float("inf")
NUM_STEPS, NUM_STATES = 4, 3
RESAMPLE_SOMETIMES = smc.when(smc.ess_below(0.8), smc.systematic)


def log_g(table, x, t):
    """table[t, cell of [0, 1) that x is in], without an index: explicit meshes refuse those."""
    in_cell = jnp.floor(NUM_STATES * x).astype(jnp.int32) == jnp.arange(NUM_STATES)
    here = (t == jnp.arange(NUM_STEPS))[:, None] & in_cell[None, :]
    return jnp.max(jnp.where(here, table, -INF))


def filter_model(table) -> smc.FeynmanKac:
    """Particles are independent uniforms that remember their parent."""

    def fresh(key, parent):
        x = jax.random.uniform(key)
        return {"x": x, "parent": parent + 0 * x}

    return smc.lift(
        init=lambda key: fresh(key, jnp.float32(-1.0)),
        propagate=lambda key, x, t: fresh(key, x["x"]),
        log_potential=lambda x, t: log_g(table, x["x"], t),
    )


def posterior(table) -> smc.Posterior:
    return smc.Posterior(
        sample_prior=lambda key: jax.random.uniform(key),
        log_prior=lambda x: jnp.where((x >= 0) & (x < 1), 0.0, -INF),
        log_likelihood=lambda x: log_g(table, jnp.clip(x, 0.0, 0.999), 0),
    )


def islands(table, n, num_islands):
    inner = smc.particle_filter(filter_model(table), n, RESAMPLE_SOMETIMES)
    return smc.islands(inner, num_islands, smc.when(smc.every(2), smc.systematic))


SCHEDULE = np.array([0.0, 0.2, 0.5, 1.0], np.float32)
WALK = smc.random_walk(0.2)
RESAMPLE_MOVE = smc.resample_move(WALK, RESAMPLE_SOMETIMES)
FILTERS = {
    "auxiliary": lambda table, n: smc.auxiliary_filter(
        filter_model(table), n, lambda x, t: 0.5 * x["x"], RESAMPLE_SOMETIMES
    ),
    "look-ahead": lambda table, n: smc.lookahead_filter(filter_model(table), n, 3),
    "islands": lambda table, n: islands(table, n // 2 or 1, 2 if n > 1 else 1),
}
SAMPLERS = {
    "tempering": lambda table, n: smc.tempering(posterior(table), n, SCHEDULE, RESAMPLE_MOVE),
    # Without its horizon: every algorithm here is run for the same number of steps.
    "adaptive": lambda table, n: smc.Algorithm(
        *smc.adaptive_tempering(posterior(table), n, RESAMPLE_MOVE, fraction=0.95)
    ),
}
WASTE_FREE = {
    "waste-free": lambda table, n: smc.tempering(
        posterior(table), n, SCHEDULE, smc.waste_free(WALK, n // 2)
    ),
}
ALL = FILTERS | SAMPLERS | WASTE_FREE
algorithms = pytest.mark.parametrize("name", ALL)


@partial(jax.jit, static_argnames=("name", "n"))
def compiled(key, table, name, n):
    both = lambda state, info: (state, info)  # noqa: E731
    return smc.run(key, ALL[name](table, n), NUM_STEPS, both)[1]


def history(name, n, table, key):
    return jax.tree.map(np.asarray, compiled(key, jnp.float32(table), name, n))


def no_nan(tree) -> bool:
    return not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(tree))


tables = st.lists(
    st.one_of(st.floats(-50.0, 50.0, width=32), st.just(-INF)),
    min_size=NUM_STEPS * NUM_STATES,
    max_size=NUM_STEPS * NUM_STATES,
).map(lambda values: np.reshape(values, (NUM_STEPS, NUM_STATES)))


@algorithms
@settings(deadline=None, max_examples=40)  # the first example compiles
@given(table=tables, seed=st.integers(0, 2**31 - 1))
def test_weights_and_evidence(name, table, seed):
    states, infos = history(name, 4, table, jax.random.key(seed))
    assert no_nan((states, infos))
    dead = infos.status == smc.ALL_DEAD
    assert (dead == (states.log_weights == -INF).all(-1)).all()
    assert (dead == (states.log_evidence == -INF)).all() and (dead == (infos.ess == 0)).all()
    assert (np.diff(dead.astype(int)) >= 0).all()
    totals = np.exp(states.log_weights[~dead].astype(float)).sum(-1)
    np.testing.assert_allclose(totals, 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.cumsum(infos.log_evidence_increment.astype(float)), states.log_evidence, atol=1e-3
    )
    squares = (np.exp(states.log_weights[~dead].astype(float)) ** 2).sum(-1)
    np.testing.assert_allclose(infos.ess[~dead], 1 / squares, rtol=1e-4)
    assert (infos.ancestors >= 0).all() and (infos.ancestors < 4).all()
    assert (infos.ancestors[1:][dead[:-1]] == np.arange(4)).all()
    assert not infos.resampled[1:][dead[:-1]].any() and not infos.resampled[0] * (dead[0])


@algorithms
@pytest.mark.parametrize("n", [1, 2])
def test_few_particles(name, n):
    if name in WASTE_FREE and n == 1:
        pytest.skip("a chain of one point")
    table = np.log(np.arange(1.0, 1 + NUM_STEPS * NUM_STATES)).reshape(NUM_STEPS, NUM_STATES)
    states, infos = history(name, n, table, jax.random.key(1))
    assert states.log_weights.shape == infos.ancestors.shape == (NUM_STEPS, n)
    assert no_nan((states, infos)) and np.isfinite(states.log_evidence).all()


@pytest.mark.parametrize("name", FILTERS)
def test_ancestors_are_the_rows_that_particles_grew_from(name):
    table = 3.0 * np.random.default_rng(0).normal(size=(NUM_STEPS, NUM_STATES))
    keys = jax.random.split(jax.random.key(2), 16)
    states, infos = history(name, 300, table, keys)
    assert infos.resampled[1:].any()
    parents = np.take_along_axis(states.particles["x"][:-1], infos.ancestors[1:], -1)
    assert (states.particles["parent"][1:] == parents).all()


@pytest.mark.slow
@algorithms
def test_problems_see_neither_their_batch_nor_the_devices(name):
    """The same bits alone, among 16, and spread over 8 devices."""
    table = 2.0 * np.random.default_rng(1).normal(size=(NUM_STEPS, NUM_STATES))
    keys = jax.random.split(jax.random.key(2), 16)
    together = history(name, 300, table, keys)
    alone = history(name, 300, table, keys[5])
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(a[:, 5], b)
    # Under an explicit mesh the compiler rounds x + scale * step of a random walk in another way.
    for axis_type in (AxisType.Auto, AxisType.Explicit) if name in FILTERS else (AxisType.Auto,):
        mesh = jax.make_mesh((8,), ("problem",), axis_types=(axis_type,))
        spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
        states, infos = compiled(spread, jnp.float32(table), name, 300)
        assert len(states.log_weights.sharding.device_set) == 8
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves((states, infos)), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))
