"""An engine whose PRM reads text: the host stands between two programs, never inside one.

    pool, steps = write(context, pool)              problems write their steps
    text = reader(steps)                            on the host, once per step
    pool, snapshot = weigh(context, pool, text)     the PRM reads them; weighed, resampled, next step begun

The two are `Programs.advance` cut where steps are written, so particles and evidence are those of
`engine.Engine`, on every device and mesh. Where a solution or a step has more tokens for the PRM than
expected, its cache grows, and all programs are compiled anew as they are needed. Knows nothing of
tokenizers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context, Found, Pool, Snapshot, take
from pfjax.engine.programs import Programs, Rules, Shared
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.prm import RewardModule
from pfjax.models.sharding import over_problems
from pfjax.reasoning.foreign import Reading, Steps, Text

Rows = list[list[int] | None]
ReadSteps = Callable[[Steps], Rows]


class Written(NamedTuple):
    """Steps of c problems; `problem` and `decoded` as in `Found`."""

    problem: Int[Array, " c"]
    decoded: Int[Array, " 1"]
    steps: Steps


class TextEngine(Engine):
    """As `Engine`, with `shared.text` set and a `reader` (`foreign.Reader`) for the newest steps."""

    def __init__(
        self,
        policy: Decoder,
        prm: RewardModule | None,
        shared: Shared,
        rules: Rules,
        mesh: Mesh | None = None,
        *,
        reader: ReadSteps,
    ):
        super().__init__(policy, prm, shared, rules, mesh)
        programs, over = _TextPrograms(*self.programs), partial(over_problems, mesh=mesh)
        write, weigh = over(programs.write, arguments=2), over(programs.weigh, arguments=4)
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
        problem, steps = jax.tree.map(np.asarray, (written.problem, written.steps))
        # Places past the last are problems that are not done.
        done = (problem < each)[:, None]
        rows = self._reader(steps._replace(count=np.where(done, steps.count, 0)))
        count = np.array([-1 if ids is None else len(ids) for ids in rows], np.int32)
        count = count.reshape(steps.count.shape)
        pool = self._with_room(pool, int((steps.length + count).max()), int(count.max()))
        tokens = _table(rows, self._reading.width).reshape(*count.shape, -1)
        pool, snapshot = self._weigh(
            self.params, context, pool, jnp.asarray(tokens), jnp.asarray(count)
        )
        return pool, Found(written.problem, written.decoded, snapshot)

    def _prepare_advance(self, name: tuple, shapes: Callable, context: Context, pool: Pool) -> None:
        """Nothing: how wide the PRM's cache will be is known when the steps are."""

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


def _table(rows: Rows, width: int) -> np.ndarray:
    table = np.zeros((len(rows), width), np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids or ())] = ids or ()
    return table


class _TextPrograms(Programs):
    """`advance` in two."""

    __slots__ = ()

    def write(self, params: PyTree, context: Context, pool: Pool) -> tuple[Pool, Written]:
        """Up to the end of the steps: nothing of the pool changes but flight and policy caches."""
        policy, _, shared = self._merge(params)
        pool, decoded = self._written(policy, shared, context, pool)
        assert context.prm is not None
        x, flight = pool.state.particles, pool.flight
        length, prompt = x.reward_state.length, context.prm.length
        steps, p = Steps(flight.tokens, flight.count, x.num_steps, length, prompt), len(pool.busy)
        places, done = self._chosen(pool)
        if len(places) < p:
            steps, places = take(steps, places), jnp.where(done[places], places, p)
        return pool, Written(places, decoded[None], steps)

    def weigh(
        self,
        params: PyTree,
        context: Context,
        pool: Pool,
        tokens: Int[Array, "c n w"],
        count: Int[Array, "c n"],
    ) -> tuple[Pool, Snapshot]:
        """The rest, for the problems that `write` has told the steps of."""
        _, prm, shared = self._merge(params)
        assert shared.text is not None
        text = Text(shared.text.reading, tokens, count)
        pool, _, snapshot = self._settled(prm, shared._replace(text=text), context, pool)
        return pool, snapshot
