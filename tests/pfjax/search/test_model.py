"""The language model as a FeynmanKac: any algorithm of pfjax.smc, and the same Result as `solve`."""

import functools

import enumerable_lm
import jax
import numpy as np
import pytest
from toy_prms import policy, prm

import pfjax
from pfjax import smc
from pfjax.reasoning import passes
from pfjax.search import METHODS
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


@pytest.mark.slow
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
        assert (a.pop("asked")["key"], b.pop("asked")["key"]) == (None, 5)
        assert a == b
    assert any(not node.alive for r in solved for node in r.tree.nodes)


@functools.cache
def tiny(prm=None):
    """The enumerable language model, whose programs compile in a second."""
    return enumerable_lm.solver(tau=0.2, **({} if prm is None else {"prm": prm}))


def run_on(how, steps: int, n: int = 4):
    """The generations of a plain filter on the model of "a?"."""

    @jax.jit
    def run(key, model):
        pf = smc.particle_filter(model, n, METHODS["pf"].resampler)
        return smc.run(key, pf, steps, how.collect)[1]

    return run(how.keys("a?", 5), how.model("a?"))


def test_more_generations_than_needed_change_nothing():
    """The Result stops where `solve` does, at the generation that ends the last particle."""
    how = tiny()
    result = how.results("a?", run_on(how, how.budget.max_steps + 3))
    solved = how.solve("a?", 4, 5)
    assert [s.tokens for s in result.solutions] == [s.tokens for s in solved.solutions]
    assert len(result.ess) == len(solved.ess)
    assert result.log_evidence == pytest.approx(solved.log_evidence, abs=1e-5)


def test_a_python_reward_is_asked_in_the_middle_of_a_run():
    """The same calls, values and counts as `solve` makes."""
    asked: list[tuple] = []

    def value(question, steps):
        asked.append((question, *steps))
        return -0.1 * len(steps[-1])

    how = tiny(value)
    solved, by_solve = how.solve("a?", 4, 5), sorted(asked)
    asked.clear()
    result = how.results("a?", run_on(how, how.budget.max_steps))
    assert sorted(asked) == by_solve and result.counts.reward_calls == len(asked)
    assert [s.tokens for s in result.solutions] == [s.tokens for s in solved.solutions]
    assert [n.value for n in result.tree.nodes] == [n.value for n in solved.tree.nodes]


GIBBS = 4


@functools.cache
def sweeps():
    """(paths without caches, their sweeps, the last path) of five sweeps of particle Gibbs."""
    how, steps = solver(), solver().budget.max_steps

    @jax.jit
    def run(key, model):
        kernel = smc.particle_gibbs(model, GIBBS, steps)
        return smc.run(key, kernel, 5, lambda path, sweep: (small(path), sweep))

    path, (paths, sweep) = run(jax.random.key(0), how.model(QUESTIONS[0]))
    return paths, sweep, path


def small(path):
    return path._replace(policy_cache=(), reward_state=())


def assert_own_values(solutions):
    """Those that end, and whose text says which tokens they have, have the PRM's value of it."""
    whole = [s for s in solutions if s.finished and s.text == "\n\n".join(s.steps)]
    for s in whole:
        score = float(solver().prm.score(QUESTIONS[0], s.steps)[-1])
        assert s.value == pytest.approx(score, abs=1e-3)
    assert len(whole) > len(solutions) / 2


@pytest.mark.slow
def test_particle_gibbs_runs_on_it():
    """Paths of finished solutions, with the values of their own texts."""
    how, (paths, sweep, _) = solver(), sweeps()
    solutions = how.solutions(jax.tree.map(lambda x: x[:, -1], paths))
    assert len(solutions) == 5 and all(s.finished or s.truncated for s in solutions)
    assert len({tuple(s.tokens) for s in solutions}) > 1
    assert_own_values(solutions)
    moved = np.asarray(sweep.slots).any(axis=1)
    for i in range(1, 5):
        assert moved[i] or solutions[i].tokens == solutions[i - 1].tokens


@pytest.mark.slow
def test_a_reference_weighs_what_it_weighed_and_rows_are_not_confused(monkeypatch):
    """A conditional filter that never resamples, beside its reference; its PRM reads two rows at a time.

    The weight of slot 0 is that of its whole path. The rows come from two runs, and slot 0 is not what
    was proposed there, as copies of it were: every value is that of its own text.
    """
    monkeypatch.setattr(passes, "FEW", 1)
    how, steps, (*_, path) = solver(), solver().budget.max_steps, sweeps()
    never = smc.when(smc.never, smc.conditional(smc.systematic))

    @jax.jit
    def run(key, model, path):
        pinned = smc.conditional_particle_filter(model, 6, path, never)
        state, _ = smc.run(key, pinned, steps, lambda state, info: ())
        return state._replace(particles=small(state.particles))

    state = run(jax.random.key(4), how.model(QUESTIONS[0]), path)
    log_g = np.asarray(state.log_weights) + float(state.log_evidence) + np.log(6)
    np.testing.assert_allclose(log_g, np.asarray(state.particles.value) / 0.2, atol=1e-2)
    found = how.solutions(state.particles)
    assert (
        found[0].tokens == how.solutions(jax.tree.map(lambda x: x[None, -1], small(path)))[0].tokens
    )
    assert_own_values(found)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ("islands", "drafts"))
def test_islands_and_drafts_run_on_it(shape):
    """Keys with more axes: all rows are those of the question."""
    how, steps = solver(), solver().budget.max_steps

    @jax.jit
    def run(key, model):
        if shape == "drafts":
            state, _ = smc.run(key, smc.lookahead_filter(model, 3, 6), steps, lambda *_: ())
            return small(state.particles)
        inner = smc.particle_filter(model, 3, smc.systematic)
        return smc.run(key, smc.islands(inner, 2), steps, how.collect)[1]

    found = run(how.keys(QUESTIONS[0], 1), how.model(QUESTIONS[0]))
    if shape == "drafts":
        solutions = how.solutions(found)
        assert len(solutions) == 3
    else:
        result = how.results(QUESTIONS[0], found)
        solutions = result.solutions
        assert len(solutions) == 6 and np.isfinite(result.log_evidence)
    assert all(s.finished or s.truncated for s in solutions)


def test_wrong_use_is_one_sentence():
    how = tiny()
    model = how.model(["a?", "b?"])
    with pytest.raises(
        ValueError, match=r"shape \(4,\) for 2 questions; run it with one key for each"
    ):
        jax.eval_shape(smc.particle_filter(model, 4).init, jax.random.key(0))
    generations = run_on(how, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4\) for 3 questions, wanted"):
        how.results(["a?", "b?", "c?"], generations)
    by_text = pfjax.Solver(policy(), prm("rlhflow"), budget=pfjax.Budget(8, 24, 4))
    with pytest.raises(ValueError, match="no room for a PRM that reads text"):
        by_text.model(QUESTIONS[0])
    mesh = enumerable_lm.solver(mesh=pfjax.models.make_mesh(2, 1))
    with pytest.raises(ValueError, match="runs on one device"):
        mesh.model("a?")
    with pytest.raises(ValueError, match="question is empty"):
        how.model(" ")


def test_a_model_without_a_reward_samples():
    """Every log G is 0, so the evidence is 1."""
    how = tiny().with_prm(None)
    result = how.results("a?", run_on(how, how.budget.max_steps), method="majority")
    sampled = how.solve("a?", 4, 5, method="majority")
    assert [s.tokens for s in result.solutions] == [s.tokens for s in sampled.solutions]
    assert result.log_evidence == 0.0
