"""Runners: the same bits from every runner, batch and device count; gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

# Above 255 particles the order of a plain XLA sum depends on the shape of the batch.
NUM_STEPS, N = 9, 300


def host(tree):
    return jax.tree.map(np.asarray, tree)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(host(a)), jax.tree.leaves(host(b)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def algorithm(autoregression):
    return smc.particle_filter(autoregression, N)


@pytest.fixture(scope="module")
def compiled_run(algorithm):
    return jax.jit(lambda key: smc.run(key, algorithm, NUM_STEPS))


@pytest.fixture(scope="module")
def compiled_until(algorithm):
    """Stops each problem at generation `stop`."""

    def until(key, stop):
        return smc.run_until(key, algorithm, lambda state: state.t >= stop, NUM_STEPS)

    return jax.jit(until)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(11), 16)


@pytest.fixture(scope="module")
def reference(compiled_run, keys):
    state, infos = host(compiled_run(keys))
    assert infos.resampled.any() and not infos.resampled.all()
    assert infos.ess.shape == (NUM_STEPS, 16)
    return state, infos


def test_iterate_gives_the_bits_of_run(algorithm, reference, keys):
    states, infos = zip(*map(host, smc.iterate(keys, algorithm, NUM_STEPS)), strict=True)
    assert_same_bits(states[-1], reference[0])
    assert_same_bits(jax.tree.map(lambda *rows: np.stack(rows), *infos), reference[1])


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_run_in_one(
    algorithm, compiled_until, compiled_run, keys, reference
):
    """From one generation, and, problem by problem, from where `run_until` ended each."""
    state, infos = reference
    half, _ = compiled_until(keys, jnp.full(16, 3, jnp.int32))
    goes_on = jax.jit(lambda key, state: smc.run(key, algorithm, 5, state=state))
    end, rest = goes_on(keys, half)
    assert_same_bits(end, state)
    assert_same_bits(rest, jax.tree.map(lambda x: x[4:], infos))

    stop = jnp.arange(16, dtype=jnp.int32) % 4
    half, _ = compiled_until(keys, stop)
    end, rest = goes_on(keys, half)
    assert end.t.tolist() == (stop + 5).tolist()
    for i in (0, 3):
        rows = slice(i % 4 + 1, i % 4 + 6)
        assert_same_bits(
            *(
                jax.tree.map(lambda x, i=i: x[:, i], r)
                for r in (rest, jax.tree.map(lambda x, rows=rows: x[rows], infos))
            )
        )


@pytest.mark.slow
def test_iterate_goes_on_too(algorithm, reference, keys):
    states, _ = zip(*smc.iterate(keys, algorithm, 4), strict=True)
    state, infos = zip(*smc.iterate(keys, algorithm, 5, state=states[-1]), strict=True)
    assert_same_bits(state[-1], reference[0])
    infos = jax.tree.map(lambda *rows: np.stack(rows), *map(host, infos))
    assert_same_bits(infos, jax.tree.map(lambda x: x[4:], reference[1]))


def test_a_path_has_no_generation():
    """Kernels on paths go on from a path, under the key that they are given."""
    algorithm = smc.Algorithm(
        init=lambda key: (jnp.float32(0), ()), step=lambda key, x: (x + 1, jax.random.key_data(key))
    )
    key = jax.random.key(4)
    path, words = smc.run(key, algorithm, 2, state=jnp.float32(7))
    expected = [jax.random.key_data(jax.random.fold_in(key, t)).tolist() for t in (1, 2)]
    assert float(path) == 9 and words.tolist() == expected


def test_problems_do_not_see_their_batch(compiled_run, reference, keys):
    for i in (0, 7, 15):
        state, infos = compiled_run(keys[i])
        assert_same_bits(state, jax.tree.map(lambda x, i=i: x[i], reference[0]))
        assert_same_bits(infos, jax.tree.map(lambda x, i=i: x[:, i], reference[1]))


@pytest.mark.slow
def test_vmap_gives_the_bits_of_leading_axes(compiled_run, reference, keys):
    state, infos = jax.jit(jax.vmap(jax.vmap(compiled_run), out_axes=1))(keys.reshape(2, 8))
    flat = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(16, *x.shape[2:]), host(state))
    assert_same_bits(flat, reference[0])
    assert infos.ess.shape == (8, 2, NUM_STEPS)


@pytest.mark.parametrize(
    "axis_type", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit]
)
def test_eight_devices_give_the_bits_of_one(compiled_run, reference, keys, axis_type):
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(axis_type,))
    spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    state, infos = compiled_run(spread)
    assert len(state.particles.sharding.device_set) == 8
    assert_same_bits((state, infos), reference)


def test_run_until_stops_each_problem_on_its_own(compiled_until, reference, keys):
    """Problem i ends at generation i % 9: its rows are those of run, then nothing happens."""
    stop = np.arange(16, dtype=np.int32) % NUM_STEPS
    state, infos = host(compiled_until(keys, stop))
    assert state.t.tolist() == stop.tolist()
    for i, last in enumerate(stop):
        rows = jax.tree.map(lambda x, i=i: x[:, i], (infos, reference[1]))
        assert_same_bits(*jax.tree.map(lambda x, last=last: x[: last + 1], rows))
        after = jax.tree.map(lambda x, last=last: x[last + 1 :], rows[0])
        assert (after.ancestors == np.arange(N)).all() and not after.resampled.any()
        assert (after.log_evidence_increment == 0).all()
        assert (after.ess == rows[0].ess[last]).all()
    ended = NUM_STEPS - 1
    assert_same_bits(*jax.tree.map(lambda x: x[ended], (state, reference[0])))
    np.testing.assert_allclose(infos.log_evidence_increment.sum(0), state.log_evidence, rtol=1e-5)


@pytest.mark.slow
def test_run_until_for_one_problem(compiled_until, keys):
    together, infos = host(compiled_until(keys, jnp.arange(16, dtype=jnp.int32) % NUM_STEPS))
    for i in (0, 3):
        alone, rows = compiled_until(keys[i], jnp.int32(i))
        assert_same_bits(alone, jax.tree.map(lambda x, i=i: x[i], together))
        assert_same_bits(rows, jax.tree.map(lambda x, i=i: x[:, i], infos))


def counter(batch: tuple[int, ...]) -> smc.Algorithm:
    """Counts its steps with two particles that remember the key they were given."""

    def report(key, t):
        info = smc.Info(
            ancestors=jnp.zeros((*batch, 2), jnp.int32),
            ess=t.astype(jnp.float32),
            resampled=jnp.ones(batch, bool),
            log_evidence_increment=jnp.ones(batch),
            status=jnp.zeros(batch, jnp.int32),
        )
        data = jax.random.key_data(key)
        return smc.start(key, data, 2)._replace(log_evidence=t.astype(jnp.float32), t=t), info

    return smc.Algorithm(
        init=lambda key: report(key, jnp.zeros(batch, jnp.int32)),
        step=lambda key, state: report(key, state.t + 1),
    )


def test_run_until_with_one_flag_for_all(keys):
    algorithm = counter((16,))
    state, infos = smc.run_until(keys, algorithm, lambda state: (state.t >= 2).all(), 7)
    assert state.t.tolist() == [2] * 16
    assert infos.ess[:, 0].tolist() == [0, 1, 2, 2, 2, 2, 2]
    assert infos.resampled[:, 0].tolist() == [True] * 3 + [False] * 4


def test_collect_sees_every_state_and_every_key(keys):
    state, (states, infos) = smc.run(keys[0], counter(()), 5, lambda state, info: (state, info))
    assert states.t.tolist() == [0, 1, 2, 3, 4] == infos.ess.tolist()
    assert_same_bits(jax.tree.map(lambda x: x[-1], states), state)
    for t in range(5):
        expected = jax.random.key_data(jax.random.fold_in(keys[0], t))
        assert states.particles[t].tolist() == expected.tolist()


@pytest.fixture(scope="module")
def gradient():
    """d log Z_hat / d theta, resampling always or never, all particles dead from `end` on."""

    def log_evidence(theta, always, end):
        def log_potential(x, t):
            return jnp.where((x > 1.5) | (t >= end), -jnp.inf, -0.5 * (x - theta) ** 2)

        model = smc.lift(
            init=lambda key: jax.random.normal(key),
            propagate=lambda key, x, t: 0.5 * x + jax.random.normal(key),
            log_potential=log_potential,
        )
        resampler = smc.when(lambda log_w, t: always, smc.systematic)
        algorithm = smc.particle_filter(model, N, resampler)
        state, history = smc.run(jax.random.key(1), algorithm, 4, lambda state, info: (state, info))
        return state.log_evidence, history

    return jax.jit(jax.grad(log_evidence, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("always", [True, False])
def test_gradient_with_fixed_ancestors(gradient, always):
    """Against the closed form; some particles die on the way."""
    theta = 0.3
    slope, (states, infos) = gradient(jnp.float32(theta), always, 9)
    x, w = np.asarray(states.particles), np.exp(np.asarray(states.log_weights, float))
    assert (w == 0).any() and np.asarray(infos.resampled)[1:].tolist() == [always] * 3
    exact = (w * (x - theta)).sum() if always else (w[-1] * (x - theta).sum(0)).sum()
    np.testing.assert_allclose(slope, exact, rtol=1e-5)


def test_gradient_is_finite_when_all_are_dead(gradient):
    slope, (_, infos) = gradient(jnp.float32(0.3), True, 2)
    assert np.asarray(infos.status)[-1] == smc.ALL_DEAD and np.isfinite(slope)


@pytest.mark.parametrize("runner", [smc.run, lambda k, a, n: next(smc.iterate(k, a, n))])
def test_refusals(algorithm, runner):
    with pytest.raises(ValueError, match="got 0, want at least 1"):
        runner(jax.random.key(0), algorithm, 0)
    with pytest.raises(ValueError, match="want a typed key"):
        runner(jax.random.PRNGKey(0), algorithm, 2)
