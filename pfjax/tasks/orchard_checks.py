"""The exact checker of the orchard task: which steps are right, and what is wrong with the others.

    right, or a slip:  form, person, terms, look-up, arithmetic + - * /, answer

The first that applies, in the order in which a step is written. `with_slip` puts one into a reference solution.
"""

import random
import re

from pfjax.tasks.orchard import LIMIT, Problem, Statement

LOOK_UP, ARITHMETIC = "look-up", "arithmetic"
SHIFTS = tuple(d for d in range(-30, 31) if d)
"""How far a wrong number lies from the right one."""

_STEP = re.compile(r"(\w+) has (?:(\w+) ([-+*/]) (\w+) = (?:(\d+) ([-+*/]) (\d+) = )?)?(\d+)\.")
_FINAL = re.compile(r"(\w+) has \\boxed\{(\d+)\}\.?")


def check_steps(problem: Problem, steps: list[str]) -> list[bool]:
    """Whether each step is right given the problem: person, terms, operation, numbers and value.

    The order of the terms of + and * is free, and so is the order of people. The last step must be
    boxed and right.
    """
    return [not slip_of(problem, step) for step in steps]


def slip_of(problem: Problem, step: str) -> str:
    """What is wrong with a step; "" if it is right.

    >>> first = Statement("Eva", "Eva has 6 bags of 6 plums.", ("6", "6"), (6, 6), "*", 36)
    >>> then = Statement("Ned", "Ned has 58 more than Eva.", ("Eva", "58"), (36, 58), "+", 94)
    >>> slip_of(Problem("", (first, then)), "Ned has Eva + 58 = 36 + 58 = 95.")
    'arithmetic +'
    """
    final, last = _FINAL.fullmatch(step.strip()), problem.statements[-1]
    if final:
        return "" if final[1] == last.name and int(final[2]) == last.value else "answer"
    match = _STEP.fullmatch(step.strip())
    if not match:
        return "form"
    name, a, operator, b, x, again, y, value = match.groups()
    statement = next((s for s in problem.statements if s.name == name), None)
    if statement is None:
        return "person"
    if (operator or "") != statement.operator:
        return "terms"
    if not operator:
        return "" if int(value) == statement.value else LOOK_UP
    numbers = tuple(map(str, statement.numbers))
    swapped = operator in "+*" and (a, b) == statement.terms[::-1] != statement.terms
    if swapped:
        a, b, x, y = b, a, y, x
    if (a, b) != statement.terms:
        return "terms"
    if again not in (None, operator) or (x is None and statement.terms != numbers):
        return "form"
    if x is not None and (x, y) != numbers:
        return LOOK_UP
    return "" if int(value) == statement.value else f"{ARITHMETIC} {operator}"


def with_slip(problem: Problem, at: int, kind: str, rng: random.Random) -> list[str] | None:
    """The reference steps up to step `at`, which has a slip: a wrong result, or a wrong look-up computed rightly.

    None where that step has no room for it: an answer, a bare value, a step without a look-up.
    """
    statement = problem.statements[at] if at < len(problem.statements) else None
    if statement is None or not statement.operator:
        return None
    wrong = _wrong_result if kind == ARITHMETIC else _wrong_look_up
    step = wrong(statement, rng)
    return None if step is None else [*problem.steps[:at], step]


def _wrong_result(statement: Statement, rng: random.Random) -> str:
    value = statement.value
    near = [value + d for d in SHIFTS if 0 <= value + d <= LIMIT]
    head = statement.step.rpartition(" = ")[0]
    return f"{head} = {rng.choice(near)}."


def _wrong_look_up(statement: Statement, rng: random.Random) -> str | None:
    places = [i for i in (0, 1) if statement.terms[i] != str(statement.numbers[i])]
    if not places:
        return None
    numbers, place = list(statement.numbers), rng.choice(places)
    near = [numbers[place] + d for d in SHIFTS]
    rng.shuffle(near)
    for x in near:
        numbers[place] = x
        value = _computed(statement.operator, *numbers)
        if 1 <= x <= LIMIT and value is not None and 0 <= value <= LIMIT:
            named = f" {statement.operator} ".join(statement.terms)
            said = f" {statement.operator} ".join(map(str, numbers))
            return f"{statement.name} has {named} = {said} = {value}."
    return None


def _computed(operator: str, a: int, b: int) -> int | None:
    if operator == "/":
        return a // b if a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[operator]
