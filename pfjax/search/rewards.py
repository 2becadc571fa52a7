"""What weighs partial solutions, as values: a PRM, a function of one's own, or several of them.

    of_tokens(f)     f(tokens int32[s], length int32[]) -> float32[]      a jax function, on the device
    of_texts(f)      f(question, steps) -> float                          any Python function, on the host
    of_batches(f)    f(questions, steps of each) -> floats                the same for all new solutions at once
    mean, minimum, weighted_sum                                           of any of these, PRMs included

A value is a log-odds v_t that the solution up to its newest step is right; -inf kills it. Host functions
are called once for every distinct new partial solution. Knows nothing of how values become weights.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Array

from pfjax import models
from pfjax.reasoning.sources import MEAN, MINIMUM, SUM
from pfjax.settings.numbers import shown


class Tokens(NamedTuple):
    """A jax function of one solution's tokens."""

    function: Callable[[Array, Array], Array]


class Texts(NamedTuple):
    """A Python function of texts; `timeout` seconds a call, None: as long as it takes."""

    function: Callable[..., Any]
    batched: bool
    timeout: float | None


class Mix(NamedTuple):
    """Several rewards, and how one value is made of theirs."""

    how: str
    parts: tuple[Any, ...]
    weights: tuple[float, ...] = ()


Reward = models.PRM | Tokens | Texts | Mix | Callable[[str, list[str]], float]
Named = Reward | str | Path


def of_tokens(function: Callable[[Array, Array], Array]) -> Tokens:
    """`function(tokens, length)` of one solution's ids, padded, in the policy's tokenizer: pure, in jax."""
    return Tokens(_function("of_tokens", function))


def of_texts(function: Callable[[str, list[str]], float], *, timeout: float | None = 60.0) -> Texts:
    """`function(question, steps)`: the texts of a solution's steps so far.

    A call that takes longer than `timeout` seconds ends the search; None: it may, and runs in the caller's
    own thread.
    """
    return Texts(_function("of_texts", function), False, _timeout(timeout))


def of_batches(
    function: Callable[[list[str], list[list[str]]], Sequence[float]],
    *,
    timeout: float | None = 60.0,
) -> Texts:
    """`function(questions, steps)`: as many values as solutions, in a list or array; `timeout` as above."""
    return Texts(_function("of_batches", function), True, _timeout(timeout))


def mean(*parts: Named) -> Mix:
    """The mean of the parts' log-odds. A part may be a folder, which `pfjax.load` opens."""
    return Mix(MEAN, _some("mean", parts))


def minimum(*parts: Named) -> Mix:
    """The least of the parts' log-odds."""
    return Mix(MINIMUM, _some("minimum", parts))


def weighted_sum(*pairs: tuple[Named, float]) -> Mix:
    """The sum of the parts' log-odds times their weights: weighted_sum((a, 0.7), (b, 0.3))."""
    try:
        parts, weights = zip(*((part, float(weight)) for part, weight in pairs), strict=True)
    except (TypeError, ValueError):
        raise ValueError(
            f"weighted_sum got {shown(pairs)}, wanted pairs of a reward and its weight, such as (prm, 0.7)."
        ) from None
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weighted_sum got the weights {weights}, wanted finite ones.")
    return Mix(SUM, _some("weighted_sum", parts), weights)


def opened(reward: Named, open_prm: Callable[[str | Path], models.PRM]) -> Reward:
    """The reward with every folder in it opened; ValueError for what is none."""
    if isinstance(reward, (str, Path)):
        return open_prm(reward)
    if isinstance(reward, Mix):
        return reward._replace(parts=tuple(opened(part, open_prm) for part in reward.parts))
    if isinstance(reward, (models.PRM, Tokens, Texts)):
        return reward
    return of_texts(_function("prm", reward))


def name_of(reward: Reward) -> str:
    """What messages call it."""
    if isinstance(reward, Mix):
        return f"{reward.how}({', '.join(map(name_of, reward.parts))})"
    if isinstance(reward, models.PRM):
        return "PRM"
    function = reward.function if isinstance(reward, (Tokens, Texts)) else reward
    return getattr(function, "__name__", None) or type(function).__name__


def _some(name: str, parts: Sequence[Any]) -> tuple[Any, ...]:
    if not parts:
        raise ValueError(f"{name} got no reward, wanted at least one.")
    for part in parts:
        if not isinstance(part, (str, Path, Mix, models.PRM, Tokens, Texts)):
            _function(name, part)
    return tuple(parts)


def _function(name: str, function: Any) -> Any:
    if not callable(function) or isinstance(function, type):
        raise ValueError(
            f"{name} got {shown(function)}, wanted a PRM, its folder, or a function (question, steps) -> value."
        )
    return function


def _timeout(seconds: float | None) -> float | None:
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds <= 1e6):
        raise ValueError(f"timeout is {seconds!r}, wanted seconds above 0 up to 1e6, or None.")
    return seconds
