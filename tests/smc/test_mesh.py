"""Particles over 1, 2, 4 and 8 devices: every bit is that of the filter without a mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

N, NUM_STEPS = 64, 9
INF = float("inf")
AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])


def particle_mesh(size=8, axis_type=AxisType.Auto):
    return jax.make_mesh(
        (size,), ("particle",), axis_types=(axis_type,), devices=jax.devices()[:size]
    )


def host(tree):
    return jax.tree.map(np.asarray, tree)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(host(a)), jax.tree.leaves(host(b)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def model() -> smc.FeynmanKac:
    """Elementwise in the particle, two leaves; some die, and all of them in the last generation."""

    def init(key):
        now = jax.random.normal(key)
        return {"now": now, "past": jnp.stack([now, now, now])}

    def propagate(key, x, t):
        new = 0.9 * x["now"] + jax.random.normal(key) - 0.3
        return {"now": new, "past": jnp.roll(x["past"], 1).at[0].set(new)}

    def log_potential(x, t):
        log_g = -2.0 * (jnp.sin(x["now"]) - 0.1 * t.astype(jnp.float32)) ** 2
        return jnp.where((x["now"] > 0.9) | (t == NUM_STEPS - 1), -INF, log_g)

    return smc.lift(init, propagate, log_potential)


def whole_run(key, algorithm):
    return smc.run(key, algorithm, NUM_STEPS, lambda state, info: (state, info))[1]


RESAMPLERS = (smc.adaptive_systematic, smc.multinomial)


@pytest.fixture(scope="module")
def reference(model):
    """Four problems, without a mesh, for each resampler."""
    keys = jax.random.split(jax.random.key(3), 4)
    filters = [smc.particle_filter(model, N, resampler) for resampler in RESAMPLERS]
    runs = host(jax.jit(lambda keys: [whole_run(keys, pf) for pf in filters])(keys))
    states, infos = runs[0]
    assert 8 < infos.resampled.sum() < 28 and infos.status[-1].tolist() == [smc.ALL_DEAD] * 4
    assert not np.isneginf(states.log_weights[:-1]).all(-1).any()
    return keys, runs


def on(mesh, model, resampler, move):
    sharded = smc.shard_particles(model, mesh)
    return smc.particle_filter(sharded, N, smc.on_mesh(resampler, mesh), move=move)


@pytest.mark.parametrize(
    ("axis_type", "size"),
    [(AxisType.Auto, size) for size in (1, 2, 4, 8)]
    + [(AxisType.Explicit, 8)]
    + [pytest.param(AxisType.Explicit, size, marks=pytest.mark.slow) for size in (1, 2, 4)],
)
def test_bits_do_not_depend_on_the_number_of_devices(model, reference, axis_type, size):
    """Both moves, and the exchange with room for one row, which falls back."""
    mesh = particle_mesh(size, axis_type)
    adaptive, multinomial = RESAMPLERS
    filters = [
        on(mesh, model, adaptive, smc.all_to_all_rows(mesh)),
        on(mesh, model, adaptive, smc.all_gather_rows(mesh)),
        on(mesh, model, multinomial, smc.all_to_all_rows(mesh, capacity=1)),
    ]
    key, runs = reference[0][0], jax.tree.map(lambda x: x[:, 0], reference[1])
    results = jax.jit(lambda key: [whole_run(key, pf) for pf in filters])(key)
    for result, expected in zip(results, [runs[0], runs[0], runs[1]], strict=True):
        assert_same_bits(result, expected)
        rows, log_w = result[0].particles["past"].sharding, result[0].log_weights.sharding
        assert rows.shard_shape((NUM_STEPS, N, 3)) == (NUM_STEPS, N // size, 3)
        assert log_w.is_fully_replicated


@AXIS_TYPES
def test_problems_by_particles(model, reference, axis_type):
    mesh = jax.make_mesh((2, 4), ("problem", "particle"), axis_types=(axis_type,) * 2)
    keys, (expected, _) = reference
    keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    algorithm = on(mesh, model, smc.adaptive_systematic, smc.all_to_all_rows(mesh))
    result = jax.jit(lambda keys: whole_run(keys, algorithm))(keys)
    assert_same_bits(result, expected)
    shape = (NUM_STEPS, 4, N)
    assert result[0].particles["now"].sharding.shard_shape(shape) == (NUM_STEPS, 2, N // 4)


def test_groups_of_devices_that_run_their_own_problems(model, reference):
    """Manual over problems, as solvers are: the particle axis is placed within."""
    mesh = jax.make_mesh((2, 4), ("problem", "particle"))
    algorithm = on(mesh, model, smc.adaptive_systematic, smc.all_to_all_rows(mesh, capacity=2))
    grouped = jax.shard_map(
        lambda keys: whole_run(keys, algorithm)[1],
        mesh=mesh,
        in_specs=PartitionSpec("problem"),
        out_specs=PartitionSpec(None, "problem"),
        axis_names={"problem"},
    )
    keys, ((_, expected), _) = reference
    keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    assert_same_bits(jax.jit(grouped)(keys), expected)


def test_bits_do_not_depend_on_where_results_are_wanted(model, reference):
    """Weights asked for in shards: the compiler may then sum shards, in the same order."""
    mesh = particle_mesh()
    algorithm = on(mesh, model, smc.adaptive_systematic, smc.all_gather_rows(mesh))
    keys, ((states, _), _) = reference

    def log_weights(keys):
        return whole_run(keys, algorithm)[0].log_weights

    shards = NamedSharding(mesh, PartitionSpec(None, None, "particle"))
    assert_same_bits(jax.jit(log_weights, out_shardings=shards)(keys), states.log_weights)


@AXIS_TYPES
@pytest.mark.parametrize("resampler", RESAMPLERS, ids=["adaptive systematic", "multinomial"])
def test_a_resampler_takes_weights_in_shards(axis_type, resampler):
    mesh, n = particle_mesh(8, axis_type), 4096
    log_w = smc.normalise(2 * jax.random.normal(jax.random.key(1), (3, n)))
    keys, t = jax.random.split(jax.random.key(0), 3), jnp.ones(3, jnp.int32)
    expected = jax.jit(resampler)(keys, log_w, t)
    shards = jax.device_put(log_w, NamedSharding(mesh, PartitionSpec(None, "particle")))
    result = jax.jit(smc.on_mesh(resampler, mesh))(keys, shards, t)
    assert_same_bits(result, expected)
    assert all(leaf.sharding.is_fully_replicated for leaf in result) and result[2].all()


def rows(batch=()):
    """Leaves of three types, one of them typed keys."""
    slots = np.arange(np.prod((*batch, 16))).reshape(*batch, 16)
    keys = jax.random.split(jax.random.key(0), slots.shape)
    return {"slot": slots.astype(np.int32), "matrix": np.stack([slots, -slots], -1) % 3 > 0}, keys


@pytest.fixture(scope="module")
def moves():
    mesh = particle_mesh()
    kinds = [smc.all_gather_rows(mesh)]
    kinds += [smc.all_to_all_rows(mesh, capacity=capacity) for capacity in (None, 1, 2)]

    @jax.jit
    def moved(ancestors):
        results = [kind(rows((2,)), ancestors) for kind in kinds]
        return [(tree, jax.random.key_data(keys)) for tree, keys in results]

    return moved


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 15), min_size=32, max_size=32))
def test_moves_are_exact_for_any_ancestors(moves, ancestors):
    ancestors = np.int32(ancestors).reshape(2, 16)
    tree, keys = host(jax.tree.map(jnp.asarray, rows((2,))[0])), rows((2,))[1]
    problem = np.arange(2)[:, None]
    for moved, words in moves(ancestors):
        assert (moved["slot"] == tree["slot"][problem, ancestors]).all()
        assert (moved["matrix"] == tree["matrix"][problem, ancestors]).all()
        assert (words == np.asarray(jax.random.key_data(keys))[problem, ancestors]).all()


@pytest.mark.parametrize(
    ("wanted", "falls_back"),
    [
        ({}, [False, False]),
        ({0: 15, 1: 15}, [False, False]),
        ({0: 14, 1: 15}, [True, False]),
        ({0: 1, 1: 0}, [False, False]),
    ],
    ids=["none moves", "one row twice", "two rows of one device", "two rows within a device"],
)
def test_the_fall_back_is_taken_when_a_pair_of_devices_needs_more(monkeypatch, wanted, falls_back):
    """Room for one or two rows; a fall-back that returns zeros shows when it is taken."""
    monkeypatch.setattr(
        "pfjax.smc.mesh._take_from_all",
        lambda x, ancestors, axis: jax.tree.map(jnp.zeros_like, x),
    )
    ancestors = np.arange(16, dtype=np.int32)
    ancestors[list(wanted)] = list(wanted.values())
    x = 1 + jnp.arange(16)
    for capacity, zeros in zip([1, 2], falls_back, strict=True):
        moved = jax.jit(smc.all_to_all_rows(particle_mesh(), capacity=capacity))(x, ancestors)
        assert moved.tolist() == ([0] * 16 if zeros else (1 + ancestors).tolist())


def test_rows_are_gathered_in_the_fall_back_only():
    mesh = particle_mesh()
    x = jax.device_put(jnp.zeros((N, 40)), NamedSharding(mesh, PartitionSpec("particle")))
    ancestors = jnp.arange(N, dtype=jnp.int32)
    text = jax.jit(smc.all_to_all_rows(mesh)).lower(x, ancestors).compile().as_text()
    bodies = dict(re.findall(r"^(?:ENTRY )?(%\S+) .*?\{\n(.*?)^\}", text, re.M | re.S))

    def reached(name):
        called = {c for c in re.findall(r"%[\w.\-]+", bodies[name]) if c in bodies}
        return bodies[name] + "".join(reached(c) for c in sorted(called))

    (entry,) = (body for body in bodies.values() if " conditional(" in body)
    branches = re.search(r"branch_computations=\{(.*?)\}", entry)
    if branches:
        exchange, fall_back = branches[1].split(", ")
    else:
        exchange, fall_back = (
            re.search(rf"{which}_computation=(%[\w.\-]+)", entry)[1] for which in ("false", "true")
        )
    assert "all-gather" in reached(fall_back) and "all-to-all" in reached(exchange)
    assert "all-gather" not in reached(exchange) and "all-gather" not in entry


def test_refusals(model):
    mesh = particle_mesh()
    algorithm = smc.particle_filter(smc.shard_particles(model, mesh), 12)
    with pytest.raises(ValueError, match="n: got 12 particles for 8 devices of mesh axis 'parti"):
        algorithm.init(jax.random.key(0))
    with pytest.raises(ValueError, match="n: got 4 particles for 8 devices"):
        smc.all_gather_rows(mesh)(jnp.zeros(4), jnp.arange(4))
    with pytest.raises(ValueError, match="capacity: got 0, want at least 1"):
        smc.all_to_all_rows(mesh, capacity=0)
