"""Unbiasedness on an enumerable model: E[Z_hat] = Z and E[Z_hat sum_i W_i f(x_i)] = Z pi(f).

20 000 filters per resampler, |z| < 4 on four statistics each: a correct filter fails with
probability 2.5e-4 per resampler; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

NUM_FILTERS, N = 20_000, 16
FUNCTIONS = {
    "last state": lambda path: path[..., -1],
    "first state, given more to come": lambda path: path[..., 0] * (1 + path[..., 5]),
    "switches": lambda path: (path[..., 1:] != path[..., :-1]) @ np.arange(1, 7),
}


def forgetful(resampler: smc.Resampler) -> smc.Resampler:
    """The classic error: the weights carried past a skipped resampling are dropped."""

    def resample(key, log_w, t):
        ancestors, _, resampled = resampler(key, log_w, t)
        return ancestors, jnp.full_like(log_w, -jnp.log(jnp.float32(N))), resampled

    return resample


def entropic(key, log_w, t):
    """Ancestors drawn with W^(1/2), the weights then forgotten: no target is left."""
    return smc.multinomial(key, smc.normalise(log_w / 2), t)


def annealed(key, log_w, t):
    """The same ancestors by the contract: what is left is W_i / (N a_i)."""
    log_a = smc.normalise(log_w / 2)
    ancestors, equal, resampled = smc.multinomial(key, log_a, t)
    left = jnp.take_along_axis(smc.log_ratio(log_w, log_a), ancestors, -1) + equal
    return ancestors, left, resampled


HALF = smc.ess_below(0.5)
RIGHT = {
    "systematic": smc.systematic,
    "systematic in place": smc.in_place(smc.systematic),
    "systematic when": smc.when(HALF, smc.systematic),
    "multinomial": smc.multinomial,
    "multinomial in place": smc.in_place(smc.multinomial),
    "multinomial when": smc.when(HALF, smc.multinomial),
    "default": smc.adaptive_systematic,
    "annealed in place": smc.in_place(annealed),
}
WRONG = {"forgetful": forgetful(smc.when(HALF, smc.systematic)), "entropic": entropic}


@pytest.fixture(scope="module")
def filters(hmm):
    """Runs all filters with the resampler of that name; one compiled program for all names."""
    resamplers = RIGHT | WRONG

    @jax.jit
    def run(keys, choice):
        def resampler(key, log_w, t):
            return jax.lax.switch(choice, list(resamplers.values()), key, log_w, t)

        return smc.run(keys, smc.particle_filter(hmm.model, N, resampler), hmm.num_steps)[0]

    keys = jax.random.split(jax.random.key(2024), NUM_FILTERS)
    return lambda name: run(keys, jnp.int32(list(resamplers).index(name)))


def z_scores(hmm, state) -> tuple[np.ndarray, np.ndarray]:
    """z of Z_hat/Z - 1 and of Z_hat/Z sum_i W_i f(x_i) - pi(f), and their standard errors."""
    paths, weights = np.asarray(state.particles), np.exp(np.asarray(state.log_weights, float))
    ratio = np.exp(np.asarray(state.log_evidence, float) - hmm.log_evidence)
    estimates = [ratio - 1]
    for f in FUNCTIONS.values():
        estimates.append(ratio * (weights * f(paths)).sum(1) - hmm.posterior_mean(f))
    errors = np.std(estimates, axis=1) / np.sqrt(NUM_FILTERS)
    return np.mean(estimates, axis=1) / errors, errors


def test_the_oracle_is_the_published_number(hmm):
    assert abs(hmm.log_evidence - -7.8254029150) < 1e-9


@pytest.mark.parametrize("name", RIGHT)
def test_unbiased(hmm, filters, name):
    z, errors = z_scores(hmm, filters(name))
    assert (np.abs(z) < 4).all(), z
    assert errors[0] < 0.005  # power: a bias of 4 % in Z is 8 standard errors


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_are_lost_are_caught(hmm, filters, name):
    z, _ = z_scores(hmm, filters(name))
    assert np.abs(z).max() > 10, z
