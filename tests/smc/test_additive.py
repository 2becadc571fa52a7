"""Smoothed sums: unbiased on an enumerated model, equal forwards and backwards, close on a Gaussian.

Unbiasedness: 20 000 filters that resample by multinomial draws at every step, of which the backward
kernels are conditional laws; |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

NUM_RUNS, N = 20_000, 5
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
EMIT = np.array([[0.8, 0.2], [0.35, 0.65], [0.1, 0.9]])
SEEN = np.array([1, 0, 0, 1, 1])
T = len(SEEN)
PATHS = np.array(list(itertools.product(range(3), repeat=T)))
JOINT = START[PATHS[:, 0]] * MOVE[PATHS[:, :-1], PATHS[:, 1:]].prod(1) * EMIT[PATHS, SEEN].prod(1)
ALWAYS = smc.when(smc.every(1), smc.multinomial)
ADAPTIVE = smc.when(smc.ess_below(0.7), smc.systematic)


def sums(paths):
    """[path, 2]: products of neighbours and time, and the number of changes, from state 1."""
    x, y = paths[:, :-1], paths[:, 1:]
    first = np.stack([paths[:, 0] ** 2, paths[:, 0] == 1], axis=-1)
    return first + np.stack([((x + 2) * y * np.arange(1, T)).sum(1), (x != y).sum(1)], axis=-1)


PRODUCTS = smc.Additive(
    first=lambda x: jnp.stack([x**2, (x == 1).astype(jnp.int32)]),
    later=lambda x_prev, x, t: jnp.stack([(x_prev + 2) * x * t, (x_prev != x).astype(jnp.int32)]),
)


def hmm() -> smc.FeynmanKac:
    tables = (jnp.log(jnp.float32(table)) for table in (START, MOVE, EMIT))
    return smc.hidden_markov(smc.HiddenMarkov(*tables), jnp.int32(SEEN))


def z_score(log_evidence, estimates, answer):
    z = np.exp(np.asarray(log_evidence, float))[:, None] * np.asarray(estimates, float)
    error = z.std(0) / np.sqrt(len(z))
    assert (error < 0.02 * np.abs(answer)).all()
    return (z.mean(0) - answer) / error


def everything(state, info):
    return state


def test_unbiased():
    algorithm = smc.forward_smoothing(hmm(), smc.particle_filter(hmm(), N, ALWAYS), PRODUCTS)
    means = lambda state, info: (state.log_evidence, smc.expected_sum(state))  # noqa: E731
    run = jax.jit(lambda keys: smc.run(keys, algorithm, T, means)[1])
    log_evidence, estimates = run(jax.random.split(jax.random.key(3), NUM_RUNS))
    assert np.abs(z_score(log_evidence[-1], estimates[-1], JOINT @ sums(PATHS))).max() < 4
    # And in the first generation, where nothing has moved.
    alone = START * EMIT[:, SEEN[0]] @ np.array([[0, 0], [1, 1], [4, 0]])
    assert np.abs(z_score(log_evidence[0], estimates[0], alone)).max() < 4


@pytest.mark.parametrize("resampler", [ALWAYS, ADAPTIVE], ids=["always", "adaptive"])
def test_backwards_is_forwards(resampler):
    """On the same run, which is that of the filter itself."""

    @jax.jit
    def run(keys):
        pf = smc.particle_filter(hmm(), 40, resampler)
        _, states = smc.run(keys, pf, T, everything)
        forward, _ = smc.run(keys, smc.forward_smoothing(hmm(), pf, PRODUCTS), T)
        return states, forward, smc.smoothed_sum(hmm(), states, PRODUCTS), smc.expected_sum(forward)

    states, forward, backward, online = run(jax.random.split(jax.random.key(1), 6))
    np.testing.assert_allclose(backward, online, rtol=2e-6)
    assert backward.shape == (6, 2) and np.ptp(backward, axis=0).min() > 0.01
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    same = jax.tree.leaves(forward._replace(particles=forward.particles.x))
    for a, b in zip(jax.tree.leaves(last), same, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_moments_of_a_linear_gaussian_model():
    """64 filters of 300 particles agree within 0.5 % of the exact sums, biases of order 1/n included."""
    a, b, q, h, r = 0.9, 0.5, 0.36, 1.0, 0.64
    y, one = np.array([0.5, 1.8, 2.6, 2.2, 3.9, 4.6]), jnp.eye(1, dtype=jnp.float32)
    num = len(y)
    parameters = smc.LinearGaussian(
        jnp.zeros(1), 0.5 * one, a * one, q * one, h * one, r * one, jnp.float32([b])
    )
    model = smc.linear_gaussian(parameters, jnp.float32(y)[:, None])
    moments = smc.Additive(
        first=lambda x: jnp.stack([x[0], x[0] ** 2, 0.0 * x[0]]),
        later=lambda x_prev, x, t: jnp.stack([x[0], x[0] ** 2, x_prev[0] * x[0]]),
    )
    step = np.eye(num) - a * np.eye(num, k=-1)
    noise = np.diag([0.5] + [q] * (num - 1))
    precision = step.T @ np.linalg.inv(noise) @ step + np.eye(num) / r
    cov = np.linalg.inv(precision)
    drift = np.array([0.0] + [b] * (num - 1))
    mean = cov @ (step.T @ np.linalg.inv(noise) @ drift + y / r)
    second = cov + np.outer(mean, mean)
    exact = [mean.sum(), np.trace(second), np.trace(second, offset=1)]
    algorithm = smc.forward_smoothing(model, smc.particle_filter(model, 300), moments)
    run = jax.jit(lambda keys: smc.expected_sum(smc.run(keys, algorithm, num)[0]))
    estimates = np.asarray(run(jax.random.split(jax.random.key(0), 64)))
    np.testing.assert_allclose(estimates.mean(0), exact, rtol=0.005)


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch():
    @jax.jit
    def run(keys):
        pf = smc.particle_filter(hmm(), 30)
        _, states = smc.run(keys, pf, T, everything)
        forward, _ = smc.run(keys, smc.forward_smoothing(hmm(), pf, PRODUCTS), T)
        return smc.smoothed_sum(hmm(), states, PRODUCTS), smc.expected_sum(forward)

    keys = jax.random.split(jax.random.key(3), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    together, alone = run(keys), run(keys[5])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].sharding.device_set) == 8
    for a, b, c in zip(together, spread, alone, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[5], c)


def test_the_dead_have_no_share():
    """phi is NaN at what cannot have led there, or is dead; then all die."""

    def log_g(x, t):
        return jnp.where((t == 1) & (x > 0.5) | (t == 3), -jnp.inf, 0.0)

    model = smc.lift(
        init=lambda key: jax.random.uniform(key, dtype=jnp.float32),
        propagate=lambda key, x, t: x,
        log_potential=log_g,
        log_transition=lambda x_prev, x, t: jnp.where(x_prev == x, 0.0, -jnp.inf),
    )
    counts = smc.Additive(lambda x: x, lambda x_prev, x, t: jnp.where(x_prev == x, x, jnp.nan))
    pf = smc.particle_filter(model, 20, smc.when(smc.never, smc.systematic))

    @jax.jit
    def run(key):
        means = lambda state, info: (smc.expected_sum(state), state)  # noqa: E731
        _, (means, states) = smc.run(key, smc.forward_smoothing(model, pf, counts), 4, means)
        plain = states._replace(particles=states.particles.x)
        first = jax.tree.map(lambda leaf: leaf[:3], plain)
        offline = [smc.smoothed_sum(model, s, counts) for s in (first, plain)]
        return means, offline, plain.particles

    means, offline, x = jax.tree.map(np.asarray, run(jax.random.key(0)))
    live = x[0][x[0] <= 0.5].mean()
    np.testing.assert_allclose(means, [x[0].mean(), 2 * live, 3 * live, 0], rtol=1e-5)
    np.testing.assert_allclose(offline, [3 * live, 0], rtol=1e-5)


def test_refusals():
    pf = smc.particle_filter(hmm(), 4)
    blind = hmm()._replace(log_transition=None)
    holding = hmm()._replace(rewind=lambda x, t: x)
    states = jax.tree.map(lambda leaf: leaf[None], pf.init(jax.random.key(0))[0])
    for model, message in [
        (blind, "model.log_transition: got None, want a function: .* needs the density"),
        (holding, "model.rewind: got a function, want None, because .* Markov property"),
    ]:
        with pytest.raises(ValueError, match=message):
            smc.forward_smoothing(model, pf, PRODUCTS)
        with pytest.raises(ValueError, match=message):
            smc.smoothed_sum(model, states, PRODUCTS)
        with pytest.raises(ValueError, match=message):
            smc.paris(model, pf, PRODUCTS, 0.0)
