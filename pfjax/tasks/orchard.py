"""The embedded task "orchard": word problems of dependent arithmetic steps, made from a seed.

A problem of n people has n statements, each with a value that follows from one or two earlier
people, and asks for the last. Its solution has one step a person, first in names and then in
numbers ("Ivy has Lee - 24 = 53 - 24 = 29."), and closes with \\boxed{}. All values lie in 1..99.
Problems are drawn by (split, index) alone, so train and test never share a stream. Knows nothing of
models or tokens.
"""

import random
from dataclasses import dataclass

NAMES = ("Ann", "Bob", "Cal", "Eva", "Fay", "Gus", "Ivy", "Lee", "Max", "Ned", "Tom", "Zoe")
ITEMS = ("apples", "pears", "plums", "figs")
SPLITS = ("train", "validation", "test")
LIMIT = 99
DEPTH = (4, 6)


@dataclass(frozen=True)
class Statement:
    """One person: the sentence, the terms (names and numbers) of their step, their numbers, the
    operator, the value.
    """

    name: str
    text: str
    terms: tuple[str, ...]
    numbers: tuple[int, ...]
    operator: str
    value: int

    @property
    def step(self) -> str:
        """The reference step, without the delimiter."""
        if not self.operator:
            return f"{self.name} has {self.value}."
        named = f" {self.operator} ".join(self.terms)
        if self.equation.startswith(f"{named} ="):
            return f"{self.name} has {self.equation}"
        return f"{self.name} has {named} = {self.equation}"

    @property
    def equation(self) -> str:
        """The numbers of the step alone."""
        a, b = self.numbers
        return f"{a} {self.operator} {b} = {self.value}."


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


def generate(index: int, split: str = "train", depth: tuple[int, int] = DEPTH) -> Problem:
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
        return Statement(name, f"{name} has {value} {item}.", (), (), "", value)
    a = rng.randint(2, 9)
    b = rng.randint(2, LIMIT // a)
    text = f"{name} has {a} bags of {b} {item}."
    return Statement(name, text, (str(a), str(b)), (a, b), "*", a * b)


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
    text = f"{name} has {n} more than {other.name}."
    return Statement(name, text, (other.name, str(n)), (x, n), "+", x + n)


def _fewer(rng: random.Random, name: str, other: Statement) -> Statement:
    x, n = other.value, rng.randint(2, other.value - 1)
    text = f"{name} has {n} fewer than {other.name}."
    return Statement(name, text, (other.name, str(n)), (x, n), "-", x - n)


def _times(rng: random.Random, name: str, other: Statement) -> Statement:
    x, n = other.value, rng.randint(2, min(6, LIMIT // other.value))
    text = f"{name} has {'twice' if n == 2 else f'{n} times'} as many as {other.name}."
    return Statement(name, text, (str(n), other.name), (n, x), "*", n * x)


def _half(rng: random.Random, name: str, other: Statement) -> Statement:
    x = other.value
    text = f"{name} has half as many as {other.name}."
    return Statement(name, text, (other.name, "2"), (x, 2), "/", x // 2)


def _together(name: str, other: Statement, third: Statement) -> Statement:
    text = f"{name} has as many as {other.name} and {third.name} together."
    terms, numbers = (other.name, third.name), (other.value, third.value)
    return Statement(name, text, terms, numbers, "+", sum(numbers))
