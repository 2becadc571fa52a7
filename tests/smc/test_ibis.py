"""IBIS on conjugate models: evidence and moments after every observation, moves where resampled.

20 000 runs of 8 particles, |z| < 4 on six evidences and two moments: a correct sampler fails with
probability 5.1e-4; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import special, stats

from pfjax import smc

NUM_RUNS, N = 20_000, 8
SOMETIMES = smc.when(smc.ess_below(0.7), smc.systematic)
FLIPS = np.array([1, 1, 0, 1, 1, 1])
PATH = np.array([0.8, 1.1, 0.3, 0.5, -0.2, -0.6])
MEAN, STD, NOISE = 0.4, 0.6, 0.5


def coin():
    """Bernoulli flips, probability of prior Beta(2, 3): (model, log evidences, two moments)."""
    seen = jnp.asarray(FLIPS, jnp.int32)
    model = smc.PartialPosteriors(
        sample_prior=lambda key: jax.random.beta(key, 2.0, 3.0, dtype=jnp.float32),
        log_prior=lambda x: jnp.where(
            (x > 0) & (x < 1), jnp.log(jnp.abs(x)) + 2 * jnp.log(jnp.abs(1 - x)), -jnp.inf
        ),
        log_likelihood=lambda x, t: jnp.log(jnp.where(seen[t] == 1, x, 1 - x)),
        num_observations=len(FLIPS),
    )
    heads = np.cumsum(FLIPS)
    tails = np.arange(1, len(FLIPS) + 1) - heads
    log_z = special.betaln(2 + heads, 3 + tails) - special.betaln(2, 3)
    law = stats.beta(2 + heads[-1], 3 + tails[-1])
    return model, log_z, (law.mean(), law.moment(2))


def autoregression():
    """y_t = x y_t-1 + noise: every observation given the one before."""
    y = jnp.asarray(np.append(1.0, PATH), jnp.float32)
    normal = jax.scipy.stats.norm
    model = smc.PartialPosteriors(
        sample_prior=lambda key: MEAN + STD * jax.random.normal(key, dtype=jnp.float32),
        log_prior=lambda x: -0.5 * ((x - MEAN) / STD) ** 2 + 3.0,
        log_likelihood=lambda x, t: normal.logpdf(y[t + 1], x * y[t], NOISE),
        num_observations=len(PATH),
    )
    before = np.append(1.0, PATH[:-1])
    log_z = [
        stats.multivariate_normal(
            MEAN * before[:t], STD**2 * np.outer(before[:t], before[:t]) + NOISE**2 * np.eye(t)
        ).logpdf(PATH[:t])
        for t in range(1, len(PATH) + 1)
    ]
    precision = 1 / STD**2 + before @ before / NOISE**2
    mean = (MEAN / STD**2 + before @ PATH / NOISE**2) / precision
    return model, np.array(log_z), (mean, mean**2 + 1 / precision)


def at_the_wrong_temperature(key, x, log_density):
    return smc.random_walk(0.4)(key, x, lambda x: 0.5 * log_density(x))


def z_scores(problem, kernel) -> np.ndarray:
    model, log_z, moments = problem()
    algorithm = smc.ibis(model, N, kernel, SOMETIMES)

    def collect(state, info):
        return state.log_evidence, info.resampled

    keys = jax.random.split(jax.random.key(5), NUM_RUNS)
    run = jax.jit(lambda keys: smc.run(keys, algorithm, len(log_z), collect))
    state, (evidence, resampled) = jax.tree.map(np.asarray, run(keys))
    assert 0.5 < resampled.sum(0).mean() < len(log_z) - 2 and resampled.sum(0).max() > 1
    ratio = np.exp(evidence.astype(float) - log_z[:, None])
    x, w = state.particles.astype(float), np.exp(state.log_weights.astype(float))
    estimates = [*(ratio - 1)]
    for power, exact in zip((1, 2), moments, strict=True):
        estimates.append(ratio[-1] * (w * x**power).sum(1) - exact)
    errors = np.std(estimates, axis=1) / NUM_RUNS**0.5
    assert errors.max() < 0.01
    return np.mean(estimates, axis=1) / errors


@pytest.mark.parametrize("problem", [coin, autoregression])
def test_unbiased(problem):
    z = z_scores(problem, smc.random_walk(0.4))
    assert (np.abs(z) < 4).all(), z


@pytest.mark.slow
def test_the_test_sees_a_kernel_of_another_target():
    assert np.abs(z_scores(coin, at_the_wrong_temperature)).max() > 6


def test_the_kernel_gets_the_density_of_what_was_seen_before():
    """log gamma_t-1 at 0.3, told by a kernel that stays, against sums in float64."""
    model, log_z, _ = coin()

    def tell(key, x, log_density):
        return x, (log_density(jnp.float32(0.3)), jax.grad(log_density)(jnp.float32(0.3)))

    algorithm = smc.ibis(model, 4, tell, smc.systematic)
    infos = smc.run(jax.random.key(0), algorithm, len(log_z))[1]
    value, slope = infos.kernel
    assert (value[0] == 0).all() and infos.resampled.tolist() == [False] + [True] * 5
    for t in range(1, len(log_z)):
        heads, tails = FLIPS[:t].sum() + 1, t - FLIPS[:t].sum() + 2
        exact = heads * np.log(0.3) + tails * np.log(0.7)
        np.testing.assert_allclose(value[t], exact, rtol=1e-5)
        np.testing.assert_allclose(slope[t], heads / 0.3 - tails / 0.7, rtol=1e-5)


@pytest.fixture(scope="module")
def batch():
    algorithm = smc.ibis(autoregression()[0], 300, smc.random_walk(0.4), SOMETIMES)
    both = lambda state, info: (state, info)  # noqa: E731
    run = jax.jit(lambda key: smc.run(key, algorithm, len(PATH), both)[1])
    keys = jax.random.split(jax.random.key(3), 16)
    return run, keys, run(keys)


def test_only_problems_that_are_resampled_move(batch):
    states, infos = jax.tree.map(np.asarray, batch[2])
    some = infos.resampled.any(1) & ~infos.resampled.all(1)
    assert some.any()
    before = np.take_along_axis(states.particles[:-1], infos.ancestors[1:], -1)
    share = (states.particles[1:] != before).mean(-1)
    assert (share[~infos.resampled[1:]] == 0).all() and (share[infos.resampled[1:]] > 0.2).all()
    rates = infos.kernel.acceptance_rate
    assert (rates[~infos.resampled] == 0).all() and (rates[infos.resampled].mean(-1) > 0.2).all()


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch(batch):
    run, keys, together = batch
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].log_weights.sharding.device_set) == 8
    trees = (jax.tree.leaves(tree) for tree in (together, spread, run(keys[5])))
    for a, b, c in zip(*trees, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))
        np.testing.assert_array_equal(a[:, 5], c)


def test_the_dead_stay_dead():
    """The third observation is impossible, or no number, for all: status, no NaN, nothing moves."""
    model = coin()[0]
    for bad, status in ((-jnp.inf, smc.ALL_DEAD), (jnp.nan, smc.ALL_DEAD | smc.NOT_FINITE)):
        dying = model._replace(
            log_likelihood=lambda x, t, bad=bad: jnp.where(t == 2, bad, jnp.log(x))
        )
        algorithm = smc.ibis(dying, 8, smc.random_walk(0.4), smc.systematic)
        run = jax.jit(lambda key, a=algorithm: smc.run(key, a, 4))
        state, infos = run(jax.random.key(0))
        assert infos.status.tolist() == [smc.OK, smc.OK, status, status]
        assert state.log_evidence == -jnp.inf and (infos.ancestors[3] == jnp.arange(8)).all()
        assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves((state, infos)))


def test_refusals():
    model = coin()[0]
    with pytest.raises(ValueError, match="got 7, want at most 6: there are 6 observations"):
        smc.run(jax.random.key(0), smc.ibis(model, 4, smc.random_walk(0.4)), 7)
    with pytest.raises(ValueError, match="posteriors.num_observations: got 0, want at least 1"):
        smc.ibis(model._replace(num_observations=0), 4, smc.random_walk(0.4))
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.ibis(model, 0, smc.random_walk(0.4))
    column = model._replace(log_likelihood=lambda x, t: x[None])
    with pytest.raises(ValueError, match=r"log_likelihood: got shape \(1,\) for one particle"):
        smc.ibis(column, 4, lambda key, x, log_density: (x, ())).init(jax.random.key(0))
    listed = model._replace(log_likelihood=lambda x, t: x * FLIPS[t])
    with pytest.raises(ValueError, match="posteriors.log_likelihood: got a numpy array or a list"):
        smc.ibis(listed, 4, smc.random_walk(0.4)).init(jax.random.key(0))
