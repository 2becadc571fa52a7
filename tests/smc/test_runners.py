"""Runners: the same bits from every runner, batch and device count; gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

NUM_STEPS, N = 9, 37


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


def test_problems_do_not_see_their_batch(compiled_run, reference, keys):
    for i in (0, 7, 15):
        state, infos = compiled_run(keys[i])
        assert_same_bits(state, jax.tree.map(lambda x, i=i: x[i], reference[0]))
        assert_same_bits(infos, jax.tree.map(lambda x, i=i: x[:, i], reference[1]))


def test_vmap_gives_the_bits_of_leading_axes(compiled_run, reference, keys):
    state, infos = jax.jit(jax.vmap(jax.vmap(compiled_run), out_axes=1))(keys.reshape(2, 8))
    flat = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(16, *x.shape[2:]), host(state))
    assert_same_bits(flat, reference[0])
    assert infos.ess.shape == (8, 2, NUM_STEPS)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
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


def test_run_until_for_one_problem(compiled_until, keys):
    together, infos = host(compiled_until(keys, jnp.arange(16, dtype=jnp.int32) % NUM_STEPS))
    for i in (0, 3):
        alone, rows = compiled_until(keys[i], jnp.int32(i))
        assert_same_bits(alone, jax.tree.map(lambda x, i=i: x[i], together))
        assert_same_bits(rows, jax.tree.map(lambda x, i=i: x[:, i], infos))


def test_run_until_with_one_flag_for_all(algorithm, reference, keys):
    def until(keys):
        return smc.run_until(keys, algorithm, lambda state: (state.t >= 2).all(), NUM_STEPS)

    state, infos = host(jax.jit(until)(keys))
    assert state.t.tolist() == [2] * 16
    assert_same_bits(*jax.tree.map(lambda x: x[:3], (infos, reference[1])))


def test_collect_sees_the_weighted_state(algorithm, keys):
    def run(key):
        return smc.run(key, algorithm, 5, lambda state, info: (info, state))

    state, (infos, states) = host(jax.jit(run)(keys[0]))
    assert_same_bits(jax.tree.map(lambda x: x[-1], states), state)
    assert states.t.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(
        infos.ess, 1 / np.exp(2 * np.asarray(states.log_weights)).sum(1), rtol=1e-5
    )


@pytest.mark.parametrize("resampler", [smc.systematic, smc.when(smc.never, smc.systematic)])
def test_gradient_with_fixed_ancestors(resampler):
    """d log Z_hat / d theta in closed form; a third of the particles die on the way."""

    def filter_with(theta):
        return smc.particle_filter(
            smc.lift(
                init=lambda key: jax.random.normal(key),
                propagate=lambda key, x, t: 0.5 * x + jax.random.normal(key),
                log_potential=lambda x, t: jnp.where(x > 1.5, -jnp.inf, -0.5 * (x - theta) ** 2),
            ),
            N,
            resampler,
        )

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(theta):
        state, history = smc.run(
            jax.random.key(1), filter_with(theta), 4, lambda state, info: (state, info)
        )
        return state.log_evidence, history

    theta = 0.3
    slope, (states, infos) = gradient(jnp.float32(theta))
    x, w = np.asarray(states.particles), np.exp(np.asarray(states.log_weights, float))
    assert (w == 0).any()
    if infos.resampled.any():
        exact = (w * (x - theta)).sum()
    else:
        exact = (w[-1] * (x - theta).sum(0)).sum()
    np.testing.assert_allclose(slope, exact, rtol=1e-5)


def test_gradient_is_finite_when_all_are_dead():
    def log_evidence(theta):
        model = smc.lift(
            init=lambda key: theta * jax.random.normal(key),
            propagate=lambda key, x, t: x + theta,
            log_potential=lambda x, t: jnp.where(t == 2, -jnp.inf, -theta * x**2),
        )
        return smc.run(jax.random.key(0), smc.particle_filter(model, 4), 4)[0].log_evidence

    assert np.isfinite(jax.jit(jax.grad(log_evidence))(jnp.float32(0.7)))


@pytest.mark.parametrize("runner", [smc.run, lambda k, a, n: next(smc.iterate(k, a, n))])
def test_refusals(algorithm, runner):
    with pytest.raises(ValueError, match="got 0, want at least 1"):
        runner(jax.random.key(0), algorithm, 0)
    with pytest.raises(ValueError, match="want a typed key"):
        runner(jax.random.PRNGKey(0), algorithm, 2)
