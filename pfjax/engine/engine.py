"""The compiled programs of a search: problems in flight, each with barriers of its own.

    context, pool = start(prompts, keys, level)     prompts' caches, blank particles, first steps begun
    pool, found = advance(context, pool)            tokens until `together` problems have written their
                                                    steps; those are weighed, resampled, and go on
    context, pool = admit(context, pool, ...)       new problems in the places of finished ones

A problem waits for its own particles alone. Per generation it goes through the halves of
`smc.particle_filter`'s step, so its particles and evidence are those of that filter on
`model.language_model`. Programs are pure functions of weights and arrays, compiled once per shape.
With a mesh the problems are sharded over its first axis by `shard_map`, and every group of devices
runs its own loops. Knows nothing of text, answers or keys' origin.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from pfjax.engine import ahead
from pfjax.engine.pool import Context, Found, Pool, Prompts
from pfjax.engine.programs import Params, Programs, Rules
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import over_problems
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.sources import Sources


class Engine:
    """Compiled functions for one (policy, reward, rules); `compilations()` counts programs."""

    def __init__(
        self,
        policy: Decoder,
        sources: Sources,
        stop: StopTable,
        rules: Rules,
        mesh: Mesh | None = None,
    ):
        graph, weights = nnx.split(policy)
        self.params = Params(weights, sources, stop)
        self.programs = Programs(graph, rules)
        self.n, self.together = rules.n, rules.together
        self.groups = 1 if mesh is None else mesh.shape[mesh.axis_names[0]]
        self.on_mesh = mesh is not None
        self._mesh, self._compiled, self._ahead = mesh, 0, ahead.Ahead()
        over = partial(over_problems, mesh=mesh)
        advance = over(self.programs.advance, arguments=2)
        admit = over(self.programs.admit, arguments=5)
        self._start = jax.jit(self._counted(self._start_at), static_argnums=1)
        self._advance = jax.jit(self._counted(advance), donate_argnums=2)
        self._admit = jax.jit(self._counted(admit), donate_argnums=(1, 2))
        self._grow = jax.jit(self._counted(self.programs.grow), static_argnums=1)
        self._prefill = jax.jit(self._counted(self.programs.prefill))

    def start(self, prompts: Prompts, keys: Key[Array, " p"], level: int) -> tuple[Context, Pool]:
        """Problems at their first step; caches hold `level` solution tokens and a step more."""
        self._ahead.wait(_start_name(prompts, level))
        return self._start(self.params, level, prompts, keys)

    def advance(
        self, context: Context, pool: Pool, questions: Sequence[str] = ()
    ) -> tuple[Pool, Found]:
        """One generation of the next problems that are done; `pool` is donated.

        `questions` are those of all jobs; nothing here reads them, see `text_engine.py`.
        """
        self._ahead.wait(_name(context.policy.kv.k[0].shape, _columns(pool)))
        return self._advance(self.params, context, pool)

    def admit(
        self,
        context: Context,
        pool: Pool,
        prompts: Prompts,
        keys: Key[Array, " a"],
        places: Int[Array, " a"],
    ) -> tuple[Context, Pool]:
        """`a` new problems at places of their groups (past the last: none); both are donated."""
        return self._admit(self.params, context, pool, prompts, keys, places)

    def prefill(self, prompts: Prompts) -> Context:
        """The prompts' caches alone."""
        return self._prefill(self.params, prompts)

    def grow(self, pool: Pool, level: int) -> Pool:
        """The pool with caches for `level` solution tokens and a step more; itself if they are."""
        enough = _columns(pool) >= self.programs.columns(level)[0]
        return pool if enough else self._grow(pool, level)

    def prepare(self, context: Context, pool: Pool, levels: Iterable[int]) -> None:
        """Compiles `advance` for wider caches in the background."""
        for level in levels:
            columns, _ = self.programs.columns(level)
            if columns > _columns(pool):
                grow = partial(self.programs.grow, level=level)
                name = _name(context.policy.kv.k[0].shape, columns)
                shapes = lambda g=grow: (context, jax.eval_shape(g, pool))  # noqa: E731
                self._prepare_advance(name, shapes, context, pool)

    def prepare_start(
        self, prompts: Prompts, keys: Key[Array, " p"], level: int, context: Context, pool: Pool
    ) -> None:
        """Compiles `start` and `advance` for other prompts in the background.

        `context` and `pool` of the prompts before them tell on which devices arrays are.
        """
        lower = partial(self._start.lower, self.params, level, prompts, keys)
        self._ahead.want(_start_name(prompts, level), lower)
        shapes = self.shapes(prompts, level)
        name = _name(shapes[0].policy.kv.k[0].shape, _columns(shapes[1]))
        self._prepare_advance(name, lambda: shapes, context, pool)

    def stop_preparing(self) -> None:
        """Drops programs whose compilation has not begun."""
        self._ahead.stop()

    def _prepare_advance(self, name: tuple, shapes: Callable, context: Context, pool: Pool) -> None:
        """`advance` for `shapes()`, on the devices of `context` and `pool`."""

        def lower():
            return self._advance.lower(self.params, *ahead.shapes_of(shapes(), (context, pool)))

        self._ahead.want(name, lower)

    def shapes(self, prompts: Prompts, level: int) -> tuple[Context, Pool]:
        """Abstract caches and particles of abstract prompts, caches at their width for `level`."""
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), prompts.last.shape[0]))
        return jax.eval_shape(partial(self.programs.start, level), self.params, prompts, keys)

    def lower_step(self, params: Params, context: Context, pool: Pool):
        """`advance` for abstract arguments, to be compiled for devices that are not here."""
        return self._advance.lower(params, context, pool)

    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return self._compiled

    def _start_at(self, params, level: int, prompts: Prompts, keys):
        fn = over_problems(partial(self.programs.start, level), self._mesh, 2)
        return fn(params, prompts, keys)

    def _counted(self, fn: Callable) -> Callable:
        """`fn`, which counts how often it is traced: once for every program."""

        def traced(*arguments):
            self._compiled += 1
            return fn(*arguments)

        return traced


def _columns(pool: Pool) -> int:
    return pool.state.particles.policy_cache.k[0].shape[-1]


def _start_name(prompts: Prompts, level: int) -> tuple:
    return "start", prompts.policy.shape, level


def _name(prompts: tuple[int, ...], columns: int) -> tuple:
    return "advance", prompts, columns


def problem_keys(key: Key[Array, ""], ids: list[int]) -> Key[Array, " p"]:
    """One key a problem from its 64-bit id, so that a problem's draws do not depend on its
    batch.
    """
    high = jnp.array([i >> 32 for i in ids], jnp.uint32)
    low = jnp.array([i & 0xFFFFFFFF for i in ids], jnp.uint32)
    fold = jax.vmap(lambda h, lo: jax.random.fold_in(jax.random.fold_in(key, h), lo))
    return fold(high, low)
