"""Islands: exchanged whole, weighted exactly, the same bits on any number of devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pfjax import smc

NUM_ISLANDS, N = 16, 20
SYSTEMATIC = smc.in_place(smc.systematic)
EXCHANGES = {
    "every third step": smc.when(smc.every(3), smc.in_place(smc.multinomial)),
    "adaptive": smc.when(smc.ess_below(0.95), SYSTEMATIC),
    "never": smc.when(smc.never, SYSTEMATIC),
}
COLLECTIVE = re.compile(
    r"= (.*) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def scripted(log_g) -> smc.Algorithm:
    """Two particles an island, never resampled within; log G is a table [t, island, particle]."""
    table = jnp.float32(log_g)
    rows = jnp.arange(table.shape[1] * 2).reshape(-1, 2)
    model = smc.FeynmanKac(
        init=lambda keys: {"first": rows, "last": rows},
        propagate=lambda keys, x, t: {"first": x["first"], "last": rows + 10 * t[..., None]},
        weigh=lambda x, t: (x, table[t[0]]),
    )
    return smc.particle_filter(model, 2, smc.when(smc.never, smc.systematic))


def swap(key, log_w, t):
    """Islands 1, 1, 0 with weights 0.2, 0.3, 0.5 left, before generation 2."""
    return jnp.array([1, 1, 0], jnp.int32), jnp.log(jnp.array([0.2, 0.3, 0.5])), jnp.array(True)


def test_a_hand_computed_run():
    """Three islands: weights across them carried once, exchanged once, and then gone."""
    table = np.log(
        [
            [[1.0, 3.0], [2.0, 2.0], [5.0, 1.0]],
            [[1.0, 1.0], [2.0, 4.0], [1e-30, 1e-30]],
            [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        ]
    )
    exchange = smc.when(lambda log_w, t: t == 2, swap)
    algorithm = smc.islands(scripted(table), 3, exchange)
    both = lambda state, info: (state, info)  # noqa: E731
    _, (states, infos) = jax.jit(lambda key: smc.run(key, algorithm, 3, both))(jax.random.key(0))
    w = np.array([1, 3, 2, 2, 5, 1.0])
    np.testing.assert_allclose(np.exp(states.log_weights[0]), w / 14, rtol=1e-5)
    np.testing.assert_allclose(states.log_evidence[0], np.log(14 / 6), rtol=1e-5)
    w = w * [1, 1, 2, 4, 0, 0]
    np.testing.assert_allclose(np.exp(states.log_weights[1]), w / 16, atol=1e-6)
    np.testing.assert_allclose(states.log_evidence[1], np.log(16 / 6), rtol=1e-5)
    np.testing.assert_allclose(infos.ess[1], 16**2 / (w**2).sum(), rtol=1e-5)
    inside = np.array([1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 4, 3 / 4])
    w = np.repeat([0.2, 0.3, 0.5], 2) * inside * [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(np.exp(states.log_weights[2]), w / w.sum(), rtol=1e-5)
    np.testing.assert_allclose(states.log_evidence[2], np.log(16 / 6 * w.sum()), rtol=1e-5)
    assert infos.ancestors[2].tolist() == [2, 3, 2, 3, 0, 1]
    assert states.particles["first"][2].tolist() == [2, 3, 2, 3, 0, 1]
    assert states.particles["last"][2].tolist() == [20, 21, 22, 23, 24, 25]
    assert infos.resampled.tolist() == [False, False, True] and states.t.tolist() == [0, 1, 2]


def test_a_dead_island_is_replaced():
    table = np.zeros((3, 4, 2), np.float32)
    table[0, 1] = table[0, 3] = table[1, 3] = -np.inf
    algorithm = smc.islands(scripted(table), 4, smc.when(smc.every(1), SYSTEMATIC))
    state, infos = jax.jit(lambda key: smc.run(key, algorithm, 3))(jax.random.key(1))
    assert {a // 2 for a in infos.ancestors[1].tolist()} == {0, 2}
    assert np.isfinite(state.log_weights).all() and infos.ess.tolist()[0] == 4
    # Half are dead at first, then a quarter.
    np.testing.assert_allclose(state.log_evidence, np.log(1 / 2 * 3 / 4), rtol=1e-5)


def test_one_island_is_the_algorithm(autoregression):
    inner = smc.particle_filter(autoregression, 20)
    key = jax.random.key(3)

    @jax.jit
    def both(key):
        k_init, k_step = (jax.random.split(k)[1] for k in jax.random.split(key))
        alone = inner.init(jax.random.fold_in(k_init, 0))[0]
        alone = inner.step(jax.random.fold_in(k_step, 0), alone)[0]
        k_init, k_step = jax.random.split(key)
        outer = smc.islands(inner, 1)
        return alone, outer.step(k_step, outer.init(k_init)[0])[0]

    alone, one = both(key)
    assert (alone.particles == one.particles).all()
    np.testing.assert_allclose(one.log_weights, alone.log_weights, atol=1e-5)
    np.testing.assert_allclose(one.log_evidence, alone.log_evidence, rtol=1e-5)


def test_every_particle_of_every_island_has_its_own_key():
    model = smc.FeynmanKac(
        init=lambda keys: keys,
        propagate=lambda keys, x, t: keys,
        weigh=lambda x, t: (x, jnp.zeros(x.shape)),
    )
    algorithm = smc.islands(smc.particle_filter(model, 5), 3)

    @jax.jit
    def run(keys):
        seen = smc.run(keys, algorithm, 4, lambda state, info: state.particles)[1]
        return jax.random.key_data(seen)

    data = np.asarray(run(jax.random.split(jax.random.key(0)))).reshape(-1, 2)
    assert len(np.unique(data, axis=0)) == 4 * 2 * 3 * 5


def rows_over(num_devices: int):
    """Shardings of what has the rows of all islands as its last axis; the rest is everywhere."""
    mesh = Mesh(jax.devices()[:num_devices], ("island",), axis_types=(AxisType.Auto,))

    def place(tree):
        return jax.tree.map(
            lambda x: NamedSharding(
                mesh, PartitionSpec("island") if x.shape == (NUM_ISLANDS * N,) else PartitionSpec()
            ),
            tree,
        )

    return place


@pytest.fixture(scope="module")
def on_devices(autoregression):
    """The compiled step, and state and infos of six generations, by exchange and device count."""

    def build(name, num_devices):
        algorithm = smc.islands(
            smc.particle_filter(autoregression, N), NUM_ISLANDS, EXCHANGES[name]
        )
        key = jax.random.key(11)
        place = rows_over(num_devices)(jax.eval_shape(algorithm.init, key))
        state, info = jax.jit(algorithm.init, out_shardings=place)(key)
        keys = jax.random.split(key, 5)
        step = jax.jit(algorithm.step, out_shardings=place).lower(keys[0], state).compile()
        infos = [info]
        for k in keys:
            state, info = step(jax.device_put(k, place[0].t), state)
            infos.append(info)
        return step, state, infos

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", EXCHANGES)
def test_devices_change_no_bit(on_devices, name):
    """1, 2, 4, 8 devices hold 16 islands; rows travel only inside a branch, or not at all."""
    _, *reference = on_devices(name, 1)
    reference = jax.tree.map(np.asarray, reference)
    assert any(info.resampled for info in reference[1])
    moved = [
        np.any(info.ancestors // N != np.arange(NUM_ISLANDS * N) // N) for info in reference[1]
    ]
    assert any(moved) == (name != "never")
    for num_devices in (2, 4, 8):
        step, state, infos = on_devices(name, num_devices)
        assert len(state.particles.sharding.device_set) == num_devices
        for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves((state, infos)), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))
        large = large_collectives(step.as_text())
        assert not any(entry for entry, _ in large)
        assert bool(large) == (name != "never")


def large_collectives(hlo: str) -> list[tuple[bool, str]]:
    """Collectives on more than one number an island, and whether they run at every step."""
    found, in_entry = [], False
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            in_entry = line.startswith("ENTRY")
        if collective := COLLECTIVE.search(line):
            sizes = re.findall(r"\w+\[([\d,]*)\]", collective[1])
            largest = max(np.prod([int(d) for d in s.split(",") if d]) for s in sizes)
            if largest > 2 * NUM_ISLANDS:
                found.append((in_entry, line.strip()))
    return found


def test_the_steps_of_islands_need_no_communication(autoregression):
    """What islands do apart compiles, over 8 devices, to a program without any collective."""
    inner = smc.particle_filter(autoregression, 20)
    mesh = Mesh(jax.devices(), ("island",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("island"))
    keys = jax.device_put(jax.random.split(jax.random.key(0), NUM_ISLANDS), spread)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread),
        jax.eval_shape(inner.init, keys)[0],
    )
    hlo = jax.jit(inner.step, out_shardings=spread).lower(keys, state).compile().as_text()
    assert "num_partitions=8" in hlo and not COLLECTIVE.search(hlo)


def test_refusals(autoregression):
    inner = smc.particle_filter(autoregression, 2)
    with pytest.raises(ValueError, match="num_islands: got 0, want at least 1"):
        smc.islands(inner, 0)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.islands(inner, 2).init(jax.random.PRNGKey(0))
