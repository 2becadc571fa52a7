"""The generator, the exact checker and the grader."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfjax.tasks import (
    Problem,
    check_steps,
    extract_answer,
    generate,
    normal_form,
    same_answer,
    slip_of,
    with_slip,
)
from pfjax.tasks.orchard import LIMIT, Statement
from pfjax.tasks.orchard_checks import ARITHMETIC, LOOK_UP

PROBLEMS = [generate(i, split) for split in ("train", "test") for i in range(200)]


def test_reference_solutions_pass_the_checker():
    for p in PROBLEMS:
        assert all(check_steps(p, p.steps)), p
        assert extract_answer(p.steps[-1]) == p.answer
        assert all(1 <= s.value <= LIMIT for s in p.statements)


def test_arithmetic_of_reference_steps_is_true():
    """Recomputed from the text alone, by Python's own evaluator of two numbers."""
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    seen = 0
    for p in PROBLEMS:
        for step in p.steps:
            for a, op, b, value in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", step):
                assert operations[op](int(a), int(b)) == int(value)
                seen += 1
    assert seen > 1000


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(-9, 9).filter(bool))
def test_a_changed_result_is_wrong(index, which, shift):
    p = generate(index)
    steps = list(p.steps)
    at = which % len(steps)
    numbers = list(re.finditer(r"\d+", steps[at]))
    last = numbers[-1]
    changed = steps[at][: last.start()] + str(int(last[0]) + shift) + steps[at][last.end() :]
    checks = check_steps(p, [*steps[:at], changed.replace("-", "9"), *steps[at + 1 :]])
    assert checks == [i != at for i in range(len(steps))]


def test_every_part_of_a_step_is_checked():
    p = next(p for p in PROBLEMS if any(s.operator == "-" for s in p.statements))
    s = next(s for s in p.statements if s.operator == "-")
    (who, n), (x, _) = s.terms, s.numbers
    other = next(t.name for t in p.statements if t.name not in (who, s.name))
    good = f"{s.name} has {who} - {n} = {x} - {n} = {s.value}."
    bad = [
        f"{other} has {who} - {n} = {x} - {n} = {s.value}.",
        f"{s.name} has {other} - {n} = {x} - {n} = {s.value}.",
        f"{s.name} has {who} - {n} = {x + 1} - {n} = {s.value}.",
        f"{s.name} has {who} + {n} = {x} + {n} = {s.value}.",
        f"{s.name} has {n} - {who} = {n} - {x} = {s.value}.",
        f"{s.name} has {s.value}.",
        "nonsense",
    ]
    assert check_steps(p, [good, *bad]) == [True] + [False] * len(bad)


def test_splits_are_disjoint_and_fixed():
    train = {generate(i, "train").question for i in range(3000)}
    test = {generate(i, "test").question for i in range(500)}
    assert len(test) == 500 and not train & test
    assert generate(3, "test").question == generate(3, "test").question
    with pytest.raises(ValueError, match="split is 'dev'"):
        generate(0, "dev")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{12}.", "12"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} and \boxed{8", "7"),
        ("none", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1,200", "1200", True),
        ("0.50", r"\frac{1}{2}", True),
        ("025", "25", True),
        ("12", "21", False),
        (r"\text{ 5 }", "5", True),
        ("1/0", "1", False),
        ("x+1", "x + 1", True),
    ],
)
def test_same_answer(a, b, same):
    assert same_answer(a, b) is same
    assert same_answer(None, b) is False


@given(st.text(max_size=40))
def test_normal_form_never_fails_and_is_idempotent(text):
    once = normal_form(text)
    assert normal_form(once) == once


def test_every_slip_has_its_name():
    first = Statement("Eva", "Eva has 6 bags of 6 plums.", ("6", "6"), (6, 6), "*", 36)
    then = Statement("Ned", "Ned has 58 more than Eva.", ("Eva", "58"), (36, 58), "+", 94)
    p = Problem("", (first, then))
    slips = {
        "Ned has Eva + 58 = 36 + 58 = 95.": "arithmetic +",
        "Ned has Eva + 58 = 35 + 58 = 93.": "look-up",
        "Ned has Eva + 58 = 58 + 36 = 94.": "look-up",
        "Ned has Eva + 57 = 36 + 57 = 93.": "terms",
        "Ned has Eva - 58 = 36 - 58 = 94.": "terms",
        "Bea has Eva + 58 = 36 + 58 = 94.": "person",
        "Ned has Eva + 58 = 94.": "form",
        "Ned has 94": "form",
        "Ned has \\boxed{80}.": "answer",
        "Ned has 58 + Eva = 58 + 36 = 94.": "",
        "Eva has 6 * 6 = 37.": "arithmetic *",
    }
    assert {step: slip_of(p, step) for step in slips} == slips


@pytest.mark.parametrize("kind", [ARITHMETIC, LOOK_UP])
def test_a_slip_that_is_put_in_is_the_only_one(kind):
    rng, seen = random.Random(0), Counter()
    for p in PROBLEMS:
        for at in range(len(p.statements) + 1):
            steps = with_slip(p, at, kind, rng)
            if steps is not None:
                assert steps[:-1] == p.steps[:at] and check_steps(p, steps) == [True] * at + [False]
                seen[slip_of(p, steps[-1])] += 1
    wanted = {f"{ARITHMETIC} {o}" for o in "+-*/"} if kind == ARITHMETIC else {LOOK_UP}
    assert set(seen) == wanted and min(seen.values()) > 30
