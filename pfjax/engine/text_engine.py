"""An engine whose reward needs the host: it stands between two programs, never inside one.

    pool, written = write(context, pool)            problems write their steps
    told = what the host says to each source        a PRM's own tokens of a step, or values; once a step
    pool, snapshot = weigh(context, pool, told)     values; weighed, resampled, next step begun

The two are `Programs.advance` cut where steps are written, so particles and evidence are those of
`engine.Engine`, on every device and mesh. Where a solution or a step has more tokens for a PRM than
expected, its cache grows, and all programs are compiled anew as they are needed. Knows nothing of
tokenizers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context, Found, Pool, Snapshot, take
from pfjax.engine.programs import Params, Programs, Rules
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import over_problems
from pfjax.reasoning import sources as kinds
from pfjax.reasoning.asked import Asker, Solutions
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.foreign import Reader, Reading, Steps, Text
from pfjax.reasoning.particles import last_tokens
from pfjax.reasoning.rewards import Told
from pfjax.reasoning.sources import OfTexts, Sources

Rows = list[list[int] | None]
Reads = Callable[[Steps], Rows]


class Written(NamedTuple):
    """Steps of c problems; `problem` and `decoded` as in `Found`.

    `rooms` has for every source that reads text the tokens of its solutions and questions so far, `behind`
    the last three tokens before each step.
    """

    problem: Int[Array, " c"]
    decoded: Int[Array, " 1"]
    solutions: Solutions
    rooms: tuple[tuple[Array, Array] | None, ...]
    behind: Int[Array, "c n 3"]


class TextEngine(Engine):
    """As `Engine`; `hosts` has what speaks to each source that waits for the host, by its number.

    A `foreign.Reader` for a PRM that reads text, an `asked.Asker` for a Python function.
    """

    def __init__(
        self,
        policy: Decoder,
        sources: Sources,
        stop: StopTable,
        rules: Rules,
        mesh: Mesh | None = None,
        *,
        hosts: Mapping[int, Reader | Asker | Reads],
    ):
        super().__init__(policy, sources, stop, rules, mesh)
        programs, over = _TextPrograms(*self.programs), partial(over_problems, mesh=mesh)
        write, weigh = over(programs.write, arguments=2), over(programs.weigh, arguments=3)
        self._hosts = hosts
        self._write = jax.jit(self._counted(write), donate_argnums=2)
        self._weigh = jax.jit(self._counted(weigh), donate_argnums=2)
        self._widen = jax.jit(self._counted(_widened), static_argnums=(1, 2))

    def advance(
        self, context: Context, pool: Pool, questions: Sequence[str] = ()
    ) -> tuple[Pool, Found]:
        """One generation of the next problems that are done, waiting for their steps; `pool` is
        donated. RewardError if a function of the user's fails.
        """
        each = pool.busy.shape[0] // self.groups
        pool, written = self._write(self.params, context, pool)
        told_of = written.problem, written.solutions, written.rooms, written.behind
        problem, x, rooms, behind = jax.tree.map(np.asarray, told_of)
        # Places past the last are problems that are not done.
        x = x._replace(count=np.where((problem < each)[:, None], x.count, 0))
        told: list[Text | Told | None] = [None] * len(rooms)
        for i, host in self._hosts.items():
            if isinstance(host, Asker):
                told[i] = Told(*map(jnp.asarray, host(x, questions)))
            else:
                length, prompt = rooms[i]
                rows = host(Steps(x.new, x.count, x.before, length, prompt, behind))
                pool, told[i] = self._read(pool, i, rows, length)
        pool, snapshot = self._weigh(self.params, context, pool, tuple(told))
        return pool, Found(written.problem, written.decoded, snapshot)

    def reading(self, i: int) -> Reading:
        """The room for the text that source i reads."""
        return self.params.sources.parts[i].reading  # pyright: ignore[reportAttributeAccessIssue]

    def _prepare_advance(self, name: tuple, shapes: Callable, context: Context, pool: Pool) -> None:
        """Nothing: how wide the PRM's cache will be is known when the steps are."""

    def _read(self, pool: Pool, i: int, rows: Rows, length: np.ndarray) -> tuple[Pool, Text]:
        """The pool with room for `rows` of tokens behind `length`, and these as arrays."""
        count = np.array([-1 if ids is None else len(ids) for ids in rows], np.int32)
        count = count.reshape(length.shape)
        pool = self._with_room(pool, i, int((length + count).max()), int(count.max()))
        reading = self.reading(i)
        tokens = _table(rows, reading.width).reshape(*count.shape, -1)
        return pool, Text(reading, jnp.asarray(tokens), jnp.asarray(count))

    def _with_room(self, pool: Pool, i: int, solution: int, step: int) -> Pool:
        """The pool with caches of source i for so many tokens; later pools begin with them."""
        reading = self.reading(i).holding(solution, step)
        if reading != self.reading(i):
            parts = list(self.params.sources.parts)
            parts[i] = replace(parts[i], reading=reading)  # pyright: ignore[reportCallIssue]
            sources = replace(self.params.sources, parts=tuple(parts))
            self.params = self.params._replace(sources=sources)
        state = pool.state.particles.reward_state[i]
        columns = reading.solution + reading.width
        return pool if state.kv.v[0].shape[-2] >= columns else self._widen(pool, i, columns)


def _widened(pool: Pool, i: int, columns: int) -> Pool:
    x = pool.state.particles
    states = list(x.reward_state)
    states[i] = states[i]._replace(kv=cache.widen(states[i].kv, columns))
    x = x._replace(reward_state=tuple(states))
    return pool._replace(state=pool.state._replace(particles=x))


def _table(rows: Rows, width: int) -> np.ndarray:
    table = np.zeros((len(rows), width), np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids or ())] = ids or ()
    return table


class _TextPrograms(Programs):
    """`advance` in two."""

    __slots__ = ()

    def write(self, params: Params, context: Context, pool: Pool) -> tuple[Pool, Written]:
        """Up to the end of the steps: nothing of the pool changes but flight and policy caches."""
        pool, decoded = self._written(params, context, pool)
        x, flight, sources = pool.state.particles, pool.flight, params.sources
        prompts = dict(zip(sources.prompted, context.prm, strict=True))
        asked = any(isinstance(part, OfTexts) for part in sources.parts)
        # Whole solutions travel to the host only where a function wants them.
        tokens = x.tokens if asked else x.tokens[..., :0]
        whole = Solutions(context.job, tokens, x.step_end, x.num_steps, flight.tokens, flight.count)
        rooms = tuple(
            (x.reward_state[i].length, prompts[i].length) if isinstance(part, kinds.Text) else None
            for i, part in enumerate(sources.parts)
        )
        behind = last_tokens(x, 3)
        places, done = self._chosen(pool)
        if len(places) < len(pool.busy):
            whole, rooms, behind = take((whole, rooms, behind), places)
            places = jnp.where(done[places], places, len(pool.busy))
        return pool, Written(places, decoded[None], whole, rooms, behind)

    def weigh(
        self, params: Params, context: Context, pool: Pool, told: tuple[Any, ...]
    ) -> tuple[Pool, Snapshot]:
        """The rest, for the problems that `write` has told the steps of."""
        pool, _, found = self._settled(params.sources, told, context, pool)
        return pool, found
