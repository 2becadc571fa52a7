"""SMC^2 on enumerated models: E[Z_hat] = Z, E[Z_hat sum_m W_m f(theta_m, x_m)] = Z E[f | y].

20 000 runs of a few thetas with a few particles each, |z| < 4: a false alarm has probability 6e-5 a
statistic; the keys are fixed.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from pfjax import smc

NUM_RUNS = 20_000
PRIOR = np.array([0.5, 0.2, 0.3])
START = np.array([0.6, 0.4])
MOVES = np.array([[[0.7, 0.3], [0.4, 0.6]], [[0.1, 0.9], [0.8, 0.2]], [[0.5, 0.5], [0.2, 0.8]]])
EMIT = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.3, 0.7], [0.9, 0.1]], [[0.6, 0.4], [0.15, 0.85]]])
SEEN = np.array([0, 1, 1, 0, 1])
T = len(SEEN)
PATHS = np.array(list(itertools.product(range(2), repeat=T)))
STEP = np.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]])
JOINT = PRIOR[:, None] * START[PATHS[:, 0]] * EMIT[:, PATHS, SEEN].prod(-1)
JOINT = JOINT * MOVES[:, PATHS[:, :-1], PATHS[:, 1:]].prod(-1)
ALWAYS = smc.when(smc.every(1), smc.systematic)
SECOND = smc.when(smc.every(2), smc.systematic)
ADAPTIVE = smc.when(smc.ess_below(0.8), smc.systematic)


def family() -> smc.ModelFamily:
    log_prior, moves, emit = (jnp.log(jnp.float32(p)) for p in (PRIOR, MOVES, EMIT))
    start = jnp.log(jnp.float32(START))

    def model(theta):
        return smc.hidden_markov(
            smc.HiddenMarkov(start, moves[theta], emit[theta]), jnp.int32(SEEN)
        )

    def sample_prior(key):
        return jax.random.categorical(key, log_prior).astype(jnp.int32)

    return smc.ModelFamily(sample_prior, lambda theta: log_prior[theta], model)


def other(key, theta):
    step = jnp.log(jnp.float32(STEP))
    new = jax.random.categorical(key, step[theta]).astype(jnp.int32)
    return new, step[new, theta] - step[theta, new]


def one_sided(key, theta):
    """The classic error: an asymmetric proposal without its ratio."""
    return other(key, theta)[0], jnp.float32(0)


ALGORITHMS = {
    "always": smc.smc_squared(family(), 4, 3, other, ALWAYS, inner_resampler=smc.multinomial),
    "every other": smc.smc_squared(family(), 5, 2, other, SECOND, inner_resampler=ADAPTIVE),
    "three moves": smc.smc_squared(family(), 3, 3, other, ALWAYS, num_moves=3),
    "one-sided": smc.smc_squared(family(), 4, 3, one_sided, ALWAYS, num_moves=3),
}


# Moves at times that look at the particles have a bias of order 1 / n.
ADAPTS = smc.smc_squared(family(), 5, 2, other, ADAPTIVE, inner_resampler=ADAPTIVE)


@pytest.fixture(scope="module")
def runs():
    keys = jax.random.split(jax.random.key(31), NUM_RUNS)

    @partial(jax.jit, static_argnums=1)
    def run(keys, name):
        return smc.run(keys, ALGORITHMS[name], T)

    return lambda name: jax.tree.map(np.asarray, run(keys, name))


def z_scores(state):
    """Of the evidence, the shares of the thetas, and of the last state with each theta."""
    w = np.exp(state.log_weights.astype(float) + state.log_evidence[:, None])
    theta, inner = state.particles
    ones = (np.exp(inner.log_weights.astype(float)) * inner.particles).sum(-1)
    scores = []
    for f, answer in [(np.ones_like(w), JOINT.sum())] + [
        (factor, JOINT[k] @ on_paths)
        for k in range(3)
        for factor, on_paths in [
            ((theta == k) * 1.0, np.ones(len(PATHS))),
            ((theta == k) * ones, PATHS[:, -1]),
        ]
    ]:
        estimate = (w * f).sum(1)
        error = estimate.std() / np.sqrt(NUM_RUNS)
        assert error < 0.02 * JOINT.sum()
        scores.append((estimate.mean() - answer) / error)
    return np.array(scores)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_unbiased(runs, name):
    state, infos = runs(name)
    if name == "one-sided":
        assert np.abs(z_scores(state)).max() > 6
        return
    assert np.abs(z_scores(state)).max() < 4
    assert (state.status == smc.OK).all() and (state.particles.filter.t == T - 1).all()
    kernel, resampled = infos.kernel, infos.resampled
    assert resampled.any() and not kernel.accepted[0].any()
    assert not kernel.acceptance_rate[~resampled].any()
    assert 0.2 < kernel.accepted[resampled].mean() < 0.9
    assert resampled[2::2].all() and resampled[1::2].all() == (name != "every other")


def test_a_problem_that_is_not_resampled_keeps_its_thetas():
    """In one program with problems that are."""
    key = jax.random.split(jax.random.key(4), 64)

    def collect(state, info):
        return state.particles.theta, info

    run = jax.jit(lambda key: smc.run(key, ADAPTS, T, collect)[1])
    theta, info = jax.tree.map(np.asarray, run(key))
    stayed = ~info.resampled[1:]
    assert 0 < stayed[0].sum() < 64
    assert (theta[1:] == theta[:-1])[stayed].all()
    parents = np.take_along_axis(theta[:-1], info.ancestors[1:], axis=-1)
    np.testing.assert_array_equal((theta[1:] != parents) & ~info.kernel.accepted[1:], False)
    assert (theta[1:] != parents).any()


SEEN_AR = np.array([0.9, 0.2, -0.4, 1.3])


def test_an_autoregression_by_quadrature():
    """x_t = a x_t-1 + N(0, 0.5^2), y_t = x_t + N(0, 0.7^2), a ~ N(0.4, 0.6^2)."""

    def model(a):
        one = jnp.eye(1, dtype=jnp.float32)
        parameters = smc.LinearGaussian(
            jnp.zeros(1, jnp.float32), one, a * one, 0.25 * one, one, 0.49 * one
        )
        return smc.linear_gaussian(parameters, jnp.float32(SEEN_AR)[:, None])

    normal = smc.ModelFamily(
        lambda key: 0.4 + 0.6 * jax.random.normal(key, dtype=jnp.float32),
        lambda a: -0.5 * ((a - 0.4) / 0.6) ** 2,
        model,
    )
    algorithm = smc.smc_squared(normal, 4, 4, 0.5, ALWAYS)
    keys = jax.random.split(jax.random.key(6), NUM_RUNS)
    state = jax.tree.map(np.asarray, jax.jit(lambda k: smc.run(k, algorithm, 4))(keys)[0])
    grid = np.linspace(0.4 - 4.8, 0.4 + 4.8, 4001)
    density = np.array([likelihood(a) for a in grid]) * stats.norm.pdf(grid, 0.4, 0.6)
    w = np.exp(state.log_weights.astype(float) + state.log_evidence[:, None])
    for f in (np.ones_like, lambda a: a, lambda a: a**2, lambda a: a > 0.7):
        estimate = (w * f(state.particles.theta)).sum(1)
        answer = np.trapezoid(density * f(grid), grid)
        error = estimate.std() / np.sqrt(NUM_RUNS)
        assert abs(estimate.mean() - answer) < 4 * error < 0.08 * abs(answer)


def likelihood(a):
    """Of all observations at once."""
    step = np.eye(4) - a * np.eye(4, k=-1)
    noise = np.diag([1.0, 0.25, 0.25, 0.25])
    back = np.linalg.inv(step)
    return stats.multivariate_normal(None, back @ noise @ back.T + 0.49 * np.eye(4)).pdf(SEEN_AR)


def test_eight_devices_and_one_problem_give_the_bits_of_the_batch():
    run = jax.jit(lambda keys: smc.run(keys, ADAPTS, T))
    keys = jax.random.split(jax.random.key(5), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    together, alone = run(keys), run(keys[3])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].log_evidence.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(together[0]), jax.tree.leaves(alone[0]), strict=True):
        np.testing.assert_array_equal(a[3], b)


@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
def test_a_theta_without_likelihood_dies(value):
    """Half of the thetas die at t = 1; all at t = 2."""

    def log_g(x, t):
        return jnp.where((t == 1) & (x == 1) | (t == 2), jnp.float32(value), 0.0)

    split = smc.ModelFamily(
        lambda key: jax.random.bernoulli(key).astype(jnp.int32),
        lambda theta: jnp.float32(0),
        lambda theta: smc.lift(lambda key: theta, lambda key, x, t: x, log_g),
    )
    algorithm = smc.smc_squared(split, 6, 4, lambda key, theta: (1 - theta, jnp.float32(0)), ALWAYS)
    both = lambda state, info: (state, info)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 8)
    state, info = jax.jit(lambda k: smc.run(k, algorithm, 4, both)[1])(keys)
    for leaf in jax.tree.leaves((state, info)):
        assert not np.isnan(leaf).any()
    theta, log_w = np.asarray(state.particles.theta), np.asarray(state.log_weights)
    assert (np.isneginf(log_w[1]) == (theta[1] == 1)).all() and np.isneginf(log_w[2:]).all()
    assert np.isneginf(state.log_evidence[2:]).all()
    assert (info.status[2] & smc.ALL_DEAD > 0).all()
    assert ((info.status[2] & smc.NOT_FINITE > 0) == (value != -np.inf)).all()


def test_refusals():
    for name in ("n", "num_inner", "num_moves"):
        arguments = {"n": 4, "num_inner": 3, "num_moves": 1} | {name: 0}
        with pytest.raises(ValueError, match=f"{name}: got 0, want at least 1"):
            smc.smc_squared(family(), proposal=other, **arguments)
    with pytest.raises(ValueError, match="want a typed key"):
        ALGORITHMS["always"].init(jax.random.PRNGKey(0))
