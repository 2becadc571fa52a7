"""Persistent sampling: weights and evidence by NumPy from equations 14 to 16, moments, growth.

20 000 runs each of 16 and 32 particles. The bias is c / n + O(1 / n^2), which twice the second mean
less the first is rid of but for O(1 / n^2); |z| < 4 on four statistics: a correct sampler fails with
probability 2.5e-4; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp

from pfjax import smc

NUM_RUNS, N = 20_000, 16
SCHEDULE = np.array([0.05, 0.2, 0.5, 1.0], np.float32)
WALK = smc.random_walk(0.7)
normal = jax.scipy.stats.norm
# Prior N(1, 2^2), seen at -0.5 in noise 0.4, impossible above 0.2.
POSTERIOR = smc.Posterior(
    sample_prior=lambda key: 1 + 2 * jax.random.normal(key, dtype=jnp.float32),
    log_prior=lambda x: normal.logpdf(x, 1.0, 2.0) + 5.0,
    log_likelihood=lambda x: jnp.where(x > 0.2, -jnp.inf, normal.logpdf(-0.5, x, 0.4)),
)
VARIANCE = 1 / (1 / 4 + 1 / 0.16)
MEAN, STD = VARIANCE * (1 / 4 - 0.5 / 0.16), VARIANCE**0.5
LAW = stats.truncnorm(-np.inf, (0.2 - MEAN) / STD, MEAN, STD)
EVIDENCE = stats.norm.pdf(-0.5, 1, (4 + 0.16) ** 0.5) * stats.norm.cdf(0.2, MEAN, STD)


def both(state, info):
    return state, info


@pytest.fixture(scope="module")
def fixed():
    """Every generation of 16 problems, and how they were run."""
    algorithm = smc.persistent_sampling(POSTERIOR, N, SCHEDULE, WALK)
    run = jax.jit(lambda key: smc.run(key, algorithm, len(SCHEDULE), both)[1])
    keys = jax.random.split(jax.random.key(3), 16)
    return run, keys, run(keys)


def exact_weights(x, temperatures, log_zs, lam):
    """Normalised weights of rows [t, n] and log Z at lam: equations 14 to 16, in float64."""
    log_l = np.where(x > 0.2, -np.inf, stats.norm.logpdf(-0.5, x, 0.4))
    live = np.isfinite(log_l)
    parts = [s * log_l[live] - z for s, z in zip(temperatures, log_zs, strict=True)]
    log_w = np.full(x.shape, -np.inf)
    log_w[live] = lam * log_l[live] - logsumexp(parts, axis=0) + np.log(len(parts))
    log_z = logsumexp(log_w) - np.log(x.size)
    return log_w - logsumexp(log_w), log_z


def test_weights_and_evidence_are_those_of_the_mixture(fixed):
    states, infos = jax.tree.map(np.asarray, fixed[2])
    num_dead = 0
    for problem in range(16):
        temperatures, log_zs = [0.0], [0.0]
        for t, lam in enumerate(SCHEDULE.astype(float)):
            x = states.particles.position[t, problem].astype(float).reshape(-1, N)[: t + 1]
            log_w, log_z = exact_weights(x, temperatures, log_zs, lam)
            got = states.log_weights[t, problem].reshape(-1, N)
            assert (got[t + 1 :] == -np.inf).all()
            np.testing.assert_allclose(np.exp(got[: t + 1]), np.exp(log_w), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(states.log_evidence[t, problem], log_z, atol=1e-4)
            ess = np.exp(-logsumexp(2 * log_w))
            np.testing.assert_allclose(infos.ess[t, problem], ess, rtol=1e-4)
            temperatures, log_zs = [*temperatures, lam], [*log_zs, log_z]
            num_dead += np.isneginf(log_w).sum()
    assert num_dead > 100


def test_rows_stay_and_new_ones_come_from_their_ancestors():
    """Moves that add 100 (log L of x and of x + 100 is the same) show which row came from which."""
    shifted = POSTERIOR._replace(
        log_likelihood=lambda x: -0.3 * jnp.sin(x * jnp.float32(np.pi / 50))
    )

    def shift(key, x, log_density):
        return x + 100, smc.KernelInfo(jnp.float32(0.25), jnp.float32(2))

    algorithm = smc.persistent_sampling(shifted, N, SCHEDULE, shift)
    states, infos = jax.jit(lambda key: smc.run(key, algorithm, 4, both)[1])(jax.random.key(1))
    states, infos = jax.tree.map(np.asarray, (states, infos))
    x = states.particles.position
    for t in range(1, 4):
        new = slice(t * N, (t + 1) * N)
        others = np.delete(np.arange(4 * N), np.arange(4 * N)[new])
        assert (infos.ancestors[t, others] == others).all()
        assert (infos.ancestors[t, new] < t * N).all() and len(set(infos.ancestors[t, new])) > 5
        np.testing.assert_allclose(x[t, new], x[t - 1, infos.ancestors[t, new]] + 100, rtol=1e-6)
        assert (x[t, : t * N] == x[t - 1, : t * N]).all()
    assert (infos.kernel.acceptance_rate == np.array([0, 0.25, 0.25, 0.25])[:, None]).all()
    assert infos.resampled.tolist() == [False, True, True, True]


def estimates(kernel, n, seed):
    algorithm = smc.persistent_sampling(POSTERIOR, n, SCHEDULE, kernel)
    keys = jax.random.split(jax.random.key(seed), NUM_RUNS)
    state, _ = jax.jit(lambda keys: smc.run(keys, algorithm, len(SCHEDULE)))(keys)
    ratio = np.exp(np.asarray(state.log_evidence, float)) / EVIDENCE
    x, w = (np.asarray(a, float) for a in (state.particles.position, np.exp(state.log_weights)))
    found = [ratio - 1]
    for f, exact in (
        (lambda x: x, LAW.mean()),
        (lambda x: x**2, LAW.moment(2)),
        (lambda x: x > -0.3, LAW.sf(-0.3)),
    ):
        found.append(ratio * (w * f(x)).sum(1) - exact)
    return np.mean(found, axis=1), np.var(found, axis=1) / NUM_RUNS


def z_scores(kernel) -> np.ndarray:
    (few, few_variance), (many, many_variance) = (
        estimates(kernel, n, seed) for n, seed in ((N, 17), (2 * N, 18))
    )
    error = np.sqrt(4 * many_variance + few_variance)
    assert error[0] < 0.012
    return (2 * many - few) / error


@pytest.mark.slow
def test_consistent():
    z = z_scores(WALK)
    assert (np.abs(z) < 4).all(), z


@pytest.mark.slow
def test_the_test_sees_a_kernel_of_another_target():
    def hotter(key, x, log_density):
        return WALK(key, x, lambda x: 0.5 * log_density(x))

    assert np.abs(z_scores(hotter)).max() > 6


@pytest.fixture(scope="module")
def adaptive():
    algorithm = smc.adaptive_persistent_sampling(POSTERIOR, 200, WALK, max_steps=12)
    state, infos = jax.jit(lambda key: smc.run_until(key, algorithm, smc.at_posterior, 12))(
        jax.random.key(4)
    )
    return jax.tree.map(np.asarray, (state, infos))


def test_the_temperature_solves_for_the_ess_of_all_rows(adaptive):
    """3 n, by default; until there are rows enough, two in three of the first being dead, it stays."""
    state, infos = adaptive
    last = int(state.t)
    assert last == 5 and infos.ess[0] < 70
    x = state.particles.position.astype(float).reshape(-1, 200)
    drawn_at = state.particles.drawn_at.reshape(-1, 200)[:, 0].astype(float)
    log_z = state.particles.drawn_log_evidence.reshape(-1, 200)[:, 0].astype(float)
    assert drawn_at[:4].tolist() == [0] * 4 and 0 < drawn_at[4] < drawn_at[5] < 1
    assert np.isposinf(log_z[last + 1 :]).all()
    temperatures = [*drawn_at[1 : last + 1], float(state.particles.inverse_temperature[0])]
    assert temperatures[-1] == 1
    for t, lam in enumerate(temperatures):

        def excess(lam, t=t):
            log_w, _ = exact_weights(x[: t + 1], drawn_at[: t + 1], log_z[: t + 1], lam)
            return np.exp(-logsumexp(2 * log_w)) - 3 * 200

        start = drawn_at[t]
        if excess(1.0) >= 0:
            assert lam == 1 and t == last
        elif excess(start) < 0:
            assert lam == start
        else:
            np.testing.assert_allclose(lam, brentq(excess, start, 1.0), rtol=1e-3)
    assert (
        abs(np.exp(state.log_evidence) / EVIDENCE - 1) < 0.3
    )  # one run: about 5 times its deviation


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch(fixed):
    run, keys, together = fixed
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].log_weights.sharding.device_set) == 8
    trees = (jax.tree.leaves(tree) for tree in (together, spread, run(keys[5])))
    for a, b, c in zip(*trees, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))
        np.testing.assert_array_equal(a[:, 5], c)


@pytest.mark.parametrize("bad, bit", [(-np.inf, 0), (np.nan, smc.NOT_FINITE)])
def test_the_dead_stay_dead(bad, bit):
    """All are dead at once, or the moved rows of generation 1 alone are: no NaN, and a status."""
    dead = POSTERIOR._replace(log_likelihood=lambda x: jnp.float32(bad) + 0 * x)
    algorithm = smc.persistent_sampling(dead, 4, SCHEDULE, WALK)
    state, infos = jax.jit(lambda key: smc.run(key, algorithm, 4))(jax.random.key(0))
    assert infos.status.tolist() == [smc.ALL_DEAD | bit] * 4 and not infos.resampled.any()
    assert (np.asarray(infos.ancestors) == np.arange(16)).all() and state.log_evidence == -jnp.inf
    assert not any(jnp.isnan(a).any() for a in jax.tree.leaves((state.log_weights, infos)))

    half = POSTERIOR._replace(log_likelihood=lambda x: jnp.where(x > 50, bad, 0.0))
    away = smc.persistent_sampling(half, 4, SCHEDULE, lambda key, x, log_density: (x + 100, ()))
    state, infos = jax.jit(lambda key: smc.run(key, away, 4))(jax.random.key(0))
    assert infos.status.tolist() == [0, bit, bit, bit]
    assert (state.log_weights[4:] == -jnp.inf).all() and jnp.isfinite(state.log_weights[:4]).all()
    assert not any(jnp.isnan(a).any() for a in jax.tree.leaves((state.log_weights, infos)))


def test_refusals():
    key = jax.random.key(0)
    algorithm = smc.persistent_sampling(POSTERIOR, 4, SCHEDULE, WALK)
    for steps, want in ((3, "at least 4"), (5, "at most 4")):
        with pytest.raises(ValueError, match=f"got {steps}, want {want}: the schedule has 4 temp"):
            smc.run(key, algorithm, steps)
    with pytest.raises(ValueError, match=r"schedule: got shape \(0,\)"):
        smc.persistent_sampling(POSTERIOR, 4, jnp.zeros(0), WALK)
    with pytest.raises(ValueError, match="n: got 0"):
        smc.persistent_sampling(POSTERIOR, 0, SCHEDULE, WALK)
    with pytest.raises(ValueError, match="target: got 5, want a number between 0 and max_steps 5"):
        smc.adaptive_persistent_sampling(POSTERIOR, 4, WALK, max_steps=5, target=5)
    algorithm = smc.adaptive_persistent_sampling(POSTERIOR, 4, WALK, max_steps=5)
    with pytest.raises(ValueError, match=r"run_until\(key, algorithm, smc.at_posterior"):
        smc.run(key, algorithm, 5)
    with pytest.raises(ValueError, match="got 6, want at most 5: its temperatures come from its"):
        smc.run_until(key, algorithm, smc.at_posterior, 6)
