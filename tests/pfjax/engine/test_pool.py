"""However problems share the device, each goes through the same generations."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pfjax
from pfjax.engine import run
from pfjax.models import cache
from pfjax.plan import hlo
from pfjax.search import Execution
from pfjax.settings.budget import Budget
from pfjax.settings.sampling import Sampling
from pfjax.tasks import generate

QUESTIONS = [generate(i, "validation", (2 + i % 3, 4)).question for i in range(7)]
solver = functools.cache(pfjax.load)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def sharing(together: int | None, slots: int | None = None, **fields) -> pfjax.Solver:
    names = set(Execution._fields) & set(fields)
    how = Execution(together=together, slots=slots, **{name: fields.pop(name) for name in names})
    fields = {"tau": 0.1, "sampling": Sampling(temperature=1.5), **fields}
    return replace(solver(), execution=how, **fields)


def solve(how: pfjax.Solver, batch: int, method: str = "pf", questions=QUESTIONS):
    return how.solve(questions, particles=4, key=5, method=method, batch=batch)


@functools.cache
def in_one_batch(method: str = "pf"):
    """At a common barrier: all seven problems start and step together."""
    return solve(sharing(None), 8, method)


def assert_same(results, others):
    for a, b in zip(results, others, strict=True):
        assert a.question == b.question
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        for field in ("parent", "tokens", "finished"):
            assert [getattr(n, field) for n in a.tree.nodes] == [
                getattr(n, field) for n in b.tree.nodes
            ], field
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, atol=1e-4)
        weights = [[s.weight for s in r.solutions] for r in (a, b)]
        np.testing.assert_allclose(*weights, atol=1e-4)


@pytest.mark.slow
def test_the_problems_are_uneven():
    """They have several numbers of generations and resample, or the tests below would say little."""
    depths = {len(r.ess) for r in in_one_batch()}
    assert len(depths) >= 3, depths
    assert any(not n.alive for r in in_one_batch() for n in r.tree.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("together, slots, batch", ((None, None, 4), (1, None, 4), (2, 2, 4)))
def test_sharing_changes_no_particle(together, slots, batch):
    """Two batches at a common barrier; refilled places, one or two problems weighed at a time."""
    how = sharing(together, slots)
    seen: list[int] = []
    results = how.solve(
        QUESTIONS, particles=4, key=5, batch=batch, progress=lambda done, total: seen.append(done)
    )
    assert_same(results, in_one_batch())
    assert seen == list(range(1, 8))
    programs = 2 if together is None else 3
    assert how.compilations() == programs


@pytest.mark.slow
def test_two_devices_refill_their_own_places():
    mesh = pfjax.models.make_mesh(2, 1)
    how = pfjax.load(
        mesh=mesh, execution=Execution(together=1), tau=0.1, sampling=Sampling(temperature=1.5)
    )
    assert_same(solve(how, 4), in_one_batch())
    assert how.compilations() == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ("paper", "majority"))
def test_other_methods_share_too(method):
    assert_same(solve(sharing(1), 4, method), in_one_batch(method))


@pytest.mark.slow
@pytest.mark.parametrize("together, slots, method", ((None, None, "majority"), (1, 2, "pf")))
def test_a_step_of_several_blocks_is_that_of_one(monkeypatch, together, slots, method):
    """Steps of up to 40 tokens, looked at every 16 or only at the end."""
    budget = Budget(step_tokens=40, max_tokens=80, max_steps=4)
    fields = {"budget": budget, "sampling": Sampling(temperature=4.0)}
    questions = QUESTIONS[:3]
    assert budget.block == 16
    blocks = solve(sharing(together, slots, **fields), 2, method, questions)
    assert max(len(n.tokens) for r in blocks for n in r.tree.nodes) > 32
    monkeypatch.setattr(Budget, "block", property(lambda self: 40))
    whole = solve(sharing(3, **fields), 2, method, questions)
    assert_same(blocks, whole)


@pytest.mark.slow
def test_programs_that_were_compiled_ahead_give_the_same(monkeypatch):
    """Caches grow by thirds, in prompts of two widths; no program is compiled twice.

    Without it the widest steps, which no problem reaches, are left out.
    """
    whole = in_one_batch()
    monkeypatch.setattr(run, "LARGE_BATCH", 1)
    monkeypatch.setattr(run, "bucket", lambda length: 4 * -(-length // 4))
    for ahead, programs in ((True, 9), (False, 7)):
        how = sharing(None, ahead=ahead)
        assert_same(solve(how, 2), whole)
        assert how.compilations() == programs
        assert_same(solve(how, 2), whole)
        assert how.compilations() == programs
        engine = how.engine("pf", 4, 2)
        assert bool(engine._ahead._programs) == ahead


def jobs(lengths: list[int]) -> list[run.Job]:
    key = jax.random.key(0)
    return [run.Job(i, ([7] * n, [7] * max(n - 3, 1)), key) for i, n in enumerate(lengths)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 12))
def test_jobs_fall_into_two_widths_at_most(lengths, batch):
    groups = run._by_width(jobs(lengths), batch)
    assert 1 <= len(groups) <= 2
    assert sorted(j.index for g in groups for j in g) == list(range(len(lengths)))
    sizes = [[len(j.prompt[0]) for j in g] for g in groups]
    assert all(g == sorted(g) for g in sizes) and all(sizes)
    middle = run.bucket(sorted(lengths)[len(lengths) // 2])
    long = [n for n in lengths if n > middle]
    assert len(groups) == (2 if len(long) >= batch else 1)
    if len(groups) == 2:
        assert max(sizes[0]) <= middle < min(sizes[1]) and len(sizes[1]) >= batch


def test_a_bucket_that_fills_no_batch_joins_the_other():
    few, many = jobs([50, 300, 60, 70, 310]), jobs([50, 300, 60, 70, 310, 65])
    assert [[j.index for j in g] for g in run._by_width(few, 3)] == [[0, 2, 3, 1, 4]]
    assert [[j.index for j in g] for g in run._by_width(many, 2)] == [[0, 2, 5, 3], [1, 4]]


def test_buckets_are_the_least_that_hold_the_prompt():
    widths = sorted({2**i for i in range(6, 14)} | {3 * 2**i for i in range(5, 13)})
    for length in (*range(1, 1100), 6144, 6145, 8192, 12288):
        assert run.bucket(length) == next(w for w in widths if w >= length)


PROBLEMS, PARTICLES, MANY = 6, 5, 44


@functools.cache
def step(
    together: int | None, kv_format: str | None, particles: int = PARTICLES
) -> tuple[hlo.Computations, set[tuple[int, ...]]]:
    """`advance` compiled for a CPU, and the shapes of its caches: as they are, and rows flattened."""
    how = sharing(together, kv_format=kv_format)
    engine = how.engine("pf", particles, PROBLEMS)
    prompts = jax.eval_shape(lambda: run.pad([([1] * 9, [1] * 9)], PROBLEMS, 192))
    context, pool = engine.shapes(prompts, how.budget.max_tokens)
    text = engine.lower_step(engine.params, context, pool).compile().as_text()
    caches = jax.tree.leaves(
        (context, pool.state.particles), is_leaf=lambda node: isinstance(node, cache.KV)
    )
    shapes = {leaf.shape for kv in caches if isinstance(kv, cache.KV) for leaf in (*kv.k, *kv.v)}
    assert len(shapes) == 8, shapes
    flat = {(PROBLEMS * particles, *s[2:]) for s in shapes if len(s) == 5}
    return hlo.parse(text), shapes | flat


@pytest.mark.parametrize(
    "together, kv_format, particles",
    (
        (None, None, PARTICLES),
        (None, None, MANY),
        slow(1, None, PARTICLES),
        slow(None, "int8", PARTICLES),
        slow(1, "int8", MANY),
    ),
)
def test_no_loop_copies_a_cache(together, kv_format, particles):
    """With many particles several passes of the PRM are among the loops."""
    found, shapes = step(together, kv_format, particles)
    bodies = hlo._loop_bodies(found)
    assert any("dot" in line for name in bodies for line in found[name])
    wanted = {tuple(sorted(s)) for s in shapes}
    copies = [
        line.strip()[:160]
        for name in bodies
        for line in found[name]
        if (m := hlo._OPERATION.match(line)) and m[3] in ("copy", "copy-start", "transpose")
        if (a := hlo._ARRAY.search(m[2]))
        if tuple(sorted(int(d) for d in a[1].split(",") if d)) in wanted
    ]
    assert hlo.copies_in_loops(found, shapes) == 0, copies
