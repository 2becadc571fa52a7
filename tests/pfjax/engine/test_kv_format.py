"""Searches whose caches of what is written are rounded to int8."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

import pfjax
from pfjax.engine import run
from pfjax.search import Execution
from pfjax.settings.sampling import Sampling
from pfjax.tasks import generate

QUESTIONS = [generate(i, "validation", (2 + i % 3, 4)).question for i in range(7)]
TAU = 0.1
solver = functools.cache(pfjax.load)


def rounding(kv_format: str | None = "int8", **execution) -> pfjax.Solver:
    how = Execution(kv_format=kv_format, **execution)
    return replace(solver(), execution=how, tau=TAU, sampling=Sampling(temperature=1.5))


def solve(how: pfjax.Solver, batch: int):
    return how.solve(QUESTIONS, particles=4, key=5, batch=batch)


@functools.cache
def in_one_batch(kv_format: str | None = "int8"):
    return solve(rounding(kv_format), 8)


def assert_same(results, others, atol: float = 1e-4):
    """`atol` is that of values; log-evidence is a sum of them over tau."""
    for a, b in zip(results, others, strict=True):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        assert [n.parent for n in a.tree.nodes] == [n.parent for n in b.tree.nodes]
        values = [[node.value for node in r.tree.nodes] for r in (a, b)]
        np.testing.assert_allclose(*values, atol=atol)
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, atol=atol / TAU)


@pytest.mark.slow
def test_refilled_places_change_no_particle():
    """Steps of one block each, so that both searches round at the same times."""
    how = rounding(together=1)
    assert how.budget.block == how.budget.step_tokens
    assert_same(solve(how, 4), in_one_batch())
    assert how.compilations() == 3
    assert any(not n.alive for r in in_one_batch() for n in r.tree.nodes)


@pytest.mark.slow
def test_wider_caches_change_no_particle(monkeypatch):
    wide = in_one_batch()
    monkeypatch.setattr(run, "LARGE_BATCH", 1)
    how = rounding()
    assert_same(solve(how, 8), wide)
    assert how.compilations() > 2


@pytest.mark.slow
def test_four_devices_give_the_same_particles():
    """Problems over two groups of devices, heads and their scales over the two of each.

    Sums in another order may round an entry of a cache the other way.
    """
    mesh = pfjax.models.make_mesh(2, 2)
    how = pfjax.load(
        mesh=mesh, tau=TAU, sampling=Sampling(1.5), execution=Execution(kv_format="int8")
    )
    assert_same(solve(how, 8), in_one_batch(), atol=5e-4)


@pytest.mark.slow
def test_the_first_step_sees_nothing_rounded():
    """Prompts and the step in progress stay as they are: generation 0 is that of full precision."""
    for a, b in zip(in_one_batch(), in_one_batch(None), strict=True):
        first = [[n for n in r.tree.nodes if n.parent < 0] for r in (a, b)]
        assert len(first[0]) == 4
        assert [n.tokens for n in first[0]] == [n.tokens for n in first[1]]
        values = [[n.value for n in nodes] for nodes in first]
        np.testing.assert_allclose(*values, atol=1e-5)


@pytest.mark.slow
def test_later_values_are_near_those_of_a_full_pass():
    """Log-odds of the PRM and log-probabilities of the policy, whose own caches were rounded."""
    prm, policy = solver().prm, solver().policy
    assert prm is not None
    off, of_policy = [], []
    for result in in_one_batch()[:4]:
        chat = policy.tokenizer.chat([{"role": "user", "content": result.question}])
        prompt = policy.tokenizer.encode(chat)
        for i, solution in enumerate(result.solutions[:2]):
            path = result.tree.path(i)
            full = prm.score(result.question, [node.text.strip() for node in path])
            whole = [k for k, n in enumerate(path) if n.text.endswith("\n\n") or n.finished]
            off += [path[k].value - float(full[k]) for k in whole if k]
            ids = np.array([[*prompt, *solution.tokens]], np.int32)
            logits = policy.logits(ids)[0, len(prompt) - 1 : -1] / 1.5
            logp = np.asarray(jax.nn.log_softmax(logits))
            rows = np.arange(len(solution.tokens))
            of_policy.append(logp[rows, solution.tokens].sum() - solution.log_prob)
    for differences in (off, of_policy):
        assert len(differences) >= 8 and 3e-4 < np.abs(differences).max() < 0.02


@pytest.mark.slow
def test_caches_of_int8_are_not_widened_whole():
    """XLA would convert the suffixes once, outside the token loop, and need more than without int8."""

    def total(kv_format: str | None) -> int:
        how = rounding(kv_format)
        engine = how.engine("pf", 5, 6)
        prompts = jax.eval_shape(lambda: run.pad([([1] * 9, [1] * 9)], 6, 64))
        context, pool = engine.shapes(prompts, how.budget.max_tokens)
        used = engine.lower_step(engine.params, context, pool).compile().memory_analysis()
        return used.argument_size_in_bytes + used.temp_size_in_bytes

    assert total("int8") < 0.95 * total(None)


@pytest.mark.parametrize("kv_format", ("int4", "INT8", ""))
def test_other_formats_are_refused_before_anything_is_read(tmp_path, kv_format):
    sentence = f"^kv_format is '{kv_format}', wanted None or 'int8'\\.$"
    with pytest.raises(ValueError, match=sentence):
        pfjax.load(tmp_path / "nowhere", execution=Execution(kv_format=kv_format))
    with pytest.raises(ValueError, match=sentence):
        replace(solver(), execution=Execution(kv_format=kv_format))
