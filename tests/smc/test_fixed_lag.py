"""Fixed-lag smoothing: E[Z_hat_r sum W_r f(x_s)] = Z_r E[f(x_s) | y_0:r] on an enumerated model.

20 000 filters, |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

NUM_RUNS, N = 20_000, 6
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
EMIT = np.array([[0.8, 0.2], [0.35, 0.65], [0.1, 0.9]])
SEEN = np.array([1, 0, 0, 1, 1])
T = len(SEEN)
ADAPTIVE = smc.when(smc.ess_below(0.7), smc.systematic)
PRODUCTS = smc.Additive(
    first=lambda x: jnp.stack([x**2, 1 - x]),
    later=lambda x_prev, x, t: jnp.stack([(x_prev + 2) * x * t, x - x_prev]),
)


def hmm() -> smc.FeynmanKac:
    tables = (jnp.log(jnp.float32(table)) for table in (START, MOVE, EMIT))
    return smc.hidden_markov(smc.HiddenMarkov(*tables), jnp.int32(SEEN))


@pytest.fixture(scope="module")
def runs():
    """Stored states and ancestors of a filter with n particles."""
    collect = lambda state, info: (state, info.ancestors)  # noqa: E731

    def run(keys, n):
        return smc.run(keys, smc.particle_filter(hmm(), n, ADAPTIVE), T, collect)[1]

    return jax.jit(run, static_argnums=1)


def mass(num_seen, s):
    """p(x_s = k, y_0:num_seen-1), over all paths."""
    paths = np.array(list(itertools.product(range(3), repeat=num_seen)))
    joint = START[paths[:, 0]] * EMIT[paths, SEEN[:num_seen]].prod(1)
    joint = joint * MOVE[paths[:, :-1], paths[:, 1:]].prod(1)
    return joint @ (paths[:, s, None] == np.arange(3))


@pytest.mark.parametrize("lag", [1, 3])
def test_unbiased(runs, lag):
    states, ancestors = runs(jax.random.split(jax.random.key(2), NUM_RUNS), N)
    smoothed = jax.tree.map(
        np.asarray, jax.jit(smc.fixed_lag, static_argnums=2)(states, ancestors, lag)
    )
    w = np.exp(smoothed.log_weights.astype(float) + smoothed.log_evidence[..., None])
    for s in range(T):
        exact = mass(min(s + lag, T - 1) + 1, s)
        for k in range(3):
            estimate = (w[s] * (smoothed.particles[s] == k)).sum(-1)
            error = estimate.std() / np.sqrt(NUM_RUNS)
            assert abs(estimate.mean() - exact[k]) < 4 * error < 0.1 * exact.sum()
    np.testing.assert_array_equal(smoothed.t, states.t)


def test_a_lag_of_nothing_is_the_filter_and_a_long_one_its_trajectories(runs):
    states, ancestors = runs(jax.random.split(jax.random.key(1), 3), 20)
    for a, b in zip(
        *map(jax.tree.leaves, (smc.fixed_lag(states, ancestors, 0), states)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    paths = smc.trajectories(states.particles, ancestors)
    for lag in (T - 1, T + 5):
        smoothed = smc.fixed_lag(states, ancestors, lag)
        np.testing.assert_array_equal(smoothed.particles, paths)
        np.testing.assert_array_equal(smoothed.log_weights[0], states.log_weights[-1])
    assert (paths != states.particles).any()


@pytest.mark.parametrize("lag", [0, 2, 9])
def test_sums_are_those_of_the_genealogy(runs, lag):
    """Term by term, by following every particle back by hand."""
    states, ancestors = runs(jax.random.split(jax.random.key(1), 3), 20)
    total = jax.jit(lambda *a: smc.fixed_lag_sum(*a, lag, PRODUCTS))(states, ancestors)
    x, log_w, ancestors = map(np.asarray, (states.particles, states.log_weights, ancestors))
    for problem in range(3):
        expected = np.zeros(2)
        for s in range(T):
            r = min(s + lag, T - 1)
            for j in range(20):
                slot, weight = j, np.exp(log_w[r, problem, j])
                for t in range(r, s, -1):
                    slot = ancestors[t, problem, slot]
                now = x[s, problem, slot]
                if s == 0:
                    expected += weight * np.array([now**2, 1 - now])
                    continue
                before = x[s - 1, problem, ancestors[s, problem, slot]]
                expected += weight * np.array([(before + 2) * now * s, now - before])
        np.testing.assert_allclose(total[problem], expected, rtol=1e-5, atol=1e-5)


def test_eight_devices_give_the_bits_of_one(runs):
    smooth = jax.jit(lambda k: smc.fixed_lag_sum(*runs(k, 30), 2, PRODUCTS))
    keys = jax.random.split(jax.random.key(3), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    spread = smooth(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(spread, smooth(keys))


def test_refusals(runs):
    states, ancestors = runs(jax.random.key(0), 4)
    with pytest.raises(ValueError, match="lag: got -1, want at least 0"):
        smc.fixed_lag(states, ancestors, -1)
