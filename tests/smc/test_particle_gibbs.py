"""Kernels on paths leave an enumerated posterior invariant.

Chains start from exact draws of the posterior and make one sweep; a chi-square test over all paths,
60 000 chains and a false-alarm rate of 1e-4 for each kernel; the keys are fixed.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from pfjax import smc

NUM_CHAINS, N, T = 60_000, 3, 3
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.75, 0.2, 0.05], [0.1, 0.6, 0.3], [0.3, 0.05, 0.65]])
G = np.array([[0.2, 1.0, 0.6], [2.0, 0.3, 1.0], [0.0, 1.0, 3.0]])
PAIR = np.array([[1.0, 0.2, 2.0], [2.0, 1.0, 0.3], [0.5, 3.0, 1.0]])
# A model that looks back: kernels by the last two states, potentials by the first state too.
MOVE_2 = np.stack([MOVE, MOVE[::-1, [2, 0, 1]], MOVE[[2, 0, 1]]])
G_FIRST = np.array([[1.0, 3.0, 1.0], [0.3, 2.0, 1.0], [1.0, 1.5, 0.4]])
PATHS = np.array(list(itertools.product(range(3), repeat=T)))


def first_order(paths):
    return START[paths[:, 0]] * MOVE[paths[:, :-1], paths[:, 1:]].prod(1)


def normalised(p):
    return p / p.sum()


def log32(*tables):
    return [jnp.log(jnp.float32(table)) for table in tables]


class Problem(NamedTuple):
    """A model, its exact posterior over PATHS, and the state of a kernel that is a set of paths."""

    model: smc.FeynmanKac
    posterior: np.ndarray
    encode: Callable
    decode: Callable


def markov() -> Problem:
    start, move, g = log32(START, MOVE, G)
    model = smc.lift(
        init=lambda key: jax.random.categorical(key, start),
        propagate=lambda key, x, t: jax.random.categorical(key, move[x]),
        log_potential=lambda x, t: g[t, x],
        log_transition=lambda x_prev, x, t: move[x_prev, x],
    )
    posterior = normalised(first_order(PATHS) * G[np.arange(T), PATHS].prod(1))
    return Problem(model, posterior, lambda paths: paths.T, lambda state: state.T)


def remembering() -> Problem:
    """Potentials of the last two states, by particles that remember the state of their parent."""
    start, move, g, pair = log32(START, MOVE, G, PAIR)
    model = smc.lift(
        init=lambda key: {"x": jax.random.categorical(key, start), "parent": -1},
        propagate=lambda key, p, t: {
            "x": jax.random.categorical(key, move[p["x"]]),
            "parent": p["x"],
        },
        log_potential=lambda p, t: g[t, p["x"]] + jnp.where(t == 0, 0.0, pair[p["parent"], p["x"]]),
        log_transition=lambda prev, p, t: move[prev["x"], p["x"]] + pair[prev["x"], p["x"]],
    )

    def splice(prefix, reference, t):
        return {"x": reference["x"], "parent": prefix["x"]}

    joint = first_order(PATHS) * G[np.arange(T), PATHS].prod(1)
    joint = joint * PAIR[PATHS[:, :-1], PATHS[:, 1:]].prod(1)

    def encode(paths):
        parents = jnp.concatenate([jnp.full_like(paths[:, :1], -1), paths[:, :-1]], axis=1)
        return {"x": paths.T, "parent": parents.T}

    return Problem(model._replace(splice=splice), normalised(joint), encode, lambda p: p["x"].T)


def looking_back() -> Problem:
    """Particles hold their path; only entries up to t may be read in generation t."""
    start, move, move_2, g, g_first = log32(START, MOVE, MOVE_2, G, G_FIRST)

    def row(path, t):
        return jnp.where(t == 1, move[path[0]], move_2[path[t - 2], path[t - 1]])

    model = smc.lift(
        init=lambda key: jnp.zeros(T, int).at[0].set(jax.random.categorical(key, start)),
        propagate=lambda key, x, t: x.at[t].set(jax.random.categorical(key, row(x, t))),
        log_potential=lambda x, t: g[t, x[t]] + jnp.where(t == 0, 0.0, g_first[x[0], x[t]]),
        log_transition=lambda x_prev, x, t: row(x_prev, t)[x[t]],
    )

    joint = START[PATHS[:, 0]] * MOVE[PATHS[:, 0], PATHS[:, 1]] * G[np.arange(T), PATHS].prod(1)
    for t in range(1, T):
        joint = joint * G_FIRST[PATHS[:, 0], PATHS[:, t]]
    joint = joint * MOVE_2[PATHS[:, 0], PATHS[:, 1], PATHS[:, 2]]
    model = model._replace(rewind=rewind, splice=splice)
    return Problem(model, normalised(joint), lambda paths: paths, lambda state: state)


def past(x, t):
    return jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape) <= t[..., None, None]


def rewind(x, t):
    return jnp.where(past(x, t), x, 0)


def splice(prefix, reference, t):
    return jnp.where(past(prefix, t), prefix, reference)


def pinned(key, log_w, t):
    """The classic error."""
    ancestors, left, resampled = smc.systematic(key, log_w, t)
    return ancestors.at[..., 0].set(0), left, resampled


RIGHT = {
    "multinomial": smc.conditional_multinomial,
    "systematic": smc.conditional_systematic,
    "systematic in place": smc.in_place(smc.conditional_systematic),
    "stratified": smc.conditional_stratified,
    "residual": smc.conditional_residual,
    "killing": smc.conditional_killing,
    "adaptive": smc.when(smc.ess_below(0.7), smc.conditional_systematic),
    "every other": smc.when(smc.every(2), smc.conditional_killing),
}
WRONG = {"pinned systematic": pinned}
KERNELS = {
    "particle Gibbs": (markov, smc.particle_gibbs),
    "ancestor sampling": (markov, partial(smc.particle_gibbs, ancestor_sampling=True)),
    "backward sampling": (markov, smc.backward_gibbs),
    "remembering, ancestor": (remembering, partial(smc.particle_gibbs, ancestor_sampling=True)),
    "remembering, backward": (remembering, smc.backward_gibbs),
    "looking back": (looking_back, smc.particle_gibbs),
    "looking back, ancestor": (looking_back, partial(smc.particle_gibbs, ancestor_sampling=True)),
}


def names_for(kernel):
    """Every scheme for the two classical kernels."""
    every = kernel in ("particle Gibbs", "ancestor sampling")
    return list(RIGHT | WRONG) if every else ["killing", "adaptive"]


PAIRS = [(kernel, name) for kernel in KERNELS for name in names_for(kernel) if name in RIGHT]


@pytest.fixture(scope="module")
def sweep():
    """One sweep of a kernel with a resampler; one compiled program for all resamplers."""
    keys = jax.random.split(jax.random.key(8), NUM_CHAINS)

    def compiled(kernel):
        make_problem, make_kernel = KERNELS[kernel]
        resamplers = [(RIGHT | WRONG)[name] for name in names_for(kernel)]

        @jax.jit
        def step(keys, paths, choice):
            # Marked as conditional, the wrong ones too, which would be refused.
            @smc.Conditional
            def resampler(key, log_w, t):
                return jax.lax.switch(choice, resamplers, key, log_w, t)

            problem = make_problem()
            new, info = make_kernel(problem.model, N, T, resampler).step(
                keys, problem.encode(paths)
            )
            return problem.decode(new), info

        return step

    steps = {kernel: compiled(kernel) for kernel in KERNELS}

    def run(kernel, resampler):
        posterior = KERNELS[kernel][0]().posterior
        draws = np.random.default_rng(5).choice(len(PATHS), NUM_CHAINS, p=posterior)
        choice = jnp.int32(names_for(kernel).index(resampler))
        after, info = steps[kernel](keys, jnp.asarray(PATHS[draws]), choice)
        return posterior, PATHS[draws], np.asarray(after), jax.tree.map(np.asarray, info)

    return run


def chi_square(paths, posterior):
    """The statistic over its rejection threshold."""
    observed = np.bincount(paths @ 3 ** np.arange(T)[::-1], minlength=len(PATHS))
    expected = NUM_CHAINS * posterior
    assert observed[expected == 0].sum() == 0
    assert expected[expected > 0].min() > 8
    o, e = observed[expected > 0], expected[expected > 0]
    return ((o - e) ** 2 / e).sum() / chi2.isf(1e-4, len(e) - 1)


@pytest.mark.parametrize(("kernel", "resampler"), PAIRS)
def test_the_posterior_is_invariant(sweep, kernel, resampler):
    posterior, before, after, info = sweep(kernel, resampler)
    assert chi_square(before, posterior) < 1
    assert chi_square(after, posterior) < 1
    assert 0.15 < (before != after).any(1).mean() < 0.9
    assert (info.infos.status == smc.OK).all()


@pytest.mark.parametrize("kernel", ["particle Gibbs", "ancestor sampling"])
def test_systematic_with_slot_0_pinned_is_caught(sweep, kernel):
    posterior, _, after, _ = sweep(kernel, "pinned systematic")
    assert chi_square(after, posterior) > 2


def test_ancestor_and_backward_sampling_renew_the_first_generation(sweep):
    """What they are for: more chains have a new first state after a sweep."""
    moved = {}
    for kernel in list(KERNELS)[:3]:
        _, before, after, info = sweep(kernel, "adaptive")
        moved[kernel] = (before != after)[:, 0].mean()
        if kernel == "particle Gibbs":
            assert (before == after)[(info.slots == 0).T].all()
    assert moved["ancestor sampling"] > 1.2 * moved["particle Gibbs"]
    assert moved["backward sampling"] > 1.2 * moved["particle Gibbs"]
