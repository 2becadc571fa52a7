"""Rewards of one's own: values against the function called by hand, calls counted, failures in one sentence."""

import functools
import math
import threading
import time

import enumerable_lm
import jax.numpy as jnp
import numpy as np
import pytest
from toy_prms import policy, prm

import pfjax
from pfjax import models
from pfjax.reasoning.asked import Asker, Solutions, step_text
from pfjax.search import METHODS, RewardError, rewards
from pfjax.search.choosing import chosen
from pfjax.search.loading import resolve
from pfjax.tasks import generate

QUESTIONS = [generate(i, "validation", (3, 4)).question for i in range(2)]
solver = functools.cache(pfjax.load)
SAMPLING = pfjax.Sampling(1.5)


def paths(result):
    """(nodes from the first step, steps as texts) of every node that was weighed."""
    own = solver().policy
    for node in result.tree.nodes:
        chain = [node]
        while chain[0].parent >= 0:
            chain.insert(0, result.tree.nodes[chain[0].parent])
        if not sum(len(n.tokens) for n in chain) >= 96:  # cut steps keep the value before
            yield chain, [step_text(own, n.tokens) for n in chain]


def searched(reward, **fields):
    how = pfjax.Solver(solver().policy, reward, SAMPLING, **fields)
    return how.solve(QUESTIONS, particles=4, key=5, batch=2)


def assert_values(results, by_hand):
    """`by_hand(question, nodes, steps)` gives the value of every node; there are many."""
    count = 0
    for result in results:
        for nodes, steps in paths(result):
            wanted = by_hand(result.question, nodes, steps)
            assert nodes[-1].value == pytest.approx(wanted, rel=1e-5, abs=1e-4)
            count += 1
    assert count > 15


def of_steps(question: str, steps: list[str]) -> float:
    return 0.1 * len(steps) - 0.02 * len(steps[-1]) + 0.001 * len(question)


def of_ids(tokens, length):
    at = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    parts = jnp.where(at < length, tokens * (at % 7 - 3), 0)
    return 0.001 * jnp.sum(parts).astype(jnp.float32)


def of_ids_by_hand(nodes) -> float:
    ids = [t for node in nodes for t in node.tokens]
    return 0.001 * sum(t * (i % 7 - 3) for i, t in enumerate(ids))


def test_a_python_function_of_texts():
    """It is called once for every distinct partial solution, and each call is counted."""
    asked: list[tuple] = []

    def value(question, steps):
        asked.append((question, *steps))
        return of_steps(question, steps)

    results = searched(value)
    assert_values(results, lambda question, nodes, steps: of_steps(question, steps))
    assert len(asked) == len(set(asked)) == sum(r.counts.reward_calls for r in results)
    for result in results:
        own = {(result.question, *steps) for _, steps in paths(result)}
        assert own <= set(asked)
        assert result.counts.reward_calls == sum(a[0] == result.question for a in asked)
    assert all(r.counts.prm_tokens == 0 for r in results)


def test_a_batched_python_function_sees_all_new_solutions_at_once():
    sizes = []

    def values(questions, steps):
        sizes.append(len(questions))
        return np.array([of_steps(*pair) for pair in zip(questions, steps, strict=True)])

    results, single = searched(rewards.of_batches(values)), searched(of_steps)
    assert [r.to_dict()["tree"] for r in results] == [r.to_dict()["tree"] for r in single]
    assert sum(sizes) == sum(r.counts.reward_calls for r in results) > 2 * len(sizes)


@pytest.mark.slow
def test_a_jax_function_of_tokens():
    results = searched(rewards.of_tokens(of_ids))
    assert_values(results, lambda question, nodes, steps: of_ids_by_hand(nodes))
    assert all(r.counts.reward_calls == r.counts.prm_tokens == 0 for r in results)


@pytest.mark.slow
@pytest.mark.parametrize("how", ("mean", "minimum", "weighted_sum"))
def test_several_rewards_together(how):
    """A PRM on the device, a PRM of another tokenizer that reads text, tokens and texts: four parts."""
    own, other = models.load_prm(resolve("embedded:prm")), prm("rlhflow")
    parts = own, other, rewards.of_tokens(of_ids), of_steps
    weights = (0.5, -2.0, 1.5, 0.0)
    if how == "weighted_sum":
        reward = rewards.weighted_sum(*zip(parts, weights, strict=True))
    else:
        reward = getattr(rewards, how)(*parts)
    make = {
        "mean": np.mean,
        "minimum": np.min,
        "weighted_sum": lambda values: np.dot(values, weights),
    }[how]

    def by_hand(question, nodes, steps):
        scores = [float(p.score(question, steps)[-1]) for p in (own, other)]
        return make([*scores, of_ids_by_hand(nodes), of_steps(question, steps)])

    results = searched(reward)
    assert_values(results[:1], by_hand)
    alone = [searched(part)[0].counts for part in (own, other)]
    assert all(r.counts.reward_calls > 0 and r.counts.prm_tokens > 0 for r in results)
    prompts = [len(p.format.prompt(QUESTIONS[0])) for p in (own, other)]
    policy_prompt = alone[0].prompt_tokens - prompts[0]
    assert results[0].counts.prompt_tokens == policy_prompt + sum(prompts)


@pytest.mark.slow
def test_combinations_nest_and_open_folders():
    inner = rewards.minimum("embedded:prm", of_steps)
    loaded = pfjax.load(prm=rewards.mean(inner, rewards.of_tokens(of_ids)))
    assert isinstance(loaded.prm, rewards.Mix) and isinstance(
        loaded.prm.parts[0].parts[0], models.PRM
    )
    result = loaded.solve(QUESTIONS[0], 4, 5)
    own = solver().prm

    def by_hand(question, nodes, steps):
        least = min(float(own.score(question, steps)[-1]), of_steps(question, steps))
        return (least + of_ids_by_hand(nodes)) / 2

    assert_values([result], by_hand)


def test_minus_infinity_kills():
    """No particle with a b in a step that was weighed has weight; all dead is said."""

    def value(question, steps):
        return -math.inf if question == "dead?" or "b" in steps[-1] else 0.0

    result, dead = enumerable_lm.solver(prm=value).solve(["a?", "dead?"], 16, 1)
    assert any(node.value == -math.inf for node in result.tree.nodes)
    for solution in result.solutions:
        assert solution.weight == 0 or "b" not in "".join(solution.steps[:-1])
    assert result.status == "ok" and math.isfinite(result.log_evidence)
    assert (dead.status, dead.log_evidence, dead.answer) == ("all dead", -math.inf, None)


def test_what_is_killed_has_no_vote():
    """Two dead solutions say 7, one alive says 5, under every rule; where nobody alive has an answer, none."""
    log_w = np.log(np.array([1e-300, 1e-300, 0.3, 0.7])) - np.array([np.inf, np.inf, 0, 0])
    values = np.array([-np.inf, -np.inf, 1.0, 2.0])
    for method in METHODS.values():
        assert chosen(method.select, "x", ["7", "7", "5", None], log_w, values) == 2
    assert chosen(METHODS["pf"].select, "x", ["7", "7", None, None], log_w, values) == 3


DOES: list[str] = []


def fails(question, steps):
    """Right for the first step, and then does what `DOES` says."""
    if len(steps) < 2:
        return 0.0
    if DOES[-1] == "raises":
        raise RuntimeError("no\nluck")
    if DOES[-1] == "hangs":
        threading.Event().wait(30)
    answers = {"nan": math.nan, "inf": math.inf, "text": "0.5", "list": [1.0], "none": None}
    return answers[DOES[-1]]


def fail_together(questions, steps):
    """The same at once; too many values, a text, one number."""
    if len(steps[0]) < 2:
        return [0.0] * len(steps)
    answers = {"more": [0.0] * (len(steps) + 1), "text": "0.0", "one": 0.0}
    answers["nan"] = [math.nan] * len(steps)
    return answers[DOES[-1]] if DOES[-1] in answers else 1 / 0


failing = functools.cache(lambda: enumerable_lm.solver(prm=rewards.of_texts(fails, timeout=0.5)))
failing_together = functools.cache(
    lambda: enumerable_lm.solver(prm=rewards.of_batches(fail_together))
)


@pytest.mark.parametrize(
    ("what", "said"),
    {
        "raises": "raised RuntimeError: no luck",
        "hangs": "took longer than 0.5 s",
        "nan": "returned nan",
        "inf": "returned inf",
        "text": "returned '0.5'",
        "list": r"returned \[1.0\]",
        "none": "returned None",
    }.items(),
)
def test_a_python_function_that_fails_is_one_sentence(what, said):
    """It names the function and quotes the step; the solver can be used again."""
    DOES.append(what)
    began = time.monotonic()
    with pytest.raises(
        RewardError, match=rf"^The reward 'fails' {said}.* for the step '[ab.]*' of"
    ) as error:
        failing().solve("What is a?", 4)
    assert "\n" not in str(error.value) and "'What is a?'; " in str(error.value)
    assert what != "hangs" or time.monotonic() - began < 25


@pytest.mark.parametrize(
    ("what", "said"),
    {
        "more": r"returned \d values for \d solutions",
        "text": r"returned (3 values|'0.0')",
        "one": r"returned 0.0 for \d solutions",
        "nan": "returned nan",
        "raises": "raised ZeroDivisionError: division by zero",
    }.items(),
)
def test_a_batched_function_that_fails_is_one_sentence(what, said):
    DOES.append(what)
    with pytest.raises(RewardError, match=f"^The reward 'fail_together' {said}"):
        failing_together().solve("What is a?", 4)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda tokens, length: tokens, r"gives int32\[7\]; wanted a float32 scalar"),
        (lambda tokens, length: length, r"gives int32\[\]; wanted"),
        (lambda tokens: 0.0, "raised TypeError: .*takes 1 positional"),
        (lambda tokens, length: None, "gives None"),
        (lambda tokens, length: jnp.where(length > 2, jnp.nan, 0.0), "returned nan for the step"),
        pytest.param(
            lambda tokens, length: jnp.where(length > 2, jnp.inf, 0.0),
            "returned inf for the step",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_jax_function_that_fails_is_one_sentence(function, said):
    how = enumerable_lm.solver(prm=rewards.of_tokens(function))
    with pytest.raises(RewardError, match=rf"^The reward '<lambda>' {said}") as error:
        how.solve("What is a?", 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pfjax.load(prm=3), "prm got 3, wanted a PRM, its folder, or a function"),
        (
            lambda: enumerable_lm.solver(prm=rewards.mean("a/b", of_steps)).solve("x"),
            "'a/b', a name that pfjax.load opens",
        ),
        (lambda: rewards.of_tokens("x"), "of_tokens got 'x'"),
        (lambda: rewards.mean(), "mean got no reward"),
        (
            lambda: rewards.weighted_sum(of_steps, of_steps),
            "wanted pairs of a reward and its weight",
        ),
        (lambda: rewards.of_texts(of_steps, timeout=0), "timeout is 0"),
        (lambda: rewards.of_texts(of_steps, timeout=math.inf), "timeout is inf"),
        (lambda: rewards.weighted_sum((of_steps, math.nan)), "wanted finite ones"),
        (lambda: enumerable_lm.solver(prm=3).solve("x"), "prm got 3, wanted a PRM"),
    ],
)
def test_what_is_no_reward_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_mix_that_is_no_number_is_named_whole():
    reward = rewards.weighted_sum((lambda question, steps: -math.inf, -1.0))
    with pytest.raises(
        RewardError, match=r"The reward 'weighted_sum\(<lambda>\)' returned inf for the step"
    ):
        enumerable_lm.solver(prm=reward).solve("What is a?", 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda question, steps: 1e35, r"returned 1e\+35 .* at most 1e30 in size"),
        (lambda question, steps: -1e300, r"returned -1e\+300"),
        (lambda question, steps: Rude(), "returned a Rude"),
    ],
)
def test_objects_that_are_no_numbers(values, said):
    """Asked of the function alone, without a search."""
    step = np.array([[[1, 1]]], np.int32)
    asked = Solutions(
        np.zeros(1, np.int32),
        step[..., :0],
        step[..., :0],
        np.zeros((1, 1), np.int32),
        step,
        np.full((1, 1), 2),
    )
    with pytest.raises(RewardError, match=said):
        Asker(functools.partial(step_text, enumerable_lm.solver().policy), values)(asked, ["?"])


class Rude:
    """Raises whatever it is asked."""

    def __repr__(self):
        raise RuntimeError("no")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no")


@pytest.mark.slow
def test_a_function_and_its_solver_do_not_depend_on_the_batch():
    """A problem alone and beside another, weighed one at a time: the same values from the same calls."""
    both = searched(of_steps)
    how = pfjax.Solver(solver().policy, of_steps, SAMPLING, execution=pfjax.Execution(together=1))
    for question, other in zip(QUESTIONS, how.solve(QUESTIONS, 4, 5, batch=2), strict=True):
        (result,) = [r for r in both if r.question == question]
        assert [s.tokens for s in result.solutions] == [s.tokens for s in other.solutions]
        assert result.counts.reward_calls == other.counts.reward_calls


@pytest.mark.slow
def test_policies_of_other_tokenizers_are_read_too():
    """The text of a toy policy's steps, EOS and delimiter stripped, is what a function is given."""
    seen = []

    def value(question, steps):
        seen.extend(steps)
        return 0.0

    budget = pfjax.Budget(step_tokens=8, max_tokens=24, max_steps=4)
    pfjax.Solver(policy(), value, pfjax.Sampling(2.0), budget).solve(QUESTIONS[0], 4)
    assert seen and not [s for s in seen if s != s.strip()]
