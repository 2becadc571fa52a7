"""Numbers that a user gave: of the right kind, in range, or one sentence.

Integers and floats of Python and of numpy are numbers, bools and texts are not. Imports no JAX.
"""

import math
import operator
from typing import Any, NamedTuple

from pfjax.settings.words import one_line


class Range(NamedTuple):
    """From `low` (`above`: not itself) to `high`, `whole` numbers only or all."""

    low: float
    high: float
    whole: bool = False
    above: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number is in it; NaN and infinity never are."""
        inside = self.low <= number <= self.high and abs(number) < math.inf
        return inside and not (self.above and number == self.low)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        begin = f"{kind} {'above' if self.above else 'from'} {_plain(self.low)}"
        if math.isinf(self.high):
            return begin
        return f"{begin} {'up ' * self.above}to {_plain(self.high)}"


def require(name: str, value: object, wanted: Range, fix: str = "") -> Any:
    """The value as an int or a float of Python; ValueError that names it if it is none, or out of range.

    >>> require("tau", 1, Range(0, math.inf, above=True))
    1.0
    """
    found = _whole(value) if wanted.whole else _number(value)
    if found is None or not wanted.holds(found):
        raise ValueError(f"{name} is {shown(value)}, wanted {wanted}{fix}.")
    return found


def shown(value: object) -> str:
    """The value in a message; a number of numpy or jax as the number."""
    return one_line(value, 60) if hasattr(value, "dtype") else one_line(repr(value), 60)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None


def _number(value: object) -> float | None:
    if isinstance(value, (bool, str, bytes, complex)) or type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except Exception:  # whatever an object of the user's does when it is asked
        return None
