"""A small case by hand of what has long tests of its own: seconds in all, and each sees its fault.

Nothing here is compiled for itself; statistics and enumerations are in the modules of the subjects.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc
from pfjax.smc import _paths, samplers
from pfjax.smc.parallel_tempering import _swaps

INF = float("inf")


def changing(before, x, t):
    """The state stays on the way to generation 1, and changes on the way to generation 2."""
    return jnp.where((before == x) == (t == 1), 0.0, -INF)


def two_states():
    """A filter over three generations that saw both states, and in the end state 0 alone."""
    state = smc.start(jax.random.split(jax.random.key(0), 3), jnp.float32([[0, 1]] * 3), 2)
    log_w = jnp.log(jnp.float32([[0.5, 0.5], [0.5, 0.5], [1, 0]]))
    return state._replace(log_weights=log_w, t=jnp.arange(3, dtype=jnp.int32))


CHANGING = smc.lift(
    lambda key: jnp.float32(0), lambda key, x, t: x, lambda x, t: 0.0, log_transition=changing
)


def test_backward_sampling_reads_the_transition_into_the_generation_after():
    draw = jax.jit(lambda key, states: smc.backward_sampling(key, CHANGING, states, 3))
    paths = draw(jax.random.key(0), two_states())
    assert paths.T.tolist() == [[1, 1, 0]] * 3


def test_smoothing_reads_the_transition_into_the_generation_after():
    weights = np.exp(smc.smoothing_weights(CHANGING, two_states()))
    np.testing.assert_allclose(weights, [[0, 1], [0, 1], [1, 0]], atol=1e-6)


def test_errors_of_the_bounds_have_one_degree_of_freedom_less():
    bounds = smc.evidence_bounds(jnp.float32([1, 3]), jnp.float32([0, 0, 6]))
    np.testing.assert_allclose([bounds.lower_error, bounds.upper_error], [1, 2], rtol=1e-6)


def test_an_effective_sample_size_on_the_limit_is_not_below_it():
    one = jnp.zeros(1, jnp.float32)
    assert float(smc.effective_sample_size(one)) == 1
    assert not smc.ess_below(1.0)(one, jnp.int32(1))


def test_lineage_of_one_slot():
    ancestors = jnp.int32([[0, 1, 2], [2, 1, 1], [0, 0, 1]])
    assert _paths.lineage(ancestors, jnp.int32(2)).tolist() == [1, 1, 2]
    assert _paths.lineage(ancestors, jnp.int32(0)).tolist() == [2, 0, 0]


def test_adaptive_temperatures_know_the_carried_weights():
    """Two particles of weights 0.9 and 0.1; L = 1 and e^-4: bisection in float64."""
    w, log_l = np.array([0.9, 0.1]), np.array([0.0, -4.0])

    def share(advance):
        u = np.exp(advance * log_l)
        return (w * u).sum() ** 2 / (w * u**2).sum()

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= 0.95 else (low, middle)
    posterior = smc.Posterior(
        lambda key: jnp.float32(0), lambda x: 0.0, lambda x: jnp.float32(log_l)[x.astype(jnp.int32)]
    )
    stay = smc.resample_move(
        lambda key, x, log_density: (x, ()), smc.when(smc.never, smc.systematic)
    )
    algorithm = smc.adaptive_tempering(posterior, 2, stay, fraction=0.95)
    x = jax.vmap(lambda x: samplers.evaluate(posterior, x, jnp.float32(0)))(jnp.float32([0, 1]))
    state = smc.start(jax.random.key(0), x, 2)._replace(log_weights=jnp.log(jnp.float32(w)))
    state, _ = jax.jit(algorithm.step)(jax.random.key(0), state)
    np.testing.assert_allclose(state.particles.inverse_temperature, low, rtol=1e-4)


def test_swaps_bring_high_potentials_to_cold_chains():
    """exp((1 - 1/2) 40) is swapped for certain, its inverse never; pair 0 tries in even sweeps."""
    betas = jnp.float32([1.0, 0.5])
    for v, order in (([0.0, 40.0], [1, 0]), ([40.0, 0.0], [0, 1])):
        sums = jnp.float32(v), jnp.zeros(2, jnp.float32)
        found = _swaps(jax.random.key(0), betas, sums, jnp.int32(0))
        assert found[0].tolist() == order and found[1].tolist() == [True]
        assert found[2].tolist() == [order == [1, 0]]


def test_conditional_systematic_keeps_no_slot_apart():
    """W = (3/4, 1/4): slot 0 being a copy of 0, two copies are there with probability 2/3."""
    n = 4000
    log_w = jnp.tile(jnp.log(jnp.float32([0.75, 0.25])), (n, 1))
    keys = jax.random.split(jax.random.key(1), n)
    resampler = jax.jit(smc.conditional(smc.systematic))
    ancestors, _, _ = resampler(keys, log_w, jnp.ones(n, jnp.int32))
    share = float((ancestors[:, 1] == 0).mean())
    assert abs(share - 2 / 3) < 4 * (2 / 9 / n) ** 0.5


def test_with_parent_exchanges_two_names():
    seen = []

    def law(key, log_w, t):
        seen.append(log_w.tolist())
        return jnp.int32([0, 1, 2, 0]), log_w, jnp.array(True)

    resampler = smc.with_parent(smc.Conditional(law), jnp.int32(2))
    log_w = jnp.float32([1, 2, 3, 4])
    ancestors, left, _ = resampler(jax.random.key(0), log_w, jnp.int32(1))
    assert seen == [[3, 2, 1, 4]] and ancestors.tolist() == [2, 1, 0, 2]
    assert left.tolist() == [3, 2, 1, 4]


@pytest.mark.parametrize(("t", "score"), [(0, 5.0), (1, 5.0), (2, 0.0), (3, 0.0)])
def test_a_twist_ends_before_the_last_generation(t, score):
    """psi is 1 from generation horizon - 1 on."""
    model = smc.twist(CHANGING, lambda x, t: x, horizon=3)
    x = smc.Scored(jnp.float32([5.0]), jnp.float32([0.0]), jnp.float32([2.0]))
    x, log_g = model.weigh(x, jnp.int32(t))
    assert x.score.tolist() == [score] and log_g.tolist() == [score - 2]


def test_a_state_space_has_no_more_observations_than_rows():
    model = smc.state_space(
        initial=lambda key: jnp.float32(0),
        transition=lambda key, x, t: x,
        log_observation=lambda x, y, t: x + y,
        observations=jnp.float32([10, 20]),
    )
    weights = [model.weigh(jnp.ones(1, jnp.float32), jnp.int32(t))[1].item() for t in range(4)]
    assert weights == [11, 21, 0, 0]


def test_ancestor_sampling_weighs_the_future():
    """Only a particle that was 0 can be followed by the reference, which is 0 too."""
    model = smc.lift(
        init=lambda key: jnp.float32(1),
        propagate=lambda key, x, t: x,
        log_potential=lambda x, t: 0.0,
        log_transition=lambda before, x, t: jnp.where(before == x, 0.0, -INF),
    )
    always = smc.conditional(smc.multinomial)
    reference = jnp.zeros(2, jnp.float32)
    algorithm = smc.ancestor_sampling_filter(model, 4, reference, 2, always)
    state = smc.start(jax.random.key(0), jnp.float32([1, 1, 0, 1]), 4)
    assert jax.jit(algorithm.step)(jax.random.key(1), state)[1].ancestors[0] == 2


def test_kernels_move_at_the_temperature_that_the_particles_have():
    """The kernel tells the density it is given: log prior + 0.25 log L."""
    posterior = smc.Posterior(lambda key: jnp.float32(2), lambda x: -x, lambda x: -100 * x)

    def tell(key, x, log_density):
        return x, log_density(x)

    x = samplers.evaluate(posterior, jnp.float32(2), jnp.float32(0.25))
    _, told = samplers.move(tell, posterior, jax.random.key(0), x)
    assert float(told) == -2 - 0.25 * 200


def test_lookahead_knows_whose_drafts_are_kept():
    """Two particles, three drafts each: drafts 1 and 5 are of particles 0 and 1."""
    model = smc.FeynmanKac(
        init=lambda keys: jnp.zeros(keys.shape, jnp.float32),
        propagate=lambda keys, x, t: x + jnp.arange(6, dtype=jnp.float32),
        weigh=lambda x, t: (x, jnp.zeros(x.shape, jnp.float32)),
    )

    def choose(n):
        rows = jnp.int32([1, 5])
        return lambda key, log_w, t: (rows, jnp.log(jnp.float32([0.5, 0.5])), jnp.array(True))

    algorithm = smc.lookahead_filter(model, 2, 3, choose=choose)
    state = smc.start(jax.random.key(0), jnp.float32([10, 20]), 2)
    state, info = jax.jit(algorithm.step)(jax.random.key(0), state)
    assert info.ancestors.tolist() == [0, 1] and state.particles.tolist() == [11, 25]


def test_optimal_leaves_the_light_ones_their_threshold():
    """W = (.6, .1, .1, .1, .1), three kept: c = .4 / 2."""
    log_w = jnp.log(jnp.float32([0.1, 0.6, 0.1, 0.1, 0.1]))
    ancestors, left, _ = jax.jit(smc.optimal(3))(jax.random.key(0), log_w, jnp.int32(1))
    expected = np.where(np.asarray(ancestors) == 1, 0.6, 0.2)
    np.testing.assert_allclose(np.exp(left), expected, rtol=1e-6)
