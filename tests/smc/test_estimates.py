"""Variance and bounds of the evidence, against what 20 000 runs of a listed model show.

|z| < 4 on every statistic: a false alarm has probability 6e-5 a statistic; the keys are fixed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

START = np.array([0.7, 0.3])
MOVE = np.array([[0.8, 0.2], [0.35, 0.65]])
EMIT = np.array([[0.75, 0.25], [0.3, 0.7]])
SEEN = np.array([0, 1, 1, 0, 1])
STEPS, NUM_RUNS = len(SEEN), 20_000


def forward() -> np.ndarray:
    """p(y_0:t) for every t."""
    alpha, totals = START * EMIT[:, SEEN[0]], []
    for y in [*SEEN[1:], 0]:
        totals.append(alpha.sum())
        alpha = alpha @ MOVE * EMIT[:, y]
    return np.array(totals)


@pytest.fixture(scope="module")
def parameters():
    return smc.HiddenMarkov(*(jnp.log(jnp.float32(p)) for p in (START, MOVE, EMIT)))


@pytest.fixture(scope="module")
def estimates(parameters):
    """Z_hat_t / Z_t and V_t of every generation and run, [steps, runs]."""

    @partial(jax.jit, static_argnums=(1, 2))
    def run(keys, n, k):
        model = smc.hidden_markov(parameters, jnp.asarray(SEEN))
        algorithm = smc.particle_filter(model, n, smc.when(smc.every(k), smc.multinomial))
        _, (infos, states) = smc.run(keys, algorithm, STEPS, lambda state, info: (info, state))
        eves = smc.eve_indices(infos.ancestors)
        times = jnp.cumsum(infos.resampled, axis=0, dtype=jnp.int32)
        return states.log_evidence, smc.relative_variance(states.log_weights, eves, times)

    def ratio_and_variance(n, k, num_runs=NUM_RUNS):
        keys = jax.random.split(jax.random.key(100 * n + k), num_runs)
        log_evidence, v = (np.asarray(x, float) for x in run(keys, n, k))
        return np.exp(log_evidence) / forward()[:, None], v

    return ratio_and_variance


@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 2), pytest.param(5, 1, marks=pytest.mark.slow)])
def test_the_variance_is_unbiased(estimates, n, k):
    """E[Z_hat^2 V] = Var[Z_hat] = E[Z_hat^2] - Z^2, that is E[(Z_hat/Z)^2 (1 - V)] = 1, for all t."""
    ratio, v = estimates(n, k)
    sample = ratio**2 * (1 - v)
    errors = sample.std(1) / np.sqrt(NUM_RUNS)
    z = (sample.mean(1) - 1) / errors
    assert np.abs(z).max() < 4, z
    # Power: the variance itself is 0.2 to 0.6 at the last generation, or 6 standard errors.
    shown = (ratio**2 * v).mean(1)[-1]
    np.testing.assert_allclose(shown, ratio[-1].var(), rtol=0.15)
    assert shown > 6 * errors[-1]


@pytest.mark.slow
def test_one_run_is_enough_with_many_particles(estimates):
    """2000 particles, 250 runs: 9 of 10 single runs are within a factor of 2 of the truth."""
    ratio, v = estimates(2000, 1, 250)
    error = np.log(np.maximum(v[-1], 1e-9) / ratio[-1].var())
    assert (np.abs(error) < np.log(2)).mean() > 0.9, np.quantile(error, [0.05, 0.5, 0.95])


@settings(deadline=None)  # the first example of a shape compiles
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=5, max_size=5),
    st.integers(0, 30),
)
@example([(0, 0), (0, 1), (0, 2), (0, 2), (0, 1)], 27)  # one eve: nothing times 500 is nothing
def test_variance_is_the_double_sum(pairs, resamplings):
    """Against the sum over pairs of different eves, in float64."""
    eves, w = np.array(pairs).T
    with np.errstate(divide="ignore"):
        log_w = jnp.float32(np.log(w / max(w.sum(), 1)))
    found = jax.jit(smc.relative_variance)(log_w, jnp.asarray(eves), jnp.int32(resamplings))
    if w.sum() == 0:
        assert found == 1
        return
    p = w / w.sum()
    different = (np.outer(p, p) * (eves[:, None] != eves[None])).sum()
    exact = 1 - (5 / 4) ** (resamplings + 1) * different
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def conditional(parameters):
    """log Z_hat of conditional SMC around exact posterior paths."""

    @partial(jax.jit, static_argnums=1)
    def run(keys, n):
        seen = jnp.asarray(SEEN)
        k_path, k_run = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        draw = jax.vmap(lambda key: smc.posterior_path(key, parameters, seen), out_axes=1)
        model, scheme = smc.hidden_markov(parameters, seen), smc.conditional(smc.multinomial)
        algorithm = smc.conditional_particle_filter(model, n, draw(k_path), scheme)
        return smc.run(k_run, algorithm, STEPS)[0].log_evidence

    return lambda n: run(jax.random.split(jax.random.key(6), NUM_RUNS), n)


@pytest.mark.parametrize("n", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_bounds_hold_the_evidence_between_them(estimates, conditional, n):
    """E*[1 / Z_hat] = 1 / Z, and the two means of log Z_hat lie on its two sides."""
    forward_runs = np.log(estimates(n, 1)[0][-1])
    conditional_runs = np.asarray(conditional(n), float) - np.log(forward()[-1])
    inverse = np.exp(-conditional_runs)
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / np.sqrt(NUM_RUNS)
    bounds = smc.evidence_bounds(jnp.float32(forward_runs), jnp.float32(conditional_runs))
    assert bounds.lower + 10 * bounds.lower_error < 0 < bounds.upper - 10 * bounds.upper_error
    np.testing.assert_allclose(bounds.lower, forward_runs.mean(), rtol=1e-3)
    np.testing.assert_allclose(
        bounds.upper_error, conditional_runs.std(ddof=1) / np.sqrt(NUM_RUNS), rtol=1e-3
    )


def test_bounds_of_a_run_that_died():
    bounds = smc.evidence_bounds(jnp.array([-jnp.inf, 0.0]), jnp.array([0.1, 0.2]))
    assert bounds.lower == -jnp.inf and bounds.lower_error == jnp.inf
    assert np.isfinite(bounds.upper) and np.isfinite(bounds.upper_error)


def test_mean_of_runs():
    runs = jnp.log(jnp.array([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]))
    np.testing.assert_allclose(np.exp(jax.jit(smc.mean_log_evidence)(runs)), [3.0, 0.0], rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="got 1 particle, want at least 2"):
        smc.relative_variance(jnp.zeros(1), jnp.zeros(1, int), jnp.int32(0))
    with pytest.raises(ValueError, match="conditional: got 1 runs"):
        smc.evidence_bounds(jnp.zeros(2), jnp.zeros(1))


@pytest.mark.slow
def test_eight_devices_give_the_bits_of_one():
    rng = np.random.default_rng(0)
    ancestors = jnp.asarray(rng.integers(0, 300, (6, 16, 300)), jnp.int32)
    log_w = smc.normalise(jnp.float32(rng.normal(size=(16, 300))))

    @jax.jit
    def everything(ancestors, log_w):
        eves = smc.eve_indices(ancestors)
        v = smc.relative_variance(log_w, eves[-1], jnp.full(16, 5))
        return eves, v, smc.unique_ancestors(ancestors), smc.trajectories(ancestors, ancestors)

    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    spread = everything(
        jax.device_put(ancestors, NamedSharding(mesh, PartitionSpec(None, "problem"))),
        jax.device_put(log_w, NamedSharding(mesh, PartitionSpec("problem"))),
    )
    assert len(spread[1].sharding.device_set) == 8
    for a, b in zip(everything(ancestors, log_w), spread, strict=True):
        np.testing.assert_array_equal(a, b)
