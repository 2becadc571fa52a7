"""The language model as a FeynmanKac: any algorithm of pfjax.smc, and the same Result as `solve`."""

import functools

import jax
import numpy as np
import pytest
from toy_prms import policy, prm

import pfjax
from pfjax import smc
from pfjax.search import METHODS, rewards
from pfjax.tasks import generate

QUESTIONS = [generate(i, "validation", (3, 4)).question for i in range(3)]
solver = functools.cache(lambda: pfjax.load(tau=0.2, sampling=pfjax.Sampling(1.5)))


@functools.partial(jax.jit, static_argnums=2)
def filtered(keys, model, n):
    pf = smc.particle_filter(model, n, METHODS["pf"].resampler)
    return smc.run(keys, pf, solver().budget.max_steps, solver().collect)


def plain(result) -> dict:
    """All of a result but seconds and compilations."""
    found = result.to_dict()
    counts = {k: v for k, v in found["counts"].items() if k not in ("seconds", "compilations")}
    return found | {"counts": counts}


@pytest.mark.parametrize("question", (QUESTIONS[0], QUESTIONS[:2]), ids=("one", "a list"))
def test_the_plain_filter_gives_what_solve_gives(question):
    """Token for token: solutions, tree, answer, counts; weights and evidence to rounding."""
    how, batch = solver(), 1 if isinstance(question, str) else 2
    _, generations = filtered(how.keys(question, 5), how.model(question), 4)
    results = how.results(question, generations)
    solved = how.solve(question, 4, 5, batch=batch)
    if isinstance(question, str):
        results, solved = [results], [solved]
    for a, b in zip(map(plain, results), map(plain, solved), strict=True):
        for field in ("weight", "value", "log_prob"):
            pair = [[s.pop(field) for s in r["solutions"]] for r in (a, b)]
            np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-5)
        for r in (a, b):
            values = [node.pop("value") for node in r["tree"]["nodes"]]
            r["numbers"] = [
                r.pop("log_evidence"),
                *r.pop("ess"),
                *r["tree"].pop("weights"),
                *values,
            ]
        np.testing.assert_allclose(a.pop("numbers"), b.pop("numbers"), rtol=1e-4, atol=1e-4)
        assert a == b
    assert any(not node.alive for r in solved for node in r.tree.nodes)


def test_more_generations_than_needed_change_nothing():
    """The Result stops where `solve` does, at the generation that ends the last particle."""
    how = solver()
    pf = smc.particle_filter(how.model(QUESTIONS[0]), 4, METHODS["pf"].resampler)
    run = jax.jit(lambda key: smc.run(key, pf, how.budget.max_steps + 3, how.collect))
    result = how.results(QUESTIONS[0], run(how.keys(QUESTIONS[0], 5))[1])
    solved = how.solve(QUESTIONS[0], 4, 5)
    assert [s.tokens for s in result.solutions] == [s.tokens for s in solved.solutions]
    assert len(result.ess) == len(solved.ess)


def test_a_python_reward_is_asked_in_the_middle_of_a_run():
    """The same calls, values and counts as `solve` makes."""
    asked: list[tuple] = []

    def value(question, steps):
        asked.append((question, *steps))
        return -0.1 * len(steps[-1])

    how = solver().with_prm(value)
    solved, by_solve = how.solve(QUESTIONS[0], 4, 5), sorted(asked)
    asked.clear()
    pf = smc.particle_filter(how.model(QUESTIONS[0]), 4, METHODS["pf"].resampler)
    _, generations = smc.run(how.keys(QUESTIONS[0], 5), pf, how.budget.max_steps, how.collect)
    result = how.results(QUESTIONS[0], generations)
    assert sorted(asked) == by_solve and result.counts.reward_calls == len(asked)
    assert [s.tokens for s in result.solutions] == [s.tokens for s in solved.solutions]


@pytest.mark.slow
def test_particle_gibbs_runs_on_it():
    """Paths of finished solutions; slot 0 keeps its reference, whose weight is what it was."""
    how, steps = solver(), solver().budget.max_steps
    model = how.model(QUESTIONS[0])

    @jax.jit
    def sweeps(key, model):
        kernel = smc.particle_gibbs(model, 4, steps)
        return smc.run(key, kernel, 5, lambda path, sweep: (_small(path), sweep))

    _, (paths, sweep) = sweeps(jax.random.key(0), model)
    final = jax.tree.map(lambda x: x[:, -1], paths)
    solutions = how.solutions(final)
    assert len(solutions) == 5 and all(s.finished or s.truncated for s in solutions)
    assert len({tuple(s.tokens) for s in solutions}) > 1
    own = how.prm
    for s in solutions:
        if s.finished:
            assert s.value == pytest.approx(float(own.score(QUESTIONS[0], s.steps)[-1]), abs=1e-3)
    moved = np.asarray(sweep.slots).any(axis=1)
    for i in range(1, 5):
        same = solutions[i].tokens == solutions[i - 1].tokens
        assert moved[i] or same


def _small(path):
    return path._replace(policy_cache=(), reward_state=())


@pytest.mark.slow
def test_a_reference_weighs_what_it_weighed():
    """A conditional filter of one particle: the evidence is that of the path, product of its G_t."""
    how, steps = solver(), solver().budget.max_steps
    model = how.model(QUESTIONS[0])
    path = smc.particle_gibbs(model, 8, steps).init(jax.random.key(3))[0]
    pinned = smc.conditional_particle_filter(model, 1, path)
    state, _ = smc.run(jax.random.key(4), pinned, steps)
    value = float(path.value[-1])
    assert float(state.log_evidence) == pytest.approx(value / 0.2, abs=1e-2)


@pytest.mark.slow
def test_copies_in_foreign_rows_are_not_confused():
    """Rows of a conditional filter come from two runs: every value is that of its own text."""
    how, steps = solver(), solver().budget.max_steps
    model = how.model(QUESTIONS[0])
    path = smc.particle_gibbs(model, 4, steps).init(jax.random.key(6))[0]
    pinned = smc.conditional_particle_filter(model, 6, path, smc.conditional(smc.systematic))
    run = jax.jit(lambda key: smc.run(key, pinned, steps, lambda s, i: _small(s.particles)))
    _, rows = run(jax.random.key(7))
    final = jax.tree.map(lambda x: x[-1], rows)
    for solution in how.solutions(final):
        if solution.finished:
            score = float(how.prm.score(QUESTIONS[0], solution.steps)[-1])
            assert solution.value == pytest.approx(score, abs=1e-3)


@pytest.mark.slow
def test_islands_and_drafts_run_on_it():
    """Keys with more axes: all rows are those of the question."""
    how, steps = solver(), solver().budget.max_steps
    model = how.model(QUESTIONS[0])
    inner = smc.particle_filter(model, 3, smc.systematic)
    state, generations = smc.run(
        how.keys(QUESTIONS[0], 1), smc.islands(inner, 2), steps, how.collect
    )
    result = how.results(QUESTIONS[0], generations)
    assert len(result.solutions) == 6 and np.isfinite(result.log_evidence)
    drafts = smc.lookahead_filter(model, 3, 6)
    state, _ = smc.run(how.keys(QUESTIONS[0], 1), drafts, steps)
    assert len(how.solutions(state.particles)) == 3


def test_wrong_use_is_one_sentence():
    how = solver()
    model = how.model(QUESTIONS[:2])
    with pytest.raises(
        ValueError, match=r"shape \(4,\) for 2 questions; run it with one key for each"
    ):
        jax.eval_shape(smc.particle_filter(model, 4).init, jax.random.key(0))
    _, generations = jax.eval_shape(
        lambda k: filtered(k, how.model(QUESTIONS[:2]), 4), how.keys(QUESTIONS[:2])
    )
    empty = jax.tree.map(lambda x: np.zeros(x.shape), generations.value)
    with pytest.raises(ValueError, match="for 3 questions, wanted"):
        how.results(QUESTIONS, generations._replace(value=empty, info=(), **_none(generations)))
    by_text = pfjax.Solver(policy(), prm("rlhflow"), budget=pfjax.Budget(8, 24, 4))
    with pytest.raises(ValueError, match="no room for a PRM that reads text"):
        by_text.model(QUESTIONS[0])
    mesh = pfjax.load(mesh=pfjax.models.make_mesh(2, 1))
    with pytest.raises(ValueError, match="runs on one device"):
        mesh.model(QUESTIONS[0])
    with pytest.raises(ValueError, match="question is empty"):
        how.model(" ")


def _none(generations):
    return {f: 0 for f in generations._fields if f not in ("value", "info")}


def test_a_model_without_a_reward_samples():
    """Every log G is 0, so the evidence is 1."""
    how = solver().with_prm(None)
    pf = smc.particle_filter(how.model(QUESTIONS[0]), 4)
    run = jax.jit(lambda key: smc.run(key, pf, how.budget.max_steps, how.collect))
    _, generations = run(how.keys(QUESTIONS[0], 5))
    result = how.results(QUESTIONS[0], generations, method="majority")
    sampled = how.solve(QUESTIONS[0], 4, 5, method="majority")
    assert [s.tokens for s in result.solutions] == [s.tokens for s in sampled.solutions]
    assert result.log_evidence == 0.0


def test_names_are_public():
    assert rewards.of_tokens and pfjax.search.Result and pfjax.Solver
