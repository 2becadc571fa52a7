"""An engine whose PRM reads text: the host stands between two programs, never inside one.

    pool, steps = write(context, pool)           problems write their steps
    text = reader(steps)                         on the host, once per step
    pool, found = weigh(context, pool, text)     the PRM reads them; weighed, resampled, next step begun

The two are `Programs.advance` cut where steps are written, so particles and evidence are those of
`engine.Engine`, on every device and mesh. The PRM's cache grows if a solution or a step has more
tokens for it than expected, which compiles once more. Knows nothing of tokenizers.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from pfjax.models import cache
from pfjax.models.sharding import over_problems
from pfjax.reasoning.engine import Engine
from pfjax.reasoning.foreign import Reading, Steps, Text
from pfjax.reasoning.pool import Context, Found, Pool, Prompts, Snapshot, put, take
from pfjax.reasoning.programs import Programs, Shared

ReadSteps = Callable[[Steps], list[list[int]]]


class TextEngine(Engine):
    """As `Engine`, with `shared.text` set and a `reader` (`foreign.Reader`) for the newest steps."""

    def __init__(self, *arguments, reader: ReadSteps, **options):
        super().__init__(*arguments, **options)
        over = partial(over_problems, mesh=self._mesh)
        write = over(_Writing(*self.programs).advance, arguments=2)
        weigh = over(_Weighing(*self.programs).weigh, arguments=5)
        self._reader = reader
        self._write = jax.jit(self._counted(write), donate_argnums=2)
        self._weigh = jax.jit(self._counted(weigh), donate_argnums=2)
        self._widen = jax.jit(self._counted(_widened), static_argnums=1)

    def advance(self, context: Context, pool: Pool) -> tuple[Pool, Found]:
        """One generation of the next problems that are done, waiting for their steps; `pool` is
        donated.
        """
        each = pool.busy.shape[0] // self.groups
        pool, written = self._write(self.params, context, pool)
        problem, steps = jax.tree.map(np.asarray, (written.problem, written.snapshot))
        # Places past the last are problems that are not done.
        done = (problem < each)[:, None]
        rows = self._reader(steps._replace(count=np.where(done, steps.count, 0)))
        count = np.array([len(ids) for ids in rows], np.int32).reshape(steps.count.shape)
        pool = self._with_room(pool, int((steps.length + count).max()), int(count.max()))
        tokens = _table(rows, self._reading.width).reshape(*count.shape, -1)
        pool, snapshot = self._weigh(
            self.params, context, pool, written.problem, jnp.asarray(tokens), jnp.asarray(count)
        )
        return pool, written._replace(snapshot=snapshot)

    def prepare(self, context: Context, pool: Pool, level: int) -> None:
        """Nothing: how wide the PRM's cache will be is known when the steps are."""

    def prepare_start(self, prompts: Prompts, keys: Key[Array, " p"], level: int) -> None:
        """Nothing, see `prepare`."""

    @property
    def _reading(self) -> Reading:
        return self.params[2].text.reading

    def _with_room(self, pool: Pool, solution: int, step: int) -> Pool:
        """The pool with PRM caches for so many PRM tokens; later pools begin with them."""
        reading = self._reading.holding(solution, step)
        if reading != self._reading:
            *weights, shared = self.params
            self.params = (*weights, shared._replace(text=Text(reading)))
        state = pool.state.particles.reward_state
        columns = reading.solution + reading.width
        return pool if state.kv.v[0].shape[-2] >= columns else self._widen(pool, columns)


def _widened(pool: Pool, columns: int) -> Pool:
    x = pool.state.particles
    state = x.reward_state._replace(kv=cache.widen(x.reward_state.kv, columns))
    return pool._replace(state=pool.state._replace(particles=x._replace(reward_state=state)))


def _table(rows: list[list[int]], width: int) -> np.ndarray:
    table = np.zeros((len(rows), width), np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table


class _Writing(Programs):
    """`advance` up to the end of the steps, which are found as they are written."""

    __slots__ = ()

    def _settle(self, prm, shared: Shared, context: Context, pool: Pool):
        assert context.prm is not None
        x, flight = pool.state.particles, pool.flight
        length, prompt = x.reward_state.length, context.prm.length
        return pool, Steps(flight.tokens, flight.count, x.num_steps, length, prompt)


class _Weighing(Programs):
    """The rest of `advance`."""

    __slots__ = ()

    def weigh(
        self,
        params: PyTree,
        context: Context,
        pool: Pool,
        problem: Int[Array, " c"],
        tokens: Int[Array, "c n w"],
        count: Int[Array, "c n"],
    ) -> tuple[Pool, Snapshot]:
        _, prm, shared = self._merge(params)
        assert shared.text is not None
        text = Text(shared.text.reading, tokens, count)
        settle = partial(self._settle, prm, shared._replace(text=text))
        p = pool.busy.shape[0]
        if len(problem) == p:
            return settle(context, pool)
        part, snapshot = settle(*take((context, pool), problem.clip(max=p - 1)))
        return put(pool, part, problem), snapshot
