"""Samplers on Gaussian posteriors in closed form: E[Z_hat] = Z, E[Z_hat W f] = Z pi(f).

20 000 runs of 8 particles, |z| < 4 on four statistics each: a correct sampler fails with
probability 2.5e-4; the keys are fixed. Adaptive tempering is tested on its frozen schedule.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pfjax import smc

NUM_RUNS, N = 20_000, 8
PRIOR_MEAN, PRIOR_COV = np.array([0.5, -1.0]), np.array([[1.0, 0.3], [0.3, 0.5]])
DESIGN, NOISE, SEEN = np.array([[1.0, 0.5], [0.0, -0.8]]), np.diag([0.3, 0.6]), np.array([1.2, 0.4])


class Problem(NamedTuple):
    posterior: smc.Posterior
    evidence: float
    moments: dict  # {f: exact mean under the posterior}


def plane() -> Problem:
    """Two unknowns, both seen in noise, by a design that is not symmetric."""
    gram = DESIGN @ PRIOR_COV @ DESIGN.T + NOISE
    gain = PRIOR_COV @ DESIGN.T @ np.linalg.inv(gram)
    mean = PRIOR_MEAN + gain @ (SEEN - DESIGN @ PRIOR_MEAN)
    cov = PRIOR_COV - gain @ DESIGN @ PRIOR_COV
    root, prior_precision = np.linalg.cholesky(PRIOR_COV), np.linalg.inv(PRIOR_COV)
    log_scale = stats.multivariate_normal(np.zeros(2), NOISE).logpdf(np.zeros(2))
    f32 = jnp.float32

    def log_prior(x):
        return -0.5 * (x - f32(PRIOR_MEAN)) @ f32(prior_precision) @ (x - f32(PRIOR_MEAN))

    def log_likelihood(x):
        residual = f32(SEEN) - f32(DESIGN) @ x
        return f32(log_scale) - 0.5 * jnp.sum(residual**2 / f32(np.diag(NOISE)))

    return Problem(
        smc.Posterior(
            lambda key: f32(PRIOR_MEAN) + f32(root) @ jax.random.normal(key, (2,)),
            log_prior,
            log_likelihood,
        ),
        stats.multivariate_normal(DESIGN @ PRIOR_MEAN, gram).pdf(SEEN),
        {
            lambda x: x[..., 0]: mean[0],
            lambda x: x[..., 0] * x[..., 1]: cov[0, 1] + mean[0] * mean[1],
            lambda x: x[..., 1] > -1.3: stats.norm.sf(-1.3, mean[1], cov[1, 1] ** 0.5),
        },
    )


def truncated() -> Problem:
    """One unknown of prior N(1, 2^2), seen at -0.5 in noise 0.4, impossible above 0.2."""
    variance = 1 / (1 / 4 + 1 / 0.16)
    mean, sd = variance * (1 / 4 - 0.5 / 0.16), variance**0.5
    law = stats.truncnorm(-np.inf, (0.2 - mean) / sd, mean, sd)
    normal = jax.scipy.stats.norm
    return Problem(
        smc.Posterior(
            lambda key: 1 + 2 * jax.random.normal(key),
            lambda x: normal.logpdf(x, 1.0, 2.0),
            lambda x: jnp.where(x > 0.2, -jnp.inf, normal.logpdf(-0.5, x, 0.4)),
        ),
        stats.norm.pdf(-0.5, 1, (4 + 0.16) ** 0.5) * stats.norm.cdf(0.2, mean, sd),
        {
            lambda x: x: law.mean(),
            lambda x: x**2: law.moment(2),
            lambda x: x > 0: law.sf(0),
        },
    )


SOMETIMES = smc.when(smc.ess_below(0.6), smc.systematic)
RESAMPLE_MOVE = smc.resample_move(smc.random_walk(0.7), SOMETIMES)


def pilot_schedule(problem: Problem) -> jax.Array:
    """The inverse temperatures that one adaptive run with 200 particles finds."""
    algorithm = smc.adaptive_tempering(problem.posterior, 200, RESAMPLE_MOVE, fraction=0.8)
    states = [state for state, _ in smc.iterate(jax.random.key(3), algorithm, 9)]
    found = np.asarray([state.particles.inverse_temperature[0] for state in states])
    assert found[-1] == 1 and found[0] == 0 and 0 < found[1] < found[2] < 1
    return jnp.asarray(found)


def resample_before_weighing_twice(key, state, posterior):
    """A weight applied twice: what is left is not what the resampler says."""
    state, ancestors, resampled, told = RESAMPLE_MOVE(key, state, posterior)
    log_w = jnp.where(resampled[..., None], state.log_weights, 1.5 * state.log_weights)
    return state._replace(log_weights=log_w), ancestors, resampled, told


def at_the_wrong_temperature(key, x, log_density):
    """Leaves the square root of the density invariant."""
    return smc.random_walk(0.7)(key, x, lambda x: 0.5 * log_density(x))


FIXED = np.array([0.05, 0.2, 0.5, 1.0, 1.0], np.float32)
RIGHT = {
    "fixed": (plane, FIXED, RESAMPLE_MOVE),
    "fixed, waste-free": (plane, FIXED, smc.waste_free(smc.random_walk(0.7), 2)),
    "fixed, waste-free, optimal": (
        plane,
        FIXED,
        smc.waste_free(smc.random_walk(0.7), 4, choose=smc.optimal),
    ),
    "adaptive, frozen": (truncated, None, RESAMPLE_MOVE),
}
WRONG = {
    "weights applied twice": (plane, FIXED, resample_before_weighing_twice),
    "wrong temperature": (plane, FIXED, smc.waste_free(at_the_wrong_temperature, 2)),
}


def z_scores(name) -> tuple[np.ndarray, np.ndarray]:
    make, schedule, rejuvenate = (RIGHT | WRONG)[name]
    problem = make()
    schedule = pilot_schedule(problem) if schedule is None else jnp.asarray(schedule)
    algorithm = smc.tempering(problem.posterior, N, schedule, rejuvenate)
    keys = jax.random.split(jax.random.key(17), NUM_RUNS)
    state, _ = jax.jit(lambda keys: smc.run(keys, algorithm, len(schedule)))(keys)
    ratio = np.exp(np.asarray(state.log_evidence, float)) / problem.evidence
    x, w = (np.asarray(a, float) for a in (state.particles.position, np.exp(state.log_weights)))
    estimates = [ratio - 1]
    for f, exact in problem.moments.items():
        estimates.append(ratio * (w * f(x)).sum(1) - exact)
    errors = np.std(estimates, axis=1) / np.sqrt(NUM_RUNS)
    return np.mean(estimates, axis=1) / errors, errors


@pytest.mark.parametrize("name", RIGHT)
def test_unbiased(name):
    z, errors = z_scores(name)
    assert (np.abs(z) < 4).all(), z
    assert errors[0] < 0.01  # power: a bias of 8 % in Z is 8 standard errors


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_caught(name):
    assert np.abs(z_scores(name)[0]).max() > 6


def test_rejuvenation_leaves_the_tempered_posterior_invariant():
    """Chi-square after one transition from exact draws at lambda = 0.3; fails with p = 6e-5."""
    lam, n = 0.3, 20_000
    variance = 1 / (1 / 4 + lam / 0.49)
    law = stats.norm(variance * (1 / 4 - 0.5 * lam / 0.49), variance**0.5)
    normal = jax.scipy.stats.norm
    posterior = smc.Posterior(
        sample_prior=lambda key: 1 + 2 * jax.random.normal(key),
        log_prior=lambda x: normal.logpdf(x, 1.0, 2.0),
        log_likelihood=lambda x: normal.logpdf(-0.5, x, 0.7),
    )
    start = law.rvs(n, random_state=5)
    position = jnp.float32(start)
    scores = (jax.vmap(f)(position) for f in (posterior.log_prior, posterior.log_likelihood))
    x = smc.Tempered(position, *scores, jnp.full(n, jnp.float32(lam)), jnp.ones(n, jnp.float32))
    state = smc.start(jax.random.key(0), x, n)
    move = smc.resample_move(smc.random_walk(1.0))
    moved, _, _, told = jax.jit(lambda key, state: move(key, state, posterior))(
        jax.random.key(0), state
    )
    end = np.asarray(moved.particles.position, float)
    counts = np.histogram(law.cdf(end), 20, (0, 1))[0]
    assert ((counts - n / 20) ** 2 / (n / 20)).sum() < stats.chi2.isf(6e-5, 19)
    share_moved = (end != np.float32(start)).mean()
    assert share_moved > 0.5
    assert abs(float(told.acceptance_rate.mean()) - share_moved) < 4 * 0.5 / n**0.5
    np.testing.assert_allclose(
        moved.particles.log_likelihood, stats.norm.logpdf(-0.5, end, 0.7), rtol=1e-4, atol=1e-5
    )


def test_refusals():
    posterior = truncated().posterior
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.tempering(posterior, 0, FIXED, RESAMPLE_MOVE)
    with pytest.raises(ValueError, match=r"schedule: got shape \(0,\)"):
        smc.tempering(posterior, 2, jnp.zeros(0), RESAMPLE_MOVE)
    with pytest.raises(ValueError, match="fraction: got 1.5"):
        smc.adaptive_tempering(posterior, 2, RESAMPLE_MOVE, fraction=1.5)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.tempering(posterior, 2, FIXED, RESAMPLE_MOVE).init(jax.random.PRNGKey(0))
    column = posterior._replace(log_likelihood=lambda x: x[None])
    with pytest.raises(ValueError, match=r"posterior.log_likelihood: got shape \(2, 1\)"):
        smc.tempering(column, 2, FIXED, RESAMPLE_MOVE).init(jax.random.key(0))
