"""What is asked and how its solutions are read: prompt, where steps and solutions end, and the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pfjax.settings.words import is_whole, one_line
from pfjax.tasks.extraction import extract_answer
from pfjax.tasks.grader import same_math

if TYPE_CHECKING:
    from pfjax.models import Prompt

BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Task:
    """A kind of question.

    `prompt` None is the policy's own (`models.default_prompt`). A `delimiter` ends a step, one text or
    several; "\\n\\n" is any blank line. A `stop` text ends a solution and is no part of it; None: the next
    question of a prompt that is completed as plain text, else none. `stop_at_box` ends a solution with its
    first closed \\boxed{}. `extract` finds the answer in a solution, or None; `equal` tells whether
    two answers whose canonical forms differ are the same (None: they never are), by math-verify if nothing else
    is said.
    """

    prompt: "Prompt | None" = None
    delimiter: str | Sequence[str] = BLANK_LINE
    stop: str | Sequence[str] | None = None
    stop_at_box: bool = True
    extract: Callable[[str], str | None] = extract_answer
    equal: Callable[[str, str], bool] | None = same_math

    def __post_init__(self):
        object.__setattr__(self, "delimiter", _texts("delimiter", self.delimiter, least=1))
        if self.stop is not None:
            object.__setattr__(self, "stop", _texts("stop", self.stop, least=0))
        if not isinstance(self.stop_at_box, bool):
            raise ValueError(f"task.stop_at_box is {self.stop_at_box!r}, wanted True or False.")
        for name in ("extract", "equal"):
            value = getattr(self, name)
            if not callable(value) and (name, value) != ("equal", None):
                raise ValueError(
                    f"task.{name} is {one_line(repr(value), 60)}, wanted a function of texts."
                )

    @property
    def delimiters(self) -> tuple[str, ...]:
        """The texts that end a step."""
        return tuple(self.delimiter)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a solution."""
        return tuple(self.stop or ())

    @property
    def bare(self) -> bool:
        """Whether a step's text is its tokens without the white space around."""
        return not self.stops and not any(text.strip() for text in self.delimiters)

    def cut(self, text: str) -> str:
        """What stands before the first stop text.

        >>> Task(stop="Question:").cut("It is 5. Question: what")
        'It is 5. '
        """
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        return text[: min(found, default=len(text))]


def _texts(name: str, value: object, least: int) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if isinstance(found, (list, tuple)) and len(found) >= least:
        if all(isinstance(text, str) and text and is_whole(text) for text in found):
            return tuple(found)
    raise ValueError(
        f"task.{name} is {one_line(ascii(value), 60)}, wanted a text that is not empty, or several."
    )
