"""Particle marginal Metropolis-Hastings leaves an enumerated posterior of (theta, path) invariant.

Chains start from exact draws of the extended target (theta and path by enumeration, the estimate by
a conditional filter around that path) and make two steps; a chi-square test over all thetas and
paths, 60 000 chains and a false-alarm rate of 1e-4 for each kernel; the keys are fixed.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.stats import chi2

from pfjax import smc

NUM_CHAINS, N = 60_000, 3
PRIOR = np.array([0.5, 0.2, 0.3])
START = np.array([0.6, 0.4])
MOVES = np.array([[[0.7, 0.3], [0.4, 0.6]], [[0.3, 0.7], [0.7, 0.3]], [[0.5, 0.5], [0.2, 0.8]]])
EMIT = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.7, 0.3]], [[0.6, 0.4], [0.15, 0.85]]])
SEEN = np.array([0, 1, 1])
T = len(SEEN)
PATHS = np.array(list(itertools.product(range(2), repeat=T)))
# From theta to each other theta: the ratio of q matters.
STEP = np.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]])


def posterior() -> np.ndarray:
    """[theta, path]"""
    p = PRIOR[:, None] * START[PATHS[:, 0]] * EMIT[:, PATHS, SEEN].prod(-1)
    p = p * MOVES[:, PATHS[:, :-1], PATHS[:, 1:]].prod(-1)
    return p / p.sum()


def parameters(theta) -> smc.HiddenMarkov:
    tables = jnp.float32(MOVES)[theta], jnp.float32(EMIT)[theta]
    return smc.HiddenMarkov(jnp.log(jnp.float32(START)), *map(jnp.log, tables))


def hmm(theta) -> smc.FeynmanKac:
    return smc.hidden_markov(parameters(theta), jnp.int32(SEEN))


def remembering(theta) -> smc.FeynmanKac:
    """The same with particles that hold their whole path."""
    p = parameters(theta)

    def put(key, path, t, logits):
        return path.at[t].set(jax.random.categorical(key, logits).astype(jnp.int32))

    model = smc.lift(
        init=lambda key: put(key, jnp.zeros(T, jnp.int32), 0, p.log_initial),
        propagate=lambda key, x, t: put(key, x, t, p.log_transition[x[t - 1]]),
        log_potential=lambda x, t: p.log_emission[x[t], jnp.int32(SEEN)[t]],
    )
    return model._replace(rewind=lambda x, t: x)


def family(model=hmm) -> smc.ModelFamily:
    log_prior = jnp.log(jnp.float32(PRIOR))
    return smc.ModelFamily(
        lambda key: jax.random.categorical(key, log_prior).astype(jnp.int32),
        lambda theta: log_prior[theta],
        model,
    )


def other(key, theta):
    step = jnp.log(jnp.float32(STEP))
    new = jax.random.categorical(key, step[theta]).astype(jnp.int32)
    return new, step[new, theta] - step[theta, new]


def one_sided(key, theta):
    """The classic error: an asymmetric proposal without its ratio."""
    return other(key, theta)[0], jnp.float32(0)


def unlabelled() -> smc.ModelFamily:
    """theta is a number between 0 and 3 whose whole part chooses the model."""

    def index(theta):
        return jnp.clip(theta, 0.0, 2.9).astype(jnp.int32)

    def log_prior(theta):
        inside = (theta > 0) & (theta < 3)
        return jnp.where(inside, jnp.log(jnp.float32(PRIOR))[index(theta)], -jnp.inf)

    return smc.ModelFamily(
        lambda key: jax.random.uniform(key, maxval=3.0, dtype=jnp.float32),
        log_prior,
        lambda theta: hmm(index(theta)),
    )


ADAPTIVE = smc.when(smc.ess_below(0.8), smc.systematic)
KERNELS = {
    "multinomial": (family(), other, smc.multinomial),
    "adaptive": (family(), other, ADAPTIVE),
    "whole paths": (family(remembering), other, ADAPTIVE),
    "random walk": (unlabelled(), 1.3, smc.multinomial),
    "one-sided": (family(), one_sided, smc.multinomial),
}


def conditional(resampler):
    if resampler is ADAPTIVE:
        return smc.when(smc.ess_below(0.8), smc.conditional(smc.systematic))
    return smc.conditional(resampler)


@pytest.fixture(scope="module")
def chains():
    """Exact draws of the extended target, and where two steps take them."""

    @partial(jax.jit, static_argnums=0)
    def after(name, keys, theta, paths, within):
        family, proposal, resampler = KERNELS[name]
        theta = theta.astype(jnp.float32) + within if name == "random walk" else theta

        def estimate(key, theta, path):
            model = hmm(jnp.floor(theta).astype(jnp.int32)) if name == "random walk" else hmm(theta)
            cpf = smc.conditional_particle_filter(model, N, path, conditional(resampler))
            return smc.run(key, cpf, T)[0]

        ends = jax.vmap(estimate)(jax.vmap(jax.random.fold_in, (0, None))(keys, 9), theta, paths)
        path = paths if name == "whole paths" else paths.T
        log_prior = jax.vmap(family.log_prior)(theta)
        chain = smc.MarginalChain(theta, log_prior, ends.log_evidence, ends.evidence_error, path)
        kernel = smc.pmmh(family, N, T, proposal, resampler)
        moves = []
        for i in range(2):
            chain, move = kernel.step(jax.vmap(jax.random.fold_in, (0, None))(keys, i), chain)
            moves.append(move)
        return chain._replace(path=chain.path if name == "whole paths" else chain.path.T), moves

    def run(name):
        draws = np.random.default_rng(7).choice(posterior().size, NUM_CHAINS, p=posterior().ravel())
        theta, path = np.unravel_index(draws, posterior().shape)
        keys = jax.random.split(jax.random.key(12), NUM_CHAINS)
        within = jnp.float32(np.random.default_rng(8).uniform(size=NUM_CHAINS))
        chain, moves = after(name, keys, jnp.int32(theta), jnp.int32(PATHS[path]), within)
        return theta, path, jax.tree.map(np.asarray, chain), jax.tree.map(np.asarray, moves)

    return run


def chi_square(theta, path):
    """The statistic over its rejection threshold."""
    expected = NUM_CHAINS * posterior().ravel()
    assert expected.min() > 8
    observed = np.bincount(theta * len(PATHS) + path, minlength=len(expected))
    statistic = ((observed - expected) ** 2 / expected).sum()
    return statistic / chi2.isf(1e-4, len(expected) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_the_joint_posterior_is_invariant(chains, name):
    theta, path, chain, moves = chains(name)
    assert chi_square(theta, path) < 1
    now = np.floor(chain.theta).astype(int), chain.path @ 2 ** np.arange(T)[::-1]
    if name == "one-sided":
        assert chi_square(*now) > 2
        return
    assert chi_square(*now) < 1
    for move in moves:
        assert 0.2 < move.accepted.mean() < 0.9 and (move.status == smc.OK).all()
        z = (move.accepted - move.acceptance_rate) / np.sqrt(NUM_CHAINS / 4)
        assert abs(z.sum()) < 4  # false alarms: 6e-5
    if name == "random walk":
        # Within its part theta is uniform.
        observed = np.bincount(np.int32(chain.theta % 1 * 20), minlength=20)
        expected = NUM_CHAINS / 20
        assert ((observed - expected) ** 2 / expected).sum() < chi2.isf(1e-4, 19)


@pytest.mark.slow
def test_a_run_finds_the_posterior_of_theta():
    """100 chains of 400 steps from the prior, within 5 standard errors between chains."""
    kernel = smc.pmmh(family(), 8, T, other)
    keys = jax.random.split(jax.random.key(2), 100)
    run = jax.jit(lambda keys: smc.run(keys, kernel, 400, lambda chain, move: chain.theta))
    _, thetas = run(keys)
    thetas = np.asarray(thetas)[50:]
    for k in range(3):
        share = (thetas == k).mean(0)
        assert abs(share.mean() - posterior()[k].sum()) < 5 * share.std() / 10
        assert share.std() / 10 < 0.01


@pytest.mark.slow
def test_eight_devices_and_one_chain_give_the_bits_of_the_batch():
    kernel = smc.pmmh(unlabelled(), 5, T, 1.3)
    run = jax.jit(lambda keys: smc.run(keys, kernel, 6))
    keys = jax.random.split(jax.random.key(5), 16)
    mesh = jax.make_mesh((8,), ("chain",), axis_types=(AxisType.Auto,))
    together, alone = run(keys), run(keys[3])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("chain"))))
    assert len(spread[0].theta.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(together[0].theta[3], alone[0].theta)
    np.testing.assert_array_equal(together[0].path[:, 3], alone[0].path)
    assert len(np.unique(together[0].theta)) == 16


@pytest.mark.slow
def test_paths_that_are_not_returned_are_not_stored():
    kernel = smc.pmmh(unlabelled(), 1000, 3000, 1.0)

    def size(collect_path):
        def run(key):
            chain, thetas = smc.run(key, kernel, 5, lambda chain, move: chain.theta)
            return thetas, chain.path if collect_path else ()

        memory = jax.jit(run).lower(jax.random.key(0)).compile().memory_analysis()
        return memory.temp_size_in_bytes

    history = 1000 * 3000 * 4
    assert size(True) > history and size(False) < history / 10
