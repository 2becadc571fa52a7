"""Whether two answers that are written differently are the same, by math-verify in processes that can be killed.

    with Grader() as grader:
        grader("\\\\frac{2\\\\pi}{4}", "\\\\pi/2")        True
        grader.verdicts([(given, truth), ...])         EQUAL, DIFFERENT, TIMED_OUT or ERROR each

Two numbers are compared here, exactly. Everything else takes a process at most `seconds` of wall-clock time;
then it is killed and the answers count as different. Works in threads, notebooks and scripts from standard
input: the process is `python -m pfjax.tasks.worker`.
"""

import json
import queue
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import metadata

from pfjax.tasks.canonical import normal_form

EQUAL, DIFFERENT, TIMED_OUT, ERROR = "equal", "different", "timed_out", "error"
NUMBER, SEVERAL = "number", "several"
MATH = {
    "sqrt",
    "pi",
    "inf",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "ln",
    "log",
}
MATH |= {
    "cup",
    "cap",
    "begin",
    "end",
    "pmatrix",
    "bmatrix",
    "frac",
    "mod",
    "binom",
    "le",
    "ge",
    "exp",
}
START = 60.0
LONGEST = 1000
_UNREAD = re.compile(r"[0-9] ?:|[0-9] ?[A-Za-z]\W*$")
"""Ratios and times, and a letter behind a number, which math-verify takes for a unit."""
FORM = 1
"""The version of `canonical.py`: another form may give other votes."""


class Grader:
    """See the module docstring; `counts` says how often there was which verdict."""

    def __init__(self, seconds: float = 5.0):
        if not isinstance(seconds, (int, float)) or not 0 < seconds <= 3600:
            raise ValueError(f"seconds is {seconds!r}, wanted a number above 0 up to 3600.")
        self.seconds, self.counts = seconds, Counter()
        self._known: dict[tuple[str, str], str] = {}
        self._process: subprocess.Popen | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()

    def __call__(self, given: str, truth: str) -> bool:
        """Whether the two are the same."""
        return self.verdict(given, truth) == EQUAL

    def verdicts(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """A verdict for each pair of a given answer and the truth."""
        return [self.verdict(*pair) for pair in pairs]

    def verdict(self, given: str, truth: str) -> str:
        """EQUAL, DIFFERENT, TIMED_OUT or ERROR."""
        with self._lock:
            pair = given, truth
            if pair not in self._known:
                self._known[pair] = self._compared(given, truth)
            self.counts[self._known[pair]] += 1
            return self._known[pair]

    def close(self) -> None:
        """Ends the process; the next comparison starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self):
        return Grader, (self.seconds,)

    def _compared(self, given: str, truth: str) -> str:
        if normal_form(given) == normal_form(truth) or max(len(given), len(truth)) > LONGEST:
            return EQUAL if normal_form(given) == normal_form(truth) else DIFFERENT
        if re.fullmatch("[A-Za-z]+ [A-Za-z]+", f"{normal_form(given)} {normal_form(truth)}"):
            return DIFFERENT
        kinds = {_kind(normal_form(text)) for text in (given, truth)}
        unread = any(_UNREAD.search(text) for text in (given, truth))
        if NUMBER in kinds and (kinds <= {NUMBER, SEVERAL} or unread):
            return DIFFERENT
        bare = SEVERAL in kinds and len(kinds) == 2 and "[" not in given + truth
        if bare or any(found(given) != found(truth) for found in (_words, _below)):
            return DIFFERENT
        found = self._asked(given, truth)
        if found is not True or "," not in given + truth:
            return EQUAL if found is True else DIFFERENT if found is False else found
        # math-verify takes a list for one of its entries in one direction.
        found = self._asked(truth, given)
        return EQUAL if found is True else DIFFERENT if found is False else found

    def _asked(self, given: str, truth: str) -> bool | str:
        if self._process is None or self._process.poll() is not None:
            self.close()
            if not self._started():
                return ERROR
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps({"given": given, "truth": truth}) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self.seconds)
        except (OSError, queue.Empty):
            line = None
            self.close()
        if line is None:
            self.close()
            return TIMED_OUT
        return json.loads(line).get("equal", ERROR)

    def _started(self) -> bool:
        command = [sys.executable, "-m", "pfjax.tasks.worker", str(self.seconds)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self._process, self._lines = process, queue.Queue()
        lines = self._lines

        def read() -> None:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.put(line)
            except ValueError:  # closed meanwhile
                pass
            lines.put(None)

        threading.Thread(target=read, daemon=True, name="pfjax-grader").start()
        try:
            return lines.get(timeout=START) is not None
        except queue.Empty:
            self.close()
            return False


def _kind(form: str) -> str:
    if re.fullmatch(r"-?[0-9]+(/[0-9]+)?", form):
        return NUMBER
    return SEVERAL if ", " in form and form[0] not in "([" else ""


def _words(text: str) -> set[str]:
    """Words that are no names of functions: math-verify does not read them."""
    return set(re.findall(r"[a-z]{2,}", normal_form(text).lower())) - MATH


def _below(text: str) -> list[str]:
    """Subscripts, such as the base of a number: math-verify does not read them either."""
    return re.findall(r"_[{ (]*(\w+)", text)


def version() -> str:
    """What decides whether answers are equal: our canonical form, and math-verify."""
    return f"pfjax-form-{FORM}, math-verify-{metadata.version('math-verify')}"


def asked_of(equal: Callable[[str, str], bool] | None) -> str:
    """What a result says of the function that compared its answers; `named` finds it again."""
    if isinstance(equal, Grader):
        return version()
    form = f"pfjax-form-{FORM}"
    return f"{form}, {getattr(equal, '__name__', type(equal).__name__)}" if equal else form


def named(grader: str) -> Callable[[str, str], bool] | None:
    """The function that `asked_of` described; ValueError for one of a user's own."""
    if ", math-verify" in grader:
        return same_math
    if ", " in grader:
        raise ValueError(
            f"the answers were compared by {grader.partition(', ')[2]}; give that as equal, or None."
        )
    return None


same_math = Grader()
