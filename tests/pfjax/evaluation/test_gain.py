"""Comparisons on the same problems, and the exact checker as a reward."""

from dataclasses import replace

import enumerable_lm
import numpy as np
import pytest

import pfjax
from pfjax.evaluation import gain
from pfjax.evaluation.checked import Checked, orchard
from pfjax.tasks.orchard import generate


def test_the_checker_is_a_reward_and_noise_is_for_good():
    problems = orchard(40, "train")
    steps = generate(0, "train").steps
    assert (
        problems[0].check(steps) == [True] * len(steps) and problems[0].slip("nonsense") == "form"
    )
    exact = gain.checker(problems).function
    assert exact([problems[0].question] * 2, [steps, [*steps[:1], "nonsense"]]) == [3.0, -3.0]
    noisy = gain.checker(problems, noise=0.25, margin=2.0).function
    asked = [(p.question, generate(i, "train").steps[:1]) for i, p in enumerate(problems)]
    said = noisy(*map(list, zip(*asked, strict=True)))
    assert said == noisy(*map(list, zip(*asked, strict=True))) and set(said) == {2.0, -2.0}
    assert 2 <= sum(v < 0 for v in said) <= 20  # 10 of 40 expected, deviation 2.7
    # A verdict that was turned round stays with the prefix.
    turned = next(a for a, v in zip(asked, said, strict=True) if v < 0)
    more = generate(asked.index(turned), "train").steps[:2]
    assert noisy([turned[0]], [more]) == [-2.0]


def test_rows_and_differences_are_paired_counts():
    solver = replace(enumerable_lm.solver(), task=pfjax.Task(extract=lambda text: text[:1] or None))
    questions = ["a?", "b?", "ab?"]
    said = [s.answer for r in solver.solve(questions, 64, 1) for s in r.solutions if s.answer]
    truth = max(set(said), key=said.count)
    problems = [Checked(q, truth, lambda s: [True] * len(s), lambda s: "") for q in questions]
    rows = gain.compare(solver, problems, (2, 8))
    by = {(r["method"], r["particles"]): r for r in rows}
    assert len(by) == 14
    again = solver.solve(questions, 8, 0)
    assert by[gain.PF, 8]["correct"] == [int(r.answer == truth) for r in again]
    free = solver.solve(questions, 8, 0, method="majority")
    assert by["majority", 8]["correct"] == [int(r.answer == truth) for r in free]
    for n in (2, 8):
        assert all(
            a >= b
            for a, b in zip(by[gain.ANY, n]["correct"], by[gain.PF, n]["correct"], strict=True)
        )
        assert by[gain.PF, n]["policy tokens"] > 0
    # The task tells which answers are the same, for votes and for the truth.
    never = [problem._replace(truth="no such answer") for problem in problems]
    all_same = replace(solver, task=replace(solver.task, equal=lambda a, b: True))
    assert {r["accuracy"] for r in gain.compare(solver, never, (8,))} == {0.0}
    by_task = {r["method"]: r["accuracy"] for r in gain.compare(all_same, never, (8,))}
    assert set(by_task.values()) == {1.0}
    diff = {(d["of"], d["minus"], d["particles"]): d for d in gain.differences(rows)}
    mean = np.mean(by[gain.PF, 8]["correct"]) - np.mean(by["majority", 8]["correct"])
    assert diff[gain.PF, "majority", 8]["difference"] == pytest.approx(mean)
    assert len(diff) == 8
