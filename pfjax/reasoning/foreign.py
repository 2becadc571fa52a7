"""A PRM that reads the policy's steps as text: another tokenizer, or text between the steps.

    tokens = Reader(...)(steps)              on the host: policy ids -> text -> the PRM's ids
    text_reward(prm, prefix, text)           on the device: v_t of these, against the PRM's own cache

Each PRM token passes through the PRM once. The text of a step is what a `Result` shows: without
delimiter, EOS and the white space around it. `PRM.score` of these texts gives the same values. Knows
nothing of how the host is reached, see `text_engine.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pfjax import models
from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning import passes
from pfjax.reasoning.asked import Text as AsText
from pfjax.reasoning.particles import Particles
from pfjax.reasoning.passes import PRMState, blocks
from pfjax.reasoning.rewards import Cost, RewardModel
from pfjax.settings.budget import Budget

PER_STEP = 2
"""PRM tokens that a format may put between a step and what stands before it."""
AROUND = 16
"""A bound of the PRM tokens around a step, with `PER_STEP`: RLHFlow with Llama's tokenizer has 13."""


class Reading(NamedTuple):
    """Room for PRM tokens: of a solution, and of a step with what stands around it, `block` of which
    are read at a time. The last `dropped` of a step leave the cache again. The PRM takes `most`.
    """

    solution: int
    step: int
    block: int
    dropped: int
    most: int

    @property
    def width(self) -> int:
        """Columns that hold a step in whole blocks."""
        return -(-self.step // self.block) * self.block

    def holding(self, solution: int, step: int) -> "Reading":
        """Itself, or twice the room, up to `most`, where a solution or a step takes more."""
        return self._replace(
            solution=_grown(self.solution, solution, self.most),
            step=_grown(self.step, step, self.most),
        )


def _grown(room: int, needed: int, most: int) -> int:
    return room if needed <= room else min(max(needed, 2 * room), most)


@partial(
    jax.tree_util.register_dataclass, data_fields=("tokens", "count"), meta_fields=("reading",)
)
@dataclass(frozen=True)
class Text:
    """The newest steps in PRM tokens, int32[p, n, reading.width], `count` of them each (0: no new
    step, -1: one that the PRM has no room for); both None while steps are written.
    """

    reading: Reading
    tokens: Int[Array, "p n w"] | None = None
    count: Int[Array, "p n"] | None = None


class Steps(NamedTuple):
    """The newest steps of c problems in policy tokens, `count` of `tokens` each (0: no new step).

    `before` counts a solution's earlier steps, `length` its PRM tokens so far, `prompt` those of the
    question. `behind` are the three tokens before each step, -1 where there are not so many.
    """

    tokens: Int[Array, "c n t"]
    count: Int[Array, "c n"]
    before: Int[Array, "c n"]
    length: Int[Array, "c n"]
    prompt: Int[Array, " c"]
    behind: Int[Array, "c n 3"]


def reads_text(policy: models.Policy, prm: models.PRM) -> bool:
    """Whether the PRM needs text: its format stands between the steps, or its ids mean other bytes."""
    if not prm.format.plain:
        return True
    ours = policy.tokenizer.token_bytes
    try:
        theirs = prm.tokenizer.token_bytes
    except models.CheckpointError:
        return True
    shared = min(len(ours), len(theirs))
    return ours[:shared] != theirs[:shared]


def reading(prm: models.PRM, budget: Budget) -> Reading:
    """How a PRM begins to read solutions of a budget."""
    form = prm.format
    around = len(form.after) + len(form.probe) + PER_STEP
    dropped = 0 if form.keep_probe else len(form.probe)
    return room(budget, prm.config.max_positions, around)._replace(dropped=dropped)


def room(budget: Budget, most: int, around: int = AROUND) -> Reading:
    """Three PRM tokens for two of the policy's, and `around` a step; `most` are those that the PRM takes.

    A block holds a step of one token for each.
    """
    _, block = blocks(budget.step_tokens + around - 1)
    return Reading(
        solution=min(budget.max_tokens * 3 // 2 + budget.max_steps * around, most),
        step=min(budget.step_tokens * 3 // 2 + around, most),
        block=block,
        dropped=0,
        most=most,
    )


@dataclass(frozen=True, eq=False)
class Reader:
    """Policy tokens to PRM tokens, on the host; `text` is that of a step."""

    text: AsText
    prm: models.PRM

    def __call__(self, steps: Steps) -> list[list[int] | None]:
        """The PRM tokens of all c * n rows, none for a row without a new step.

        None if a solution and its question take more tokens than the PRM does.
        """
        ids: list[list[int] | None] = [[] for _ in range(steps.count.size)]
        n, most = steps.count.shape[1], self.prm.config.max_positions
        for row in np.flatnonzero(steps.count):
            at = divmod(int(row), n)
            step = steps.tokens[at][: steps.count[at]].tolist()
            behind = [int(i) for i in steps.behind[at] if i >= 0]
            found = self.encoded(step, bool(steps.before[at] == 0), behind)
            total = int(steps.prompt[at[0]] + steps.length[at]) + len(found)
            ids[row] = found if total <= most else None
        return ids

    def encoded(self, step: list[int], first: bool, behind: Sequence[int] = ()) -> list[int]:
        """The PRM's ids of a step of policy ids, and of what stands around it."""
        text, form = self.text(step, behind), self.prm.format
        return [*(() if first else form.after), *form.step(text, first), *form.probe]


def text_reward(
    prm: RewardModule, prefix: cache.Prefix, text: Text, *, kv_format: str | None = None
) -> RewardModel:
    """A PRM that scores the steps in `text` incrementally; a row without tokens keeps its value.

    The value is the float32 log-odds at a step's last token. What is dropped after that is overwritten
    by the next step.
    """
    reading, dtype = text.reading, cache.suffix_dtype(prefix, kv_format)

    def init(p: int, n: int) -> PRMState:
        kv = cache.empty(prm.config, (p, n), reading.solution + reading.width, dtype)
        return PRMState(kv, jnp.zeros((p, n), jnp.int32))

    def score(state: PRMState, x: Particles):
        tokens, count = text.tokens, text.count
        if tokens is None or count is None:
            raise ValueError("text has no tokens; score steps after a Reader has read them.")
        found = passes.read(
            prm, prefix, state, tokens, count=count, first=x.history, block=reading.block
        )
        kv, new = cache.commit(state.kv, found.buffer, state.length), count > 0
        length = state.length + jnp.where(new, count - reading.dropped, 0)
        cost = jnp.maximum(found.cost, 0)
        return PRMState(kv, length), found.value, Cost(cost, jnp.zeros_like(cost))

    return RewardModel(init, score)


def ended(x: Particles, text: Text) -> Particles:
    """Solutions with a step that the PRM has no room for are over, as if their tokens were used up:
    truncated, with the value before.
    """
    if text.count is None:
        return x
    over = text.count < 0
    return x._replace(
        scored=jnp.where(over, x.num_steps, x.scored),
        finished=x.finished | over,
        truncated=x.truncated | over,
    )
