"""Methods of one's own through `solve`, and pfjax.smc on `solver.model`, against enumeration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable_lm import BUDGET, FUNCTIONS, PLAIN, enumerate_solutions, exact, solver, z_score

from pfjax import smc
from pfjax.search import Execution, Method, answers, potentials

RUNS, CHUNK, N, TAU = 20_000, 2_000, 8, 0.25
OWN = Method(
    smc.when(smc.ess_below(0.3), smc.ssp), potentials.mean, answers.weighted_vote, name="own"
)


def final_weight(values: list[float]) -> float:
    return math.exp((sum(values) / len(values) if values else 0.0) / TAU)


def scores(samples: dict[str, np.ndarray]) -> dict[str, float]:
    z, truths = exact(final_weight)
    return {name: z_score(samples[name], truth) for name, truth in ({"Z": z} | truths).items()}


@pytest.mark.slow
def test_a_method_of_ones_own_is_unbiased_through_solve():
    """20 000 searches; four z-scores, of which a right one fails |z| < 4 with probability 2.5e-4.

    Weights are carried and dropped: ESS falls below 0.3 n in some searches and not in others.
    """
    how = solver(tau=TAU, execution=Execution(rows=N * 4096))
    results = how.solve(["?"] * RUNS, N, 7, method=OWN, ids=range(RUNS))
    samples = {"Z": np.exp([r.log_evidence for r in results])}
    for name, f in PLAIN.items():
        means = [sum(s.weight * f(tuple(s.tokens)) for s in r.solutions) for r in results]
        samples[name] = samples["Z"] * np.array(means)
    assert all(abs(z) < 4 for z in scores(samples).values()), scores(samples)
    resampled = np.mean([min(r.ess[:-1], default=N) < 0.3 * N for r in results])
    assert 0.02 < resampled < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("resampler", (OWN.resampler, smc.multinomial))
def test_a_particle_filter_on_the_model_is_unbiased(resampler):
    """The same target by `smc.particle_filter`, which gathers rows to wherever they are drawn."""
    how = solver(tau=TAU)
    model = how.model("?", potentials.mean)

    @jax.jit
    def one(key, model):
        filtered = smc.particle_filter(model, N, resampler)
        state, _ = smc.run(key, filtered, BUDGET.max_steps)
        x, z = state.particles, jnp.exp(state.log_evidence)
        found = {name: jax.vmap(f)(x.tokens, x.length) for name, f in FUNCTIONS.items()}
        weights = jnp.exp(state.log_weights)
        return {"Z": z} | {name: z * jnp.sum(weights * fx) for name, fx in found.items()}

    chunks = jax.random.split(jax.random.key(3), RUNS).reshape(-1, CHUNK)
    many = jax.jit(jax.vmap(one, (0, None)))
    parts = [many(keys, model) for keys in chunks]
    samples = {k: np.concatenate([np.asarray(p[k], np.float64) for p in parts]) for k in parts[0]}
    assert all(abs(z) < 4 for z in scores(samples).values()), scores(samples)


@pytest.mark.slow
def test_particle_gibbs_leaves_the_posterior_invariant():
    """Chi-square over solutions: 20 000 chains start in the posterior and make one sweep.

    Solutions of less than 5e-4 are one cell; the limit is the 1 - 1e-4 quantile.
    """
    how = solver(tau=TAU)
    model = how.model("?", potentials.mean)
    table = [(t, p * final_weight(values)) for t, p, values in enumerate_solutions()]
    total = sum(mass for _, mass in table)
    posterior = {tokens: mass / total for tokens, mass in table}

    @jax.jit
    def swept(key, model):
        """A path of a large filter, which is nearly one of the posterior, after one sweep."""
        k_start, k_sweep = jax.random.split(key)
        first = smc.particle_gibbs(model, 96, BUDGET.max_steps).init(k_start)[0]
        kernel = smc.particle_gibbs(model, 3, BUDGET.max_steps)
        last = jax.tree.map(lambda x: x[-1], kernel.step(k_sweep, first)[0])
        return last.tokens, last.length

    keys = jax.random.split(jax.random.key(5), RUNS).reshape(-1, 500)
    many = jax.jit(jax.vmap(swept, (0, None)))
    found: dict[tuple[int, ...], int] = {}
    for part in keys:
        tokens, lengths = map(np.asarray, many(part, model))
        for row, length in zip(tokens, lengths, strict=True):
            solution = tuple(row[:length].tolist())
            found[solution] = found.get(solution, 0) + 1
    large = [t for t, p in posterior.items() if p > 5e-4]
    seen = np.array([found.get(t, 0) for t in large] + [0])
    seen[-1] = RUNS - seen.sum()
    wanted = np.array([posterior[t] for t in large] + [0])
    wanted[-1] = 1 - wanted.sum()
    assert set(found) <= set(posterior) and len(large) > 30
    chi2 = float(((seen - RUNS * wanted) ** 2 / (RUNS * wanted)).sum())
    freedom = len(large)
    assert chi2 < freedom + 3.72 * math.sqrt(2 * freedom) + 3.72**2, chi2
