"""Tuned kernels: what they are built from by NumPy, steps by hand, E[Z_hat] = Z once frozen.

20 000 runs of 8 particles, |z| < 4 on three statistics: a correct sampler fails with probability
1.9e-4; the keys are fixed. The kernels were found by another run, on 8 particles too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from pfjax import smc

NUM_RUNS, N = 20_000, 8
SCHEDULE = np.array([0.02, 0.1, 0.4, 1.0], np.float32)
SOMETIMES = smc.when(smc.ess_below(0.6), smc.systematic)
normal = jax.scipy.stats.norm


def build(spread, step_size):
    return smc.random_walk(jax.tree.map(lambda s: 2.0 * step_size * s, spread.std))


def one_seen(scale: float):
    """Prior N(0.5, 1) times `scale`, seen once at 1.3 in noise 0.3, both times `scale`."""
    return smc.Posterior(
        sample_prior=lambda key: scale * (0.5 + jax.random.normal(key)),
        log_prior=lambda x: normal.logpdf(x, 0.5 * scale, scale),
        log_likelihood=lambda x: normal.logpdf(x, 1.3 * scale, 0.3 * scale),
    )


def answer(scale: float) -> tuple[float, float, float]:
    """Evidence, mean and standard deviation of the posterior."""
    precision = 1 + 1 / 0.09
    evidence = stats.norm.pdf(1.3 * scale, 0.5 * scale, scale * 1.09**0.5)
    return evidence, scale * (0.5 + 1.3 / 0.09) / precision, scale * precision**-0.5


def tuned_state(n: int, key) -> smc.State:
    """Positions of two leaves, unequal weights, two rows dead and one of those far out."""
    rng = np.random.default_rng(4)
    position = {
        "a": rng.normal(2.0, 3.0, size=(n, 2)).astype(np.float32),
        "b": rng.integers(-5, 6, size=n).astype(np.int32),
    }
    position["a"][3] = np.inf
    log_w = rng.normal(size=n).astype(np.float32)
    log_w[[3, 5]] = -np.inf
    x = smc.Tempered(position, *jnp.ones((4, n), jnp.float32))
    state = smc.start(key, jax.tree.map(jnp.asarray, x), n)
    return state._replace(log_weights=smc.normalise(jnp.asarray(log_w)))


def test_the_spread_is_that_of_the_weighted_particles():
    state = tuned_state(40, jax.random.key(0))
    spread, step_size = jax.jit(smc.tuning)(state)
    x, w = state.particles.position, np.exp(np.asarray(state.log_weights, float))
    live = w > 0
    flat = np.column_stack([x["a"], x["b"]]).astype(float)[live]
    mean = np.average(flat, axis=0, weights=w[live])
    covariance = np.cov(flat.T, aweights=w[live], ddof=0)
    np.testing.assert_allclose(np.append(spread.mean["a"], spread.mean["b"]), mean, rtol=1e-5)
    np.testing.assert_allclose(spread.covariance, covariance, rtol=1e-4, atol=1e-5)
    std = np.append(spread.std["a"], spread.std["b"])
    np.testing.assert_allclose(std, np.sqrt(np.diag(covariance)), rtol=1e-5)
    assert spread.std["b"].shape == () and step_size == 1
    dead = state._replace(log_weights=jnp.full(40, -jnp.inf))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(smc.tuning(dead).spread))


def test_the_step_follows_the_rate_of_the_live():
    """One move from weights 0.1, 0.2, 0.3, 0.4 and 0, whose acceptance rates are known."""
    rates = jnp.array([0.9, 0.1, jnp.nan, 0.5, 1.0])

    def known(spread, step_size):
        def kernel(key, x, log_density):
            return x, smc.KernelInfo(rates[x.astype(jnp.int32)], step_size)

        return kernel

    stay = smc.when(smc.never, smc.systematic)
    move = smc.tuned_move(known, stay, target_rate=0.3, gain=1.5)
    x = smc.Tempered(jnp.arange(5.0), *jnp.zeros((3, 5)), jnp.full(5, 2.0))
    state = smc.start(jax.random.key(0), x, 5)
    state = state._replace(log_weights=jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4, 0.0])))
    run = jax.jit(lambda state: move(jax.random.key(1), state, one_seen(1.0)))
    moved, _, _, told = run(state)
    rate = 0.1 * 0.9 + 0.2 * 0.1 + 0.3 * 0 + 0.4 * 0.5
    expected = 2 * np.exp(1.5 * (rate - 0.3))
    np.testing.assert_allclose(moved.particles.step_size, expected, rtol=1e-5)
    assert (told.step_size == 2).all()
    dead = state._replace(log_weights=jnp.full(5, -jnp.inf))
    assert (run(dead)[0].particles.step_size == 2).all()


def test_two_scales_in_one_batch():
    """Posteriors 10^4 apart: each problem finds its own step; 64 runs of 400 particles, |z| < 4."""
    scales = jnp.float32(np.repeat([0.01, 100.0], 64))

    @jax.jit
    @jax.vmap
    def run(key, scale):
        move = smc.tuned_move(build, target_rate=0.44)
        algorithm = smc.adaptive_tempering(one_seen(scale), 400, move, fraction=0.8)
        return smc.run_until(key, algorithm, smc.at_posterior, 21)

    state, infos = run(jax.random.split(jax.random.key(6), 128), scales)
    last = np.asarray(state.t)
    assert (state.particles.inverse_temperature == 1).all() and last.max() < 20
    for half, scale in ((slice(0, 64), 0.01), (slice(64, 128), 100.0)):
        evidence, _, std = answer(scale)
        ratio = np.exp(np.asarray(state.log_evidence[half], float)) / evidence
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 8 and ratio.std() < 0.1
        rows = np.arange(128)[half], last[half]
        used = np.asarray(infos.kernel.step_size)[rows][:, 0]
        assert (used > 1.2 * std).all() and (used < 8 * std).all()
        assert 0.3 < np.asarray(infos.kernel.acceptance_rate)[rows].mean() < 0.7


@pytest.fixture(scope="module")
def found():
    """What one run with few particles is tuned to."""
    algorithm = smc.tempering(one_seen(3.0), N, SCHEDULE, smc.tuned_move(build, SOMETIMES))
    collect = lambda state, info: smc.tuning(state)  # noqa: E731
    run = jax.jit(lambda key: smc.run(key, algorithm, len(SCHEDULE), collect)[1])
    return run(jax.random.key(2))


def z_scores(rejuvenate) -> np.ndarray:
    algorithm = smc.tempering(one_seen(3.0), N, SCHEDULE, rejuvenate)
    keys = jax.random.split(jax.random.key(17), NUM_RUNS)
    state, _ = jax.jit(lambda keys: smc.run(keys, algorithm, len(SCHEDULE)))(keys)
    evidence, mean, std = answer(3.0)
    ratio = np.exp(np.asarray(state.log_evidence, float)) / evidence
    x, w = (np.asarray(a, float) for a in (state.particles.position, np.exp(state.log_weights)))
    x = x / std
    estimates = [
        ratio - 1,
        ratio * (w * x).sum(1) - mean / std,
        ratio * (w * x**2).sum(1) - 1 - (mean / std) ** 2,
    ]
    errors = np.std(estimates, axis=1) / NUM_RUNS**0.5
    assert errors[0] < 0.01
    return np.mean(estimates, axis=1) / errors


def test_frozen_is_unbiased(found):
    assert len(np.unique(found.step_size)) == len(SCHEDULE)
    z = z_scores(smc.frozen_move(build, found, SOMETIMES))
    assert (np.abs(z) < 4).all(), z


@pytest.mark.slow
def test_the_test_sees_a_kernel_of_another_target(found):
    def hotter(spread, step_size):
        kernel = build(spread, step_size)
        return lambda key, x, log_density: kernel(key, x, lambda x: 0.5 * log_density(x))

    assert np.abs(z_scores(smc.frozen_move(hotter, found, SOMETIMES))).max() > 6


def test_frozen_makes_the_run_that_it_was_found_in(found):
    """The same key, the same kernels: the same bits."""
    runs = []
    for move in (smc.tuned_move(build, SOMETIMES), smc.frozen_move(build, found, SOMETIMES)):
        algorithm = smc.tempering(one_seen(3.0), N, SCHEDULE, move)
        run = jax.jit(lambda key, a=algorithm: smc.run(key, a, len(SCHEDULE))[0])
        runs.append(run(jax.random.key(2)))
    np.testing.assert_allclose(runs[0].particles.position, runs[1].particles.position, rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch():
    algorithm = smc.tempering(one_seen(3.0), 300, SCHEDULE, smc.tuned_move(build, SOMETIMES))
    collect = lambda state, info: (state, info, smc.tuning(state))  # noqa: E731
    run = jax.jit(lambda key: smc.run(key, algorithm, len(SCHEDULE), collect)[1])
    keys = jax.random.split(jax.random.key(3), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(jax.sharding.AxisType.Auto,))
    together, alone = run(keys), run(keys[5])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].log_weights.sharding.device_set) == 8
    trees = (jax.tree.leaves(tree) for tree in (together, spread, alone))
    for a, b, c in zip(*trees, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))
        np.testing.assert_array_equal(a[:, 5], c)


def test_refusals():
    for target_rate in (0, 1.0):
        with pytest.raises(ValueError, match=f"target_rate: got {target_rate}"):
            smc.tuned_move(build, target_rate=target_rate)
    with pytest.raises(ValueError, match="gain: got -1"):
        smc.tuned_move(build, gain=-1)
    silent = smc.tuned_move(lambda spread, step_size: lambda key, x, log_density: (x, ()))
    with pytest.raises(ValueError, match=r"kernel: got a tuple .*want an `acceptance_rate`"):
        smc.tempering(one_seen(1.0), 4, SCHEDULE, silent).init(jax.random.key(0))
