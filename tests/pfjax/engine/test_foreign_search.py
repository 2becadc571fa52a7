"""Searches with PRMs that read text: values, counts, and particles that do not depend on the batch."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from toy_prms import KINDS as ALL
from toy_prms import policy, prm, spelled_out

import pfjax
from pfjax import models
from pfjax.engine import run
from pfjax.reasoning import foreign, passes
from pfjax.search import Execution
from pfjax.search.result import Result
from pfjax.settings.budget import Budget
from pfjax.settings.sampling import Sampling
from pfjax.tasks import generate

QUESTIONS = [generate(i, "validation", (2 + i % 2, 3)).question for i in range(3)]
BUDGET = Budget(step_tokens=12, max_tokens=60, max_steps=7)
FAST = ("rlhflow", "asked")
KINDS = [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in ALL]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Room for the PRM's tokens from the start, where the toy tokenizers spell words in letters."""
    least = foreign.reading
    monkeypatch.setattr(foreign, "reading", lambda *args: least(*args).holding(400, 70))


def solver(name: str, **fields) -> pfjax.Solver:
    sampling = Sampling(temperature=2.0)
    fields = {"budget": BUDGET, "tau": 0.05, "sampling": sampling, **fields}
    return pfjax.Solver(policy(), prm(name), **fields)


at_one_barrier = functools.cache(solver)


@functools.cache
def searched(name: str) -> list[Result]:
    return at_one_barrier(name).solve(QUESTIONS, particles=4, key=5, batch=4)


def path(result: Result, node) -> list:
    """The nodes from the first step to this one."""
    chain = [node]
    while chain[0].parent >= 0:
        chain.insert(0, result.tree.nodes[chain[0].parent])
    return chain


def ends(result: Result) -> list[list]:
    """Every path of the tree that nothing follows, particles that died too."""
    parents = {node.parent for node in result.tree.nodes}
    nodes = [n for i, n in enumerate(result.tree.nodes) if i not in parents]
    return [path(result, node) for node in nodes]


def texts(nodes: list) -> list[str]:
    return [node.text.strip() for node in nodes]


def cut(nodes: list) -> bool:
    """Whether the token budget ended the last step: it keeps the value before."""
    return sum(len(n.tokens) for n in nodes) >= BUDGET.max_tokens


@pytest.mark.parametrize("name", KINDS)
def test_values_are_those_of_the_whole_text(name):
    """Of every step of every path, after resampling and beside finished particles."""
    results, model, compared = searched(name), prm(name), 0
    for result in results:
        for nodes in ends(result):
            found = np.array([node.value for node in nodes])
            wanted = np.array(model.score(result.question, texts(nodes)))
            wanted[-1] = wanted[-2] if cut(nodes) else wanted[-1]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
            compared += len(nodes)
    nodes = [node for r in results for node in r.tree.nodes]
    assert compared > 60 and np.ptp([n.value for n in nodes]) > 0.05
    assert sum(not n.alive for n in nodes) > 5
    assert any(n.finished and n.generation + 1 < len(r.ess) for r in results for n in r.tree.nodes)


@pytest.mark.parametrize("name", KINDS)
def test_every_prm_token_is_counted_once(name):
    """What `PRM.encode` adds to a distinct path with each step, and the probes that it reads alone."""
    model = prm(name)
    dropped = 0 if model.format.keep_probe else len(model.format.probe)
    for result in searched(name):
        total, seen = 0, set()
        for node in result.tree.nodes:
            nodes = path(result, node)
            ids = tuple(tuple(n.tokens) for n in nodes)
            if ids in seen:
                continue
            seen.add(ids)
            now = len(model.encode(result.question, texts(nodes))[0])
            if len(nodes) == 1:
                total += now - len(model.format.prompt(result.question))
            else:
                before = len(model.encode(result.question, texts(nodes[:-1]))[0])
                total += now - before + dropped
        assert result.counts.prm_tokens == total


def assert_same(results: list[Result], others: list[Result]):
    for a, b in zip(results, others, strict=True):
        assert a.question == b.question
        for field in ("parent", "tokens", "finished"):
            parts = [[getattr(n, field) for n in r.tree.nodes] for r in (a, b)]
            assert parts[0] == parts[1], field
        values = [[node.value for node in r.tree.nodes] for r in (a, b)]
        np.testing.assert_allclose(*values, rtol=0, atol=1e-4)
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=1e-4)
        assert a.counts.prm_tokens == b.counts.prm_tokens


def test_a_problem_alone_gives_the_same_particles_as_in_a_batch():
    results, how = searched("rlhflow"), at_one_barrier("rlhflow")
    alone = how.solve(QUESTIONS[2], particles=4, key=5, batch=4)
    assert_same([alone], results[2:])
    assert alone.log_evidence == results[2].log_evidence
    assert how.compilations() == 3 and alone.counts.compilations == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, mesh, together, slots, batch, programs",
    [
        ("rlhflow", None, 1, 3, 2, 4),
        ("rlhflow", None, 2, None, 3, 3),
        ("qwen-once", (2, 1), 1, None, 4, 3),
        ("math-shepherd", (2, 2), 1, None, 4, 3),
    ],
)
def test_sharing_a_device_or_a_mesh_changes_no_particle(
    name, mesh, together, slots, batch, programs
):
    """One or two problems of a group weighed at a time; others enter as places become free."""
    mesh = mesh and models.make_mesh(*mesh)
    how = solver(name, mesh=mesh, execution=Execution(together=together, slots=slots))
    results = how.solve(QUESTIONS, particles=4, key=5, batch=batch)
    assert_same(results, searched(name))
    assert how.compilations() == programs


@pytest.mark.slow
def test_a_large_batch_whose_caches_grow_gives_the_same_particles(monkeypatch):
    """Its steps read two rows at a time."""
    monkeypatch.setattr(run, "LARGE_BATCH", 4)
    monkeypatch.setattr(passes, "FEW", 1)
    puts, put = [], passes._put
    monkeypatch.setattr(passes, "_put", lambda *a: puts.append(0) or put(*a))
    how = solver("rlhflow")
    assert_same(how.solve(QUESTIONS, particles=4, key=5, batch=4), searched("rlhflow"))
    assert puts
    assert how.compilations() == 9  # start, then write and weigh at three widths, grown twice


@pytest.mark.slow
def test_eight_devices_give_the_same_particles():
    how = solver("rlhflow", mesh=models.make_mesh(8, 1))
    assert_same(how.solve(QUESTIONS, particles=4, key=5), searched("rlhflow"))


@pytest.mark.slow
def test_a_shared_tokenizer_gives_the_same_by_tokens_and_by_text():
    """The embedded models, whose PRM the search reads on the device."""
    by_tokens = pfjax.load(tau=0.02, sampling=Sampling(1.5))
    model = by_tokens.prm
    assert model is not None
    by_text = replace(by_tokens, prm=replace(model, kind=spelled_out(model.kind)))
    results = [s.solve(QUESTIONS, particles=4, key=3, batch=4) for s in (by_tokens, by_text)]
    assert_same(*results)
    assert any(not node.alive for r in results[0] for node in r.tree.nodes)
    assert by_tokens.compilations() == 2 and by_text.compilations() == 3


@pytest.mark.slow
def test_a_solution_of_more_prm_tokens_than_expected_makes_room(monkeypatch):
    """Steps and solutions past the first estimate: the same values, compiled anew."""
    first = foreign.Reading(solution=200, step=40, block=25, dropped=0, most=500)
    monkeypatch.setattr(foreign, "reading", lambda *_: first)
    how = solver("rlhflow")
    assert_same(how.solve(QUESTIONS, particles=4, key=5, batch=4), searched("rlhflow"))
    engine = how.engine("pf", 4, 4)
    assert engine.reading(0) == foreign.Reading(400, 80, 25, 0, 500)
    assert how.compilations() == 8


@pytest.mark.slow
def test_a_solution_that_the_prm_has_no_room_for_is_truncated():
    """It keeps the value of the steps before; those of other solutions are as ever."""
    model = prm("skywork")
    module = nnx.merge(*nnx.split(model.module))
    module.config = replace(model.config, max_positions=160)
    how = replace(solver("skywork"), prm=replace(model, module=module))
    results, early = how.solve(QUESTIONS, particles=4, key=5, batch=4), 0
    for result in results:
        for nodes in ends(result):
            tokens = len(model.encode(result.question, texts(nodes))[0])
            values = np.array([0.0, *model.score(result.question, texts(nodes))])
            unread = tokens > 160 or cut(nodes)
            early += tokens > 160 and not cut(nodes) and len(nodes) < BUDGET.max_steps
            assert nodes[-1].finished or not unread
            assert nodes[-1].value == pytest.approx(values[-2 if unread else -1], abs=1e-4)
        for solution in result.solutions:
            tokens = len(model.encode(result.question, solution.steps)[0])
            assert solution.truncated or tokens <= 160
    assert early > 1
    assert how.engine("pf", 4, 4).reading(0).solution == 160
