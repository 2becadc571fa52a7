"""A Python function as a reward: it is asked once for every distinct new partial solution.

    value(question, steps) -> float                    one solution
    values(questions, steps of each) -> floats         all new ones of a generation at once

On the host, between two programs. The steps are those of a `Result`: without delimiter and the white
space around. -inf kills a solution; NaN, +inf, an exception or a call that takes too long is a
`RewardError` of one sentence that quotes the step. A call with a time limit runs in a thread of its own.
Knows nothing of how the host is reached.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from pfjax import models
from pfjax.models.pieces import piece, tail
from pfjax.settings.words import one_line


class RewardError(ValueError):
    """A reward of one's own failed; the message names it, what it did, and quotes the step."""


class TookTooLong(Exception):
    """A call did not return in time."""


class Solutions(NamedTuple):
    """Solutions of c problems: `tokens` and where their `before` steps end, then the newest step, `count`
    of `new` (0: none); `job` is the place of the question in the list of questions.
    """

    job: Int[Array | np.ndarray, " c"]
    tokens: Int[Array | np.ndarray, "c n s"]
    ends: Int[Array | np.ndarray, "c n m"]
    before: Int[Array | np.ndarray, "c n"]
    new: Int[Array | np.ndarray, "c n t"]
    count: Int[Array | np.ndarray, "c n"]


Text = Callable[[Sequence[int], Sequence[int]], str]
"""The text of a step's tokens behind others, of which the last three are enough."""


class Asker:
    """`function` of texts; `text` is that of a step's tokens. `timeout` seconds a call, None: as long as it takes."""

    def __init__(
        self,
        text: Text,
        function: Callable[..., Any],
        *,
        batched: bool = False,
        timeout: float | None = None,
    ):
        self.function, self.batched, self.timeout = function, batched, timeout
        self._text = lru_cache(1 << 16)(text)

    def __call__(
        self, solutions: Solutions, questions: Sequence[str]
    ) -> tuple[Float[np.ndarray, "c n"], Int[np.ndarray, "c n"]]:
        """(values, calls) of all rows: 0 without a new step, one call for the first of those alike."""
        values = np.zeros(solutions.count.shape, np.float32)
        calls = np.zeros(solutions.count.shape, np.int32)
        rows: dict[tuple[int, tuple[str, ...]], list[tuple[int, int]]] = {}
        for place in zip(*np.nonzero(np.asarray(solutions.count)), strict=True):
            asked = int(solutions.job[place[0]]), self._steps(solutions, place)
            rows.setdefault(asked, []).append(place)
        found = self._values([(questions[job], list(steps)) for job, steps in rows])
        for value, places in zip(found, rows.values(), strict=True):
            calls[places[0]] = 1
            for place in places:
                values[place] = value
        return values, calls

    def _steps(self, x: Solutions, at: tuple[int, int]) -> tuple[str, ...]:
        ends = [0, *x.ends[at][: x.before[at]].tolist()]
        tokens = x.tokens[at].tolist()
        spans = zip(ends, ends[1:], strict=False)
        texts = [self._text(tuple(tokens[a:b]), tuple(tokens[max(a - 3, 0) : a])) for a, b in spans]
        new = tuple(x.new[at][: x.count[at]].tolist())
        return *texts, self._text(new, tuple(tokens[max(ends[-1] - 3, 0) : ends[-1]]))

    def _values(self, asked: list[tuple[str, list[str]]]) -> list[float]:
        if not asked:
            return []
        if not self.batched:
            return [self._one(*pair) for pair in asked]
        questions, steps = [q for q, _ in asked], [list(s) for _, s in asked]
        found = self._called(asked[0], _listed, self.function, questions, steps)
        if not isinstance(found, list) or len(found) != len(asked):
            many = f"{len(found)} values" if isinstance(found, list) else _shown(found)
            raise self._failed(
                asked[0], f"returned {many} for {len(asked)} solutions", _WANTED_MANY
            )
        return [self._checked(v, pair) for v, pair in zip(found, asked, strict=True)]

    def _one(self, question: str, steps: list[str]) -> float:
        pair = question, steps
        return self._checked(self._called(pair, self.function, question, list(steps)), pair)

    def _called(self, pair: tuple[str, list[str]], function: Callable, *arguments: Any) -> Any:
        try:
            return within(self.timeout, partial(function, *arguments))
        except TookTooLong:
            raise self._failed(
                pair,
                f"took longer than {self.timeout:g} s",
                "make it faster, or give a longer timeout",
            ) from None
        except Exception as error:
            what = f"raised {type(error).__name__}: {one_line(error)}"
            raise self._failed(pair, what, "mend it, or return -inf there") from error

    def _checked(self, value: Any, pair: tuple[str, list[str]]) -> float:
        try:
            number = np.asarray(value)
        except Exception:  # whatever an object of the user's does when it is asked
            number = np.zeros(2)
        if number.shape or number.dtype.kind not in "biuf":
            raise self._failed(pair, f"returned {_shown(value)}", _WANTED)
        found = float(number)
        if not abs(found) <= MOST and found != -np.inf:
            raise self._failed(pair, f"returned {_shown(value)}", _WANTED)
        return found

    def _failed(self, pair: tuple[str, list[str]], what: str, fix: str) -> RewardError:
        return failure(self.name, what, pair[1][-1], pair[0], fix)

    @cached_property
    def name(self) -> str:
        """What the function is called."""
        return getattr(self.function, "__name__", None) or type(self.function).__name__


MOST = 1e30
"""The largest value: sums and differences of such fit into float32."""
_WANTED = "return a finite number of at most 1e30 in size, or -inf to kill the solution"
_WANTED_MANY = "return one number for each"


def step_text(
    policy: models.Policy,
    tokens: Sequence[int],
    before: Sequence[int] = (),
    cut: Callable[[str], str] = str,
) -> str:
    """A step's text, behind tokens `before`, without EOS, what `cut` takes off, and white space around."""
    ids = list(tokens)
    while ids and ids[-1] in policy.eos_ids:
        ids.pop()
    text, _ = piece(policy.tokenizer, ids, tail(policy.tokenizer, before))
    return cut(text).strip()


def failure(name: str, what: str, step: str, question: str, fix: str) -> RewardError:
    """The sentence about a reward that failed at a step of a question."""
    return RewardError(
        f"The reward {name!r} {what} for the step {_short(step)} of the question {_short(question)}; {fix}."
    )


def within(seconds: float | None, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; TookTooLong if that takes longer, and the call is left behind."""
    if seconds is None:
        return call()
    box: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            box.append((True, call()))
        except BaseException as error:
            box.append((False, error))

    thread = threading.Thread(target=work, daemon=True, name="pfjax-reward")
    thread.start()
    thread.join(seconds)
    if not box:
        raise TookTooLong
    returned, found = box[0]
    if returned:
        return found
    raise found


def _short(text: str) -> str:
    return repr(one_line(text, 60))


def _shown(value: object) -> str:
    try:
        return one_line(repr(value), 60)
    except Exception:
        return f"a {type(value).__name__}"


def _listed(function: Callable, *arguments: Any) -> Any:
    """What the function returns, in a list if that is a row of values; runs generators to their end."""
    found = function(*arguments)
    if isinstance(found, (str, bytes, Mapping, Set)) or not isinstance(found, Iterable):
        return found
    return list(found) if getattr(found, "shape", (1,)) else found
