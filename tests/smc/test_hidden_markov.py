"""The hidden Markov model against all of its paths, listed one by one.

Unbiasedness: 20 000 filters, |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
EMIT = np.array([[0.8, 0.2], [0.35, 0.65], [0.1, 0.9]])
SEEN = np.array([1, 0, 0, 1, 1])
STEPS, NUM_FILTERS, N = len(SEEN), 20_000, 6

PATHS = np.array(list(itertools.product(range(3), repeat=STEPS)))
JOINT = START[PATHS[:, 0]] * MOVE[PATHS[:, :-1], PATHS[:, 1:]].prod(1) * EMIT[PATHS, SEEN].prod(1)
FUNCTIONS = {
    "one": lambda path: 1.0 + 0 * path[..., 0],
    "last state": lambda path: path[..., -1] ** 2,
    "first state, given the third": lambda path: (path[..., 0] == 1) * (1 + path[..., 2]),
    "sum, late states heavier": lambda path: path @ np.arange(1, STEPS + 1),
}


CRUDE = np.float32(np.random.default_rng(3).normal(scale=0.3, size=(STEPS, 3)))


@pytest.fixture(scope="module")
def parameters():
    with np.errstate(divide="ignore"):
        return smc.HiddenMarkov(*(jnp.float32(np.log(p)) for p in (START, MOVE, EMIT)))


@pytest.fixture(scope="module")
def models(parameters):
    """The bootstrap model, and guided by q proportional to M G psi for psi = 1 and a crude psi."""

    def build(name):
        bootstrap = smc.hidden_markov(parameters, jnp.asarray(SEEN))
        if name == "bootstrap":
            return bootstrap
        log_psi = jnp.asarray(CRUDE) if name == "crude look-ahead" else None
        proposal = smc.hidden_markov_proposal(parameters, jnp.asarray(SEEN), log_psi)
        return smc.guided(bootstrap, proposal)

    return build


def test_exact_answers_are_those_of_all_paths(parameters):
    seen = jnp.asarray(SEEN)

    @jax.jit
    def answers(p):
        functions = smc.forward_algorithm, smc.value_function, smc.forward_backward
        return [f(p, seen) for f in functions]

    (log_evidence, log_filter), log_psi, smooth = jax.tree.map(np.asarray, answers(parameters))
    for t in range(STEPS):
        so_far = START[PATHS[:, 0]] * EMIT[PATHS[:, : t + 1], SEEN[: t + 1]].prod(1)
        so_far = so_far * MOVE[PATHS[:, :-1], PATHS[:, 1:]].prod(1)
        np.testing.assert_allclose(log_evidence[t], np.log(so_far.sum()), rtol=1e-5)
        at = PATHS[:, t, None] == np.arange(3)
        np.testing.assert_allclose(
            np.exp(log_filter[t]), so_far @ at / so_far.sum(), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            np.exp(smooth[t]), JOINT @ at / JOINT.sum(), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(np.exp(log_psi[t]), JOINT @ at / (so_far @ at), rtol=1e-5)


def test_exact_draws_have_the_posterior_frequencies(parameters):
    """z of how often each path with at least 20 expected draws is seen, of 40 000."""
    keys = jax.random.split(jax.random.key(5), 2 * NUM_FILTERS)
    draw = jax.jit(jax.vmap(lambda key: smc.posterior_path(key, parameters, jnp.asarray(SEEN))))
    drawn = np.asarray(draw(keys)) @ 3 ** np.arange(STEPS)[::-1]
    p = JOINT / JOINT.sum()
    counts = np.bincount(drawn, minlength=len(p))
    assert (counts[p == 0] == 0).all()
    often = p * len(drawn) >= 20
    z = (counts - p * len(drawn))[often] / np.sqrt(p * (1 - p) * len(drawn))[often]
    assert often.sum() > 50 and np.abs(z).max() < 4.5, z


def run_all(models, name):
    """Paths, weights and evidence of all filters; multinomial at every step."""

    @jax.jit
    def run(keys):
        algorithm = smc.particle_filter(models(name), N, smc.multinomial)
        state, (infos, x) = smc.run(keys, algorithm, STEPS, lambda s, i: (i, s.particles))
        x = x.x if isinstance(x, smc.Guided) else x
        return smc.trajectories(x, infos.ancestors), state.log_weights, state.log_evidence

    return run(jax.random.split(jax.random.key(11), NUM_FILTERS))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("bootstrap", "locally optimal")]


@pytest.mark.parametrize("name", [*SLOW, "crude look-ahead"])
def test_unbiased(models, name):
    path, log_w, log_evidence = map(np.asarray, run_all(models, name))
    path = np.moveaxis(path, 0, -1)
    ratio = np.exp(np.float64(log_evidence)) / JOINT.sum()
    for label, f in FUNCTIONS.items():
        exact = JOINT @ f(PATHS) / JOINT.sum()
        estimate = ratio * (np.exp(np.float64(log_w)) * f(path)).sum(1)
        error = estimate.std() / np.sqrt(NUM_FILTERS)
        assert abs(estimate.mean() - exact) < 4 * error, label
        assert error < 0.015 * exact, label  # power: 12 % of any answer is 8 standard errors


def test_log_transition_is_that_of_the_moves(models, parameters):
    x_prev, x = jnp.array([[0, 1, 2], [0, 1, 2]]), jnp.array([[0, 0, 0], [2, 2, 2]])
    t = jnp.array([1, 3])
    expected = parameters.log_transition.T[jnp.array([0, 2])]
    assert (models("bootstrap").log_transition(x_prev, x, t) == expected).all()
    wrap = [smc.Guided(y, jnp.full(y.shape, 7.0)) for y in (x_prev, x)]
    assert (models("locally optimal").log_transition(*wrap, t) == expected).all()


def test_a_proposal_without_a_future_dies_quietly(parameters):
    """All states of a row of G are impossible: every particle dies, and nothing is NaN."""
    blind = parameters._replace(log_emission=jnp.full((3, 2), -jnp.inf).at[:, 1].set(0.0))
    seen = jnp.array([1, 0, 1])

    @partial(jax.jit, static_argnums=1)
    def run(key, n):
        model = smc.guided(smc.hidden_markov(blind, seen), smc.hidden_markov_proposal(blind, seen))
        return smc.run(key, smc.particle_filter(model, n), 3)

    for n in (1, 2):
        state, infos = run(jax.random.key(0), n)
        assert infos.status.tolist() == [smc.OK, smc.ALL_DEAD, smc.ALL_DEAD]
        assert state.log_evidence == -jnp.inf and infos.ancestors[2].tolist() == list(range(n))
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves((state, infos)))


@pytest.mark.slow
def test_eight_devices_give_the_bits_of_one(models):
    @jax.jit
    def run(keys):
        return smc.run(keys, smc.particle_filter(models("crude look-ahead"), 37), STEPS)

    keys = jax.random.split(jax.random.key(1), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    for a, b in zip(jax.tree.leaves(run(keys)), jax.tree.leaves(run(spread)), strict=True):
        np.testing.assert_array_equal(a, b)
