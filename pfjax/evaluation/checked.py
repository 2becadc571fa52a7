"""Problems whose steps can be checked, and what a search wrote for them, step by step.

    problems = orchard(500)                   or Checked(question, truth, check, slip) of a task of one's own
    rows = scored(results, problems)          every step up to the first wrong one: value, label, kind of slip

Knows nothing of what is measured on them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pfjax.search.result import Result
from pfjax.tasks import orchard_checks
from pfjax.tasks.orchard import generate


class Checked(NamedTuple):
    """A question, its answer, whether each of some steps is right, and what is wrong with one ("" if nothing)."""

    question: str
    truth: str
    check: Callable[[list[str]], list[bool]]
    slip: Callable[[str], str]


class Scored(NamedTuple):
    """One step of one solution: which problem, which step, its value, whether it is right, else the kind of slip."""

    problem: int
    step: int
    value: float
    right: bool
    kind: str


def orchard(problems: int, split: str = "test") -> list[Checked]:
    """The first problems of a split of the embedded task."""
    found = [generate(i, split) for i in range(problems)]
    return [
        Checked(
            problem.question,
            problem.answer,
            partial(orchard_checks.check_steps, problem),
            partial(orchard_checks.slip_of, problem),
        )
        for problem in found
    ]


def scored(results: Sequence[Result], problems: Sequence[Checked]) -> list[Scored]:
    """The steps of every final solution up to its first wrong one.

    Steps that a particle shares with another are told once for each.
    """
    rows = []
    for number, (result, problem) in enumerate(zip(results, problems, strict=True)):
        for particle in range(len(result.solutions)):
            path = result.tree.path(particle)
            checks = problem.check([node.text for node in path])
            for step, (node, right) in enumerate(zip(path, checks, strict=True)):
                kind = "" if right else problem.slip(node.text)
                rows.append(Scored(number, step, node.value, right, kind))
                if not right:
                    break
    return rows
