"""The embedded task "orchard": word problems of dependent arithmetic steps, made from a seed.

A problem of n people has n statements, each with a value that follows from one or two earlier people, and asks for the
last. Its solution restates every value, one step a person, and closes with \\boxed{}. All values lie in 1..99. Problems are
drawn by (split, index) alone, so train and test never share a stream. Knows nothing of models or tokens.
"""

import random
import re
from dataclasses import dataclass

NAMES = ("Ann", "Bob", "Cal", "Eva", "Fay", "Gus", "Ivy", "Lee", "Max", "Ned", "Tom", "Zoe")
ITEMS = ("apples", "pears", "plums", "figs")
SPLITS = ("train", "validation", "test")
LIMIT = 99


@dataclass(frozen=True)
class Statement:
    """One person: the sentence, the operands (numbers) and operator of their step, and their value."""

    name: str
    text: str
    operands: tuple[int, ...]
    operator: str
    value: int

    @property
    def step(self) -> str:
        """The reference step, without the delimiter."""
        if not self.operator:
            return f"{self.name} has {self.value}."
        a, b = self.operands
        return f"{self.name} has {a} {self.operator} {b} = {self.value}."


@dataclass(frozen=True)
class Problem:
    """A question, its statements in order, and the reference solution."""

    question: str
    statements: tuple[Statement, ...]

    @property
    def answer(self) -> str:
        return str(self.statements[-1].value)

    @property
    def steps(self) -> list[str]:
        """Reference steps, the boxed answer last."""
        last = self.statements[-1]
        return [s.step for s in self.statements] + [f"{last.name} has \\boxed{{{last.value}}}."]


def generate(index: int, split: str = "train", depth: tuple[int, int] = (6, 8)) -> Problem:
    """Problem number `index` of a split, with between depth[0] and depth[1] people."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, wanted one of {', '.join(SPLITS)}.")
    rng = random.Random(f"orchard/{split}/{index}")
    people = rng.sample(NAMES, rng.randint(*depth))
    item = rng.choice(ITEMS)
    statements = [_first(rng, people[0], item)]
    for name in people[1:]:
        statements.append(_next(rng, name, statements))
    asked = f"How many {item} does {people[-1]} have?"
    return Problem(" ".join([*(s.text for s in statements), asked]), tuple(statements))


def _first(rng: random.Random, name: str, item: str) -> Statement:
    if rng.random() < 0.3:
        value = rng.randint(10, LIMIT)
        return Statement(name, f"{name} has {value} {item}.", (), "", value)
    a = rng.randint(2, 9)
    b = rng.randint(2, LIMIT // a)
    return Statement(name, f"{name} has {a} bags of {b} {item}.", (a, b), "*", a * b)


def _next(rng: random.Random, name: str, earlier: list[Statement]) -> Statement:
    other = earlier[-1] if rng.random() < 0.5 else rng.choice(earlier)
    x = other.value
    makers = []
    if x <= LIMIT - 2:
        makers += [_more] * 3
    if x >= 4:
        makers += [_fewer] * 3
    if x <= LIMIT // 2:
        makers += [_times] * 2
    if x % 2 == 0:
        makers += [_half]
    partners = [s for s in earlier if s is not other and s.value + x <= LIMIT]
    if partners:
        third = rng.choice(partners)
        makers += [lambda rng, name, other: _together(name, other, third)] * 3
    return rng.choice(makers)(rng, name, other)


def _more(rng: random.Random, name: str, other: Statement) -> Statement:
    x, n = other.value, rng.randint(2, LIMIT - other.value)
    return Statement(name, f"{name} has {n} more than {other.name}.", (x, n), "+", x + n)


def _fewer(rng: random.Random, name: str, other: Statement) -> Statement:
    x, n = other.value, rng.randint(2, other.value - 1)
    return Statement(name, f"{name} has {n} fewer than {other.name}.", (x, n), "-", x - n)


def _times(rng: random.Random, name: str, other: Statement) -> Statement:
    x, n = other.value, rng.randint(2, min(6, LIMIT // other.value))
    how = "twice" if n == 2 else f"{n} times"
    return Statement(name, f"{name} has {how} as many as {other.name}.", (n, x), "*", n * x)


def _half(rng: random.Random, name: str, other: Statement) -> Statement:
    x = other.value
    return Statement(name, f"{name} has half as many as {other.name}.", (x, 2), "/", x // 2)


def _together(name: str, other: Statement, third: Statement) -> Statement:
    text = f"{name} has as many as {other.name} and {third.name} together."
    return Statement(
        name, text, (other.value, third.value), "+", other.value + third.value
    )


_STEP = re.compile(r"(\w+) has (?:(\d+) ([-+*/]) (\d+) = )?(\d+)\.")
_FINAL = re.compile(r"(\w+) has \\boxed\{(\d+)\}\.?")


def check_steps(problem: Problem, steps: list[str]) -> list[bool]:
    """Whether each step is right given the problem: person, operands, operation and value.

    The order of the operands of + and * is free, and so is the order of people. The last step must be boxed and right.
    """
    return [_check(problem, step.strip()) for step in steps]


def _check(problem: Problem, step: str) -> bool:
    final = _FINAL.fullmatch(step)
    last = problem.statements[-1]
    if final:
        return final[1] == last.name and int(final[2]) == last.value
    match = _STEP.fullmatch(step)
    if not match:
        return False
    statement = next((s for s in problem.statements if s.name == match[1]), None)
    if statement is None or int(match[5]) != statement.value:
        return False
    if not statement.operator:
        return match[3] is None
    if match[3] != statement.operator:
        return False
    said = (int(match[2]), int(match[4]))
    return said == statement.operands or (
        statement.operator in "+*" and said[::-1] == statement.operands
    )
