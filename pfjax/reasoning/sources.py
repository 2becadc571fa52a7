"""The sources of a reward as compiled programs take them: weights and tables are arrays, the rest is static.

    Plain      a PRM that reads the policy's tokens          on the device
    Text       a PRM that reads text (`foreign.py`)          the host hands it every step in its own tokens
    OfTokens   a jax function of one solution's tokens       on the device
    OfTexts    a Python function of texts (`asked.py`)       the host tells the values

A formula makes one value of all: the number of a source, or (how, formulas, weights). Knows nothing of
who makes the sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning import foreign, rewards
from pfjax.reasoning.strip import StripTable
from pfjax.settings.budget import Budget

Formula = int | tuple[str, tuple, tuple[float, ...]]
MEAN, MINIMUM, SUM = "mean", "minimum", "weighted_sum"


def _static(*data: str, static: tuple[str, ...] = ()) -> Callable:
    return partial(jax.tree_util.register_dataclass, data_fields=data, meta_fields=static)


@_static("weights", "strip", "probe", static=("graph",))
@dataclass(frozen=True)
class Plain:
    """A PRM that reads the policy's tokens, with a probe behind every step."""

    graph: nnx.GraphDef
    weights: PyTree[Array]
    strip: StripTable
    probe: Int[Array, ""]


@_static("weights", static=("graph", "reading"))
@dataclass(frozen=True)
class Text:
    """A PRM that reads text, in so much room."""

    graph: nnx.GraphDef
    weights: PyTree[Array]
    reading: foreign.Reading


@_static(static=("function",))
@dataclass(frozen=True)
class OfTokens:
    """A function (tokens int32[s], length int32[]) -> float32[]."""

    function: Callable[[Array, Array], Array]


@_static()
@dataclass(frozen=True)
class OfTexts:
    """Values that the host tells."""


Source = Plain | Text | OfTokens | OfTexts


@_static("parts", static=("formula",))
@dataclass(frozen=True)
class Sources:
    """All sources of a reward, and the formula that makes one value of theirs; none at all for 0."""

    parts: tuple[Source, ...] = ()
    formula: Formula = 0

    @property
    def prompted(self) -> list[int]:
        """Which parts are PRMs, and read the question."""
        return [i for i, part in enumerate(self.parts) if isinstance(part, (Plain, Text))]

    def module(self, i: int) -> RewardModule:
        """The PRM of a part."""
        part = self.parts[i]
        assert isinstance(part, (Plain, Text))
        return nnx.merge(part.graph, part.weights)

    def room(self, i: int, budget: Budget) -> int:
        """Tokens that the PRM of a part reads of a solution, at most."""
        part = self.parts[i]
        return part.reading.solution if isinstance(part, Text) else budget.prm_tokens


def plain(prm: RewardModule, strip: StripTable, probe: Int[Array, ""]) -> Sources:
    """One PRM that reads the policy's tokens."""
    return Sources((Plain(*nnx.split(prm), strip, probe),))


def text(prm: RewardModule, reading: foreign.Reading) -> Text:
    """A PRM that reads text, in so much room."""
    return Text(*nnx.split(prm), reading)


def reward_model(
    sources: Sources,
    prefixes: Sequence[cache.Prefix],
    told: Sequence[foreign.Text | rewards.Told | rewards.Ask | None],
    budget: Budget,
    *,
    columns: int,
    kv_format: str | None,
) -> rewards.RewardModel:
    """The reward of particles whose questions are in `prefixes`, one for each PRM.

    `told` is what the host has to say to each part about the newest steps, or how to ask it.
    `columns` bounds what a PRM that reads the policy's tokens has read of a solution.
    """
    if not sources.parts:
        return rewards.none()
    of = dict(zip(sources.prompted, prefixes, strict=True))

    def model(i: int, part: Source) -> rewards.RewardModel:
        match part:
            case Plain():
                return rewards.process_reward(
                    sources.module(i),
                    of[i],
                    part.strip,
                    part.probe,
                    step_tokens=budget.step_tokens,
                    columns=columns,
                    kv_format=kv_format,
                )
            case Text():
                known = told[i]
                text = known if isinstance(known, foreign.Text) else foreign.Text(part.reading)
                return foreign.text_reward(sources.module(i), of[i], text, kv_format=kv_format)
            case OfTokens():
                return rewards.from_function(part.function)
            case OfTexts():
                known = told[i]
                return rewards.told(None if isinstance(known, foreign.Text) else known)

    parts = [model(i, part) for i, part in enumerate(sources.parts)]
    return rewards.combined(parts, partial(evaluate, sources.formula))


def evaluate(formula: Formula, values: Sequence[Any]) -> Any:
    """The value of a formula.

    >>> values = [jnp.float32(3), jnp.float32(-1)]
    >>> float(evaluate((MEAN, (0, 1), ()), values)), float(evaluate((SUM, (0, 1), (0.5, 2.0)), values))
    (1.0, -0.5)
    """
    if isinstance(formula, int):
        return values[formula]
    how, inner, weights = formula
    parts = jnp.stack([evaluate(f, values) for f in inner])
    if how == MINIMUM:
        return jnp.min(parts, axis=0)
    if how == MEAN:
        weights = (1 / len(inner),) * len(inner)
    return _weighted(parts, weights)


def _weighted(parts: Float[Array, "k *b"], weights: Sequence[float]) -> Float[Array, "*b"]:
    total = jnp.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        # Nothing of -inf is nothing.
        total = total + (jnp.float32(weight) * part if weight else 0.0)
    return total
