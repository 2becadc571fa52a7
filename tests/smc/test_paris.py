"""PaRIS: unbiased on an enumerated model, by rejection, by its exact fallback, and by both.

20 000 filters that resample by multinomial draws at every step; |z| < 4, a false alarm has
probability 6e-5 a statistic.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

NUM_RUNS, N, T = 20_000, 5, 4
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
G = np.array([[0.2, 1.0, 0.6], [2.0, 0.3, 1.0], [0.0, 1.0, 3.0], [1.0, 0.2, 0.5]])
VALUE = np.array([[0.0, 1.0, 6.0], [2.0, 0.5, 7.0], [1.0, 4.0, 5.0]])
LOG_BOUND = float(np.log(0.75))
ALWAYS = smc.when(smc.every(1), smc.multinomial)


def model() -> smc.FeynmanKac:
    start, move, g = (jnp.log(jnp.float32(table)) for table in (START, MOVE, G))
    return smc.lift(
        init=lambda key: jax.random.categorical(key, start).astype(jnp.int32),
        propagate=lambda key, x, t: jax.random.categorical(key, move[x]).astype(jnp.int32),
        log_potential=lambda x, t: g[t, x],
        log_transition=lambda x_prev, x, t: move[x_prev, x],
    )


SUMS = smc.Additive(
    first=lambda x: x.astype(jnp.float32),
    later=lambda x_prev, x, t: jnp.float32(VALUE)[x_prev, x],
)


def paris(n, resampler, num_trials=16, num_draws=2):
    pf = smc.particle_filter(model(), n, resampler)
    return smc.paris(model(), pf, SUMS, LOG_BOUND, num_draws=num_draws, num_trials=num_trials)


def exact() -> tuple[float, float]:
    """L_T and L_T E[S_T], forwards: masses, and masses times the mean of the sum so far."""
    mass = START * G[0]
    first = mass * np.arange(3)
    for t in range(1, T):
        first = (first @ MOVE + mass @ (MOVE * VALUE)) * G[t]
        mass = mass @ MOVE * G[t]
    return mass.sum(), first.sum()


CASES = {"rejection": (60, 2), "fallback after 2 trials": (2, 2), "one draw": (8, 1)}


@pytest.mark.parametrize("case", CASES)
def test_unbiased(case):
    num_trials, num_draws = CASES[case]
    run = jax.jit(lambda keys: smc.run(keys, paris(N, ALWAYS, num_trials, num_draws), T)[0])
    state = run(jax.random.split(jax.random.key(6), NUM_RUNS))
    evidence, answer = exact()
    weight = np.exp(np.asarray(state.log_evidence, float))
    for estimate, truth in [(weight, evidence), (weight * smc.expected_sum(state), answer)]:
        error = np.std(estimate) / np.sqrt(NUM_RUNS)
        assert abs(np.mean(estimate) - truth) < 4 * error < 0.08 * truth


def test_its_sums_are_those_of_forward_smoothing_on_average():
    """Given the particles: 4000 draws for each, in one step, and only from what can have led there."""

    @partial(jax.jit, static_argnums=1)
    def step(key, num_trials):
        algorithm = paris(20, ALWAYS, num_trials, 4000)
        state, _ = algorithm.init(key)
        k_filter, _ = jax.random.split(key)
        pf = smc.particle_filter(model(), 20, ALWAYS)
        exact = smc.forward_smoothing(model(), pf, SUMS).step(k_filter, state)[0]
        return algorithm.step(key, state)[0], exact

    for num_trials in (1, 60):
        new, exact = jax.tree.map(np.asarray, step(jax.random.key(5), num_trials))
        np.testing.assert_array_equal(new.particles.x, exact.particles.x)
        live = ~np.isneginf(new.log_weights)
        np.testing.assert_allclose(new.particles.sums[live], exact.particles.sums[live], atol=0.12)
        assert np.ptp(exact.particles.sums[live]) > 2


def test_eight_devices_and_one_problem_give_the_bits_of_the_batch():
    run = jax.jit(lambda keys: smc.run(keys, paris(30, smc.adaptive_systematic, 3), T)[0])
    keys = jax.random.split(jax.random.key(3), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    together, alone = run(keys), run(keys[5])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread.particles.sums.sharding.device_set) == 8
    for a, b, c in zip(*map(jax.tree.leaves, (together, spread, alone)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[5], c)


def test_refusals():
    for name in ("num_draws", "num_trials"):
        with pytest.raises(ValueError, match=f"{name}: got 0, want at least 1"):
            paris(4, ALWAYS, **{name: 0})
    with pytest.raises(ValueError, match="want a typed key"):
        paris(4, ALWAYS).init(jax.random.PRNGKey(0))
