"""Tasks on the engine: delimiters, stops, boxes, greedy text, the policy's own settings, rows without numbers."""

import functools
from dataclasses import replace

import enumerable_lm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pfjax
from pfjax import models
from pfjax.models import Prompt
from pfjax.tasks import generate

QUESTION = generate(3, "validation", (3, 4)).question
solver = functools.cache(
    lambda **fields: pfjax.load(task=pfjax.Task(**fields), budget=pfjax.Budget(max_tokens=64))
)


def texts(found: pfjax.Result) -> list[str]:
    return [s.text for s in found.solutions]


def test_a_delimiter_ends_every_step_and_the_prm_reads_the_steps_without():
    """ " = " as the delimiter: it is no white space, so the PRM reads text; values are those of `PRM.score`."""
    chosen = solver(delimiter=(" = ", "\n\n"))
    result = chosen.solve(QUESTION, 4, 1)
    prm, compared = chosen.prm, 0
    assert isinstance(prm, models.PRM)
    for i in range(4):
        path = result.tree.path(i)
        for node in path[:-1]:
            assert node.text.endswith((" = ", "\n\n")) and " = " not in node.text[:-3].strip(
                " ="
            ), node
        full = np.asarray(prm.score(QUESTION, [node.text.strip() for node in path]))
        for node, value in zip(path, full, strict=True):
            if node.text.endswith(" = "):
                np.testing.assert_allclose(node.value, value, atol=1e-4)
                compared += 1
    assert compared > 3


def test_a_stop_text_ends_a_solution_and_is_no_part_of_it():
    plain, stopped = (
        solver(**f).solve(QUESTION, 8, 2, method="majority") for f in ({}, {"stop": "has"})
    )
    assert all("has" in text for text in texts(plain))
    assert all("has" not in text for text in texts(stopped))
    assert all(s.finished or s.truncated for s in stopped.solutions)
    for one, other in zip(plain.solutions, stopped.solutions, strict=True):
        assert one.text.startswith(other.text) and one.tokens[: len(other.tokens)] == other.tokens


def test_a_task_chooses_whether_a_box_ends_a_solution():
    ends, goes_on = solver(), solver(stop_at_box=False)
    one, other = (s.solve(QUESTION, 8, 3, method="majority") for s in (ends, goes_on))
    boxed = [s for s in one.solutions if s.answer is not None and s.finished]
    assert boxed and all("}" in s.text[-2:] for s in boxed)
    for a, b in zip(one.solutions, other.solutions, strict=True):
        assert b.text.startswith(a.text)
    assert any(
        len(b.tokens) > len(a.tokens) for a, b in zip(one.solutions, other.solutions, strict=True)
    )


def test_answers_are_found_and_compared_as_the_task_says():
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return True

    task = pfjax.Task(extract=lambda text: text or None, equal=equal)
    result = enumerable_lm.solver(task=task).solve("a?", 8, 1)
    assert [s.answer for s in result.solutions] == [t or None for t in texts(result)]
    assert asked and result.answer in texts(result)


def test_temperature_0_is_the_likeliest_token_every_time():
    """Every particle is the same; every token is the argmax of the full forward pass."""
    greedy = replace(solver(), sampling=pfjax.Sampling(0))
    result = greedy.solve(QUESTION, 4, 7, method="majority")
    assert len(set(texts(result))) == 1 and result.solution.log_prob == 0
    prompt, tokens = greedy.encode(QUESTION, False)[0], result.solution.tokens
    logits = np.asarray(greedy.policy.logits(np.array([prompt + tokens], np.int32)))[0]
    assert logits[len(prompt) - 1 : -1].argmax(axis=1).tolist() == tokens


def test_a_policys_own_sampling_and_prompt_are_used_and_told():
    own = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "pfjax_prompt": {"user": "Solve: {question}"},
    }
    policy = replace(solver().policy, generation=solver().policy.generation | own)
    found = pfjax.load(policy, None)
    assert found.sampling == pfjax.Sampling(0.6, 0.95, 20, 0.0)
    assert "Solve: " + QUESTION in found.prompt(QUESTION)
    result = found.solve(QUESTION, 2, method="majority")
    assert result.asked.sampling == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
    assert pfjax.load(policy, None, sampling=pfjax.Sampling(1.0)).sampling.top_k == 20


def test_a_prompt_of_ones_own_is_what_the_policy_reads():
    prompt = Prompt(shots=[("Ann has 2 figs. How many figs does Ann have?", "Ann has 2.")])
    chosen = pfjax.load(task=pfjax.Task(prompt=prompt))
    assert chosen.encode(QUESTION, False)[0] == prompt.ids(chosen.policy.tokenizer, QUESTION)
    assert chosen.prompt(QUESTION).count("figs") >= 2


def test_which_prm_is_taken_where_none_is_given():
    folder = solver().policy
    assert isinstance(pfjax.load().prm, models.PRM)
    assert pfjax.load(folder).prm is None
    with pytest.raises(ValueError, match="'pf' needs a PRM; give one"):
        pfjax.load(folder).solve("x", 2)
    with pytest.raises(ValueError, match="'embedded:prm', which judges the embedded task alone"):
        pfjax.load(enumerable_lm.solver().policy, "embedded:prm")
    assert isinstance(pfjax.load(folder, "embedded:prm").prm, models.PRM)
    given = solver().prm
    assert pfjax.load(folder, given).prm is given


def test_seeds_of_64_bits_and_ids_that_are_texts():
    lm = enumerable_lm.solver()
    found = {
        key: tuple(texts(lm.solve("a?", 8, key))) for key in (0, 1 << 32, 1 << 40, np.int64(3), 3)
    }
    assert len(set(found.values())) == 4 and found[3] == found[np.int64(3)]
    one, other, again = (texts(lm.solve(["a?"], 8, ids=[i])[0]) for i in ("q/1", "q/2", "q/1"))
    assert one == again != other
    assert texts(lm.solve("a?", np.int64(8))) == texts(lm.solve("a?", jnp.int32(8)))


def test_a_row_whose_logits_are_not_numbers_dies_and_is_counted():
    """After a newline every logit is NaN: who goes on behind one dies, the evidence is that of the others."""
    lm = enumerable_lm.solver(prm=None)
    config = replace(enumerable_lm.CONFIG, tie_embeddings=False)
    decoder = models.Decoder(config, rngs=nnx.Rngs(3))
    row = enumerable_lm.TOKENS.index(b"\n")
    table = decoder.embed_tokens.embedding
    decoder.embed_tokens.embedding = nnx.Param(table[...].at[row].set(jnp.nan))
    broken = pfjax.Solver(replace(lm.policy, decoder=decoder), None, lm.sampling, lm.budget)
    result = broken.solve("a?", 64, 1, method="majority")
    dead = [s for s in result.solutions if s.log_weight == -np.inf]
    alive = [s for s in result.solutions if s.log_weight > -np.inf]
    assert dead and all(np.isnan(s.log_prob) and s.tokens[-1] == row for s in dead)
    assert alive and all(np.isfinite(s.log_prob) and row not in s.tokens[:-1] for s in alive)
    said = f"{len(dead)} of 64 solutions ended where the policy's logits were not finite"
    assert result.status == f"not finite; {said}, as in float16"
    assert result.log_evidence == pytest.approx(np.log(len(alive) / 64), abs=1e-5)


def test_logits_that_are_never_numbers_leave_no_answer():
    lm = enumerable_lm.solver(prm=None)
    decoder = nnx.merge(*nnx.split(lm.policy.decoder))
    decoder.norm.scale = nnx.Param(decoder.norm.scale[...] * jnp.inf)
    broken = pfjax.Solver(replace(lm.policy, decoder=decoder), None, lm.sampling, lm.budget)
    for sampling in (lm.sampling, pfjax.Sampling(0), pfjax.Sampling(0.7, top_p=0.9)):
        result = replace(broken, sampling=sampling).solve("a?", 4, method="majority")
        assert result.answer is None and texts(result) == [""] * 4
        assert "all dead" in result.status and "4 of 4 solutions" in result.status
        assert result.log_evidence == -np.inf


def test_prompts_of_very_different_lengths_are_run_apart(monkeypatch):
    """Three questions, one twenty times as long: its width is not that of the others."""
    from pfjax.engine import run

    widths = []
    pad = run.pad
    monkeypatch.setattr(run, "pad", lambda *a, **k: widths.append(a[2]) or pad(*a, **k))
    lm = enumerable_lm.solver(prm=None)
    monkeypatch.setattr(type(lm), "encode", lambda self, q, uses_prm=True: ([1] * len(q),))
    short, middle = "a" * 10, "b" * 90
    found = lm.solve([short, "c" * 2000, middle], 2, method="majority")
    assert sorted(set(widths)) == [96, 2048]
    assert [r.question[0] for r in found] == ["a", "c", "b"]
    assert texts(found[0]) == texts(lm.solve(short, 2, method="majority"))
    assert jax.tree.leaves(found[0].ess)
