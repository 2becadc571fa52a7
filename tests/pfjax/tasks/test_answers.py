"""Answers: where they stand, which are the same, and nothing that a model writes raises, hangs or takes long."""

import json
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from answer_cases import different_pairs, equal_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import tasks
from pfjax.tasks import Grader, normal_form, same_answer, vote_keys
from pfjax.tasks.grader import DIFFERENT, EQUAL, ERROR, TIMED_OUT, version

DATA = Path(__file__).parents[4] / "shared" / "data"
NASTY = [
    *("3" * 5000, "1/٠", "٣/٠", "1/0", "", "\\boxed", "{" * 399, "\\frac" * 70, "9" * 300, "1e999"),
    *("\x00", "\ud800", "\\frac{1}{0}", "1 1/0", "-", "--1", ",", ",,", "()", "(,)", "{}", "1,,2"),
    *("[1,2", "\\sqrt", "\\sqrt[3]{2}", "^{}", "a=b=c", "x=", ".", "½", "²", "１２", "((((" * 90),
    *("1" + ",000" * 90, "\\text{" * 50, "(1,(2,(3,(4,(5,(6,(7,(8,(9,(10,11))))))))))", "1e-300"),
]


@pytest.fixture(scope="module")
def grader():
    with Grader(10.0) as found:
        yield found


def test_three_hundred_cases(grader):
    """Both ways: no false merge, no exception, no hang, and at least 95 % right; forms alone merge nothing false."""
    equal, different = equal_pairs(), different_pairs()
    assert len(equal) + len(different) >= 300 and len(different) >= 120
    for one, other, by_form in equal:
        assert (normal_form(one) == normal_form(other)) == by_form, (one, other)
    for one, other in different:
        assert normal_form(one) != normal_form(other), (one, other)
    missed = [pair for *pair, _ in equal if grader.verdict(*pair) != EQUAL]
    merged = [pair for pair in different if EQUAL in (grader.verdict(*pair), grader(*pair[::-1]))]
    assert not merged and len(missed) <= 0.05 * len(equal), missed
    assert not grader.counts[TIMED_OUT] and not grader.counts[ERROR]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nothing_raises_and_forms_are_their_own_form(text):
    began = time.perf_counter()
    form = normal_form(text)
    assert normal_form(form) == form
    assert same_answer(text, text) and not same_answer(text, "17")
    for rule in (tasks.extract_answer, tasks.last_number, tasks.every_box):
        rule(text)
    assert time.perf_counter() - began < 1


PIECES = st.sampled_from(
    [*"0123456789,.()[]{}|-+/*^_=$ ", "\\frac", "\\sqrt", "\\text{", "}", "\\pi", "\\left(", "\\%"]
    + ["\\pm", " and ", "x", "\\{", "\\}", "{,}", "^\\circ", " cm", "million", "\\boxed{"]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(text=st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=30))
def test_any_text_has_a_form_of_its_own(text):
    form = normal_form(text)
    assert normal_form(form) == form
    tasks.extract_answer(text)


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 100_000, "{" * 500_000, "answer is " * 50_000, "1," * 300_000]
)
def test_extraction_takes_linear_time(text):
    """A quadratic rule would take minutes."""
    for rule in (tasks.extract_answer, tasks.every_box, tasks.hashes, tasks.last_number):
        rule(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{12}.", "12"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} and \boxed{8", "7"),
        (r"\boxed{7} and \boxed{ }", "7"),
        (r"\boxed{}", None),
        (r"\boxed 5.", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"$\boxed{\text{(A)} \{1\}}$", r"\text{(A)} \{1\}"),
        ("9 + 9 = 18\n#### 18", "18"),
        ("#### 1,234 \n", "1,234"),
        ("The answer is 18. It is.", "18"),
        ("The final answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("**Answer:** 2.5", "2.5"),
        ("Answers: 1, 2", "1, 2"),
        ("The answer is 3. No, the answer is 4.", "4"),
        ("nothing 5", None),
    ],
)
def test_where_the_answer_stands(text, answer):
    assert tasks.extract_answer(text) == answer


def test_rules_of_choice():
    text = r"\boxed{1} or \boxed{2}, 7 of 1,200.50"
    assert tasks.every_box(text) == "1, 2" and tasks.last_box(text) == "2"
    assert tasks.last_number(text) == "1,200.50" and tasks.hashes(text) is None
    assert tasks.first_of(tasks.hashes, tasks.last_number)(text) == "1,200.50"


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("27", 27.0, True),
        ("27", 27, True),
        ("0.5", Fraction(1, 2), True),
        ("1,234,567", "1234567", True),
        ("1,234,567", 1234567, True),
        ("100,200,300", "100200300", True),  # the truth says that it is one number
        ("100200300", "100,200,300", False),  # the truth says that they are three
        (None, "1", False),
        ("nan", float("nan"), True),
        ("1", None, False),
    ],
)
def test_truths_may_be_numbers(answer, truth, same):
    assert same_answer(answer, truth) == same


def test_votes_count_together_what_is_the_same(grader):
    said = ["18", r"\$18", r"18\text{ dollars}", "20", None, "18.0", ""]
    assert vote_keys(said) == ["18", "18", "18", "20", None, "18", None]
    forms = [r"\frac{2\pi}{4}", r"\pi/2", "1", r"0.5\pi", "2"]
    found = vote_keys(forms, grader)
    assert len({found[0], found[1], found[3]}) == 1 and len(set(found)) == 3
    backwards = vote_keys(forms[::-1], grader)
    assert backwards[::-1] == found
    assert len(set(vote_keys(forms))) == 5


def test_an_equality_of_ones_own():
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return a[0] == b[0]

    assert vote_keys(["ax", "ay", "bx", "3", "4"], equal) == ["ax", "ax", "bx", "3", "4"]
    assert ("3", "4") not in asked and (
        "4",
        "3",
    ) not in asked  # two numbers are told apart without it
    with pytest.raises(
        ValueError, match=r"^equal: <lambda>\('a', 'b'\) raised KeyError: 'x'; mend it"
    ):
        same_answer("a", "b", lambda a, b: {}["x"])


def test_a_comparison_that_hangs_is_killed_and_the_next_one_works():
    with Grader(1.0) as grader:
        assert grader("x+1", "1+x")
        began = time.perf_counter()
        assert grader.verdict("9^{9^{9^9}}", "1") == TIMED_OUT
        assert time.perf_counter() - began < 4
        assert grader.verdicts([("2x+1", "1+2x"), ("2x", "3x")]) == [EQUAL, DIFFERENT]
        assert grader.counts == {EQUAL: 2, DIFFERENT: 1, TIMED_OUT: 1}
    assert "math-verify" in version()


def test_graders_work_in_threads(grader):
    found = []
    ask = lambda i: found.append(grader(f"{i}x+y", f"y+{i}x"))  # noqa: E731
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


SCRIPT = """
import sys
from pfjax.tasks import same_math
assert same_math("x+1", "1+x") and "jax" not in sys.modules
print(same_math._process.pid, flush=True)
import os
os.kill(os.getpid(), 9)
"""


def test_the_process_dies_with_its_parent_and_needs_no_main_guard():
    """A script from standard input, killed with SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-"], input=SCRIPT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == -9, done.stderr
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        ):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is alive")


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the checkout")
def test_answers_of_real_solutions():
    """All 500 of MATH-500 and 500 of GSM8K are found in the reference solutions."""
    for line in (DATA / "math500.jsonl").read_text().splitlines():
        row = json.loads(line)
        found = tasks.extract_answer(row["solution"])
        assert same_answer(found, row["answer"]), row["answer"]
        assert normal_form(normal_form(row["answer"])) == normal_form(row["answer"])
    for line in (DATA / "gsm8k_test_500.jsonl").read_text().splitlines():
        solution = json.loads(line)["answer"]
        assert same_answer(tasks.extract_answer(solution), solution.split("####")[1])
