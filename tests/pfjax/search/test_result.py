"""Results: text is that of all tokens, stored and read again, voted on anew, and what they say of themselves."""

import dataclasses
import json
import math

import enumerable_lm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tokenizers import llama_like, mistral_like

import pfjax
from pfjax.models import Tokenizer
from pfjax.models.pieces import pieces
from pfjax.reasoning.asked import step_text
from pfjax.search import METHODS, Result, answers
from pfjax.search.choosing import status_of
from pfjax.tasks.grader import asked_of

QUESTION = "a?"


def made(**fields):
    return enumerable_lm.solver(**fields).solve(QUESTION, 16, 3)


@pytest.mark.parametrize("write", (llama_like, mistral_like))
@pytest.mark.parametrize(
    "text", ("The answer is 3 4.\n\n So é 日本 🙂 has\n\n\\boxed{3 4}", " The\n\nAnn", "日")
)
def test_the_text_of_steps_is_the_text_cut_anywhere(tmp_path, write, text):
    """Wherever steps end, in the middle of characters too, no letter and no blank is lost."""
    write(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    rng = np.random.default_rng(0)
    for _ in range(40):
        cuts = sorted(rng.integers(0, len(ids) + 1, 3).tolist())
        steps = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
        found = pieces(tokenizer, steps)
        assert "".join(found) == whole
        before: list[int] = []
        for step, shown in zip(steps, found, strict=True):
            policy = dataclasses.make_dataclass("P", ["tokenizer", "eos_ids"])(tokenizer, ())
            assert step_text(policy, step, before[-3:]) == shown.strip()
            before += step


def test_half_a_character_at_the_end_is_not_shown(tmp_path):
    mistral_like(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids = tokenizer.encode("Ann 🙂")
    assert pieces(tokenizer, [ids[:-2]]) == ["Ann "]
    assert pieces(tokenizer, [ids[:-2], ids[-2:]]) == ["Ann ", "🙂"]


@pytest.mark.parametrize("method", METHODS)
def test_a_result_is_stored_and_read_again(method):
    fields = {"prm": None} if not METHODS[method].uses_prm else {}
    result = enumerable_lm.solver(**fields).solve(
        QUESTION, 1 if method == "sample" else 8, 3, method=method, ids=["q1"]
    )
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert Result.from_dict(stored) == result
    assert result.asked.key == 3 and result.asked.id == "q1" and result.asked.version
    assert result.asked.particles == len(result.solutions)
    assert result.asked.sampling["temperature"] == enumerable_lm.TEMPERATURE
    assert result.asked.budget["max_tokens"] == enumerable_lm.BUDGET.max_tokens
    assert "math-verify" in result.asked.grader
    other = dataclasses.replace(result, log_evidence=result.log_evidence + 1)
    assert other != result


def test_numbers_that_json_lacks_are_stored():
    result = made()
    solution = dataclasses.replace(result.solution, value=math.nan, log_weight=-math.inf)
    others = result.solutions[1:]
    result = dataclasses.replace(result, solutions=[solution, *others], chosen=0, ess=[math.inf])
    again = Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again == result and again.solution.log_weight == -math.inf and again.ess == [math.inf]
    assert math.isnan(again.solution.value)


@pytest.mark.parametrize("stored", (None, {}, {"format": 0}, {"format": 1}, [], "x"))
def test_what_is_no_stored_result_is_refused(stored):
    with pytest.raises(ValueError, match="^stored ") as error:
        Result.from_dict(stored)
    assert "\n" not in str(error.value)


def test_voting_anew_is_searching_with_the_other_rule():
    """best-of-n, weighted-best-of-n and majority draw the same particles."""
    solver = enumerable_lm.solver()
    found = solver.solve(QUESTION, 16, 5, method="best-of-n")
    before = solver.compilations()
    wanted = solver.solve(QUESTION, 16, 5, method="weighted-best-of-n")
    assert found.revote("weighted-best-of-n").answer == wanted.answer
    assert found.revote(METHODS["weighted-best-of-n"]).chosen == wanted.chosen
    assert solver.compilations() == before
    again = found.revote(answers.majority)
    assert again.method == "majority" and again.solutions == found.solutions
    assert found.revote("best-of-n") == found
    with pytest.raises(ValueError, match="^rule is 5, wanted the name of a method"):
        found.revote(5)
    with pytest.raises(ValueError, match="method 'own'|its answer rule"):
        found.revote(lambda keys, log_weights, values: 99)


def test_voting_anew_with_other_answers():
    result = made()
    texts = [s.text for s in result.solutions]
    first = result.revote("majority", extract=lambda text: text[:1] or None)
    assert [s.answer for s in first.solutions] == [t[:1] or None for t in texts]
    one = result.revote("majority", extract=lambda text: text or None, equal=lambda a, b: True)
    assert one.answer == one.solutions[one.chosen].answer


def test_voting_anew_compares_answers_as_the_search_did():
    said = [r"2\sqrt{2}", r"\sqrt{8}", "3", "3.0", r"8^{1/2}"]
    result = made()
    solutions = [
        dataclasses.replace(s, answer=a, log_weight=-math.log(16))
        for s, a in zip(result.solutions, [*said, *[None] * 11], strict=True)
    ]
    result = dataclasses.replace(result, solutions=solutions)
    assert result.revote("majority").answer == said[0]
    assert result.revote("majority", equal=None).answer == "3"
    own = dataclasses.replace(
        result, asked=dataclasses.replace(result.asked, grader=asked_of(lambda a, b: True))
    )
    assert own.revote("majority", equal=lambda a, b: True).answer == said[0]
    with pytest.raises(ValueError, match="compared by <lambda>; give that as equal"):
        own.revote("majority")
    forms = dataclasses.replace(result.asked, grader=asked_of(None))
    assert dataclasses.replace(result, asked=forms).revote("majority").answer == "3"


def test_what_was_asked_is_plain_values():
    solver = enumerable_lm.solver()
    for ids in ([3], np.array([3]), np.array([3], np.uint64)):
        asked = solver.solve(QUESTION, 2, jnp.array(5), ids=ids).asked
        assert (asked.key, asked.id) == (5, 3) and json.dumps(dataclasses.asdict(asked))
    assert solver.solve(QUESTION, 2, jax.random.key(5)).asked.key is None


def test_fields_that_a_result_does_not_know_are_passed_over():
    """Such as those of `pfjax solve --json`."""
    result = made()
    stored = result.to_dict()
    nodes = [node | {"right": True} for node in stored["tree"]["nodes"]]
    assert (
        Result.from_dict(stored | {"index": 3, "tree": stored["tree"] | {"nodes": nodes}}) == result
    )


def test_results_and_solutions_are_a_line():
    result = made()
    assert (
        len(repr(result)) < 200
        and "\n" not in repr(result)
        and str(len(result.solutions)) in repr(result)
    )
    assert len(repr(result.solution)) < 300 and "\n" not in repr(result.solution)
    assert len(repr(result.tree)) < 200


def test_prompts_are_counted_once():
    """Of the policy once, and once more for every PRM, of which functions are none."""
    solver = enumerable_lm.solver()
    for method in ("pf", "majority"):
        assert solver.solve(QUESTION, 4, method=method).counts.prompt_tokens == len(
            enumerable_lm.PROMPT
        )
    two = solver.solve([QUESTION, "b?"], 4)
    assert [r.counts.problems for r in two] == [2, 2]


def test_what_a_status_says():
    assert status_of("ok", "5", [True, True], [False, False]) == "ok"
    cut = status_of("ok", None, [True, True], [False, False])
    assert cut == "all 2 solutions were cut off by the budget; raise max_tokens (--max-tokens)"
    lost = status_of("not finite", None, [False, False], [True, False])
    assert lost.startswith(
        "not finite; 1 of 2 solutions ended where the policy's logits were not finite"
    )


def test_solutions_that_are_all_cut_say_so():
    lm = enumerable_lm.solver(
        budget=pfjax.Budget(1, 1, 1), task=pfjax.Task(extract=lambda text: None)
    )
    found = [lm.solve(QUESTION, 1, key) for key in range(12)]
    cut = [result.solution.truncated for result in found]
    assert cut == ["cut off by the budget" in result.status for result in found]
    assert any(cut) and not all(cut)
