"""The compiled programs of a search: problems in flight, each with barriers of its own.

    pool   = start(prompts, keys)            prompts' caches, blank particles, first steps begun
    pool, found = advance(pool)              tokens until `together` problems have written their steps;
                                             those are weighed, resampled and begin the next step
    pool   = admit(pool, prompts, ..., slots)    new problems in the places of finished ones

A problem waits for its own particles alone. Per generation it goes through the halves of
`smc.particle_filter`'s step, so its particles and evidence are those of that filter on
`model.language_model`. Programs are pure functions of weights and arrays, compiled once per shape.
With a mesh the problems are sharded over its first axis by `shard_map`, and every group of devices
runs its own loops. Knows nothing of text, answers or keys' origin.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.prm import RewardModule
from pfjax.models.sharding import over_problems
from pfjax.reasoning import particles, rewards
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.flight import Writer, begin, block, land
from pfjax.reasoning.model import Settings, weighed
from pfjax.reasoning.particles import last_step
from pfjax.reasoning.pool import (
    Context,
    Pool,
    Prompts,
    Snapshot,
    put,
    ready,
    take,
    with_caches,
    without_caches,
)


class Shared(NamedTuple):
    """Tables over the vocabulary that policy and PRM share, and the PRM's probe token."""

    stop: StopTable
    strip: rewards.StripTable
    probe: Int[Array, ""]


class Engine:
    """Compiled functions for one (policy, PRM, settings, resampler, n).

    `together` problems of a group of devices are weighed at a time (None: all of them, at a common
    barrier); `slots` rows of each problem write at a time (None: all n). `compilations()` counts
    programs.
    """

    def __init__(
        self,
        policy: Decoder,
        prm: RewardModule | None,
        shared: Shared,
        settings: Settings,
        resampler: smc.Resampler,
        n: int,
        *,
        mesh: Mesh | None = None,
        together: int | None = None,
        slots: int | None = None,
        move: smc.Move = smc.gather,
    ):
        self._policy, policy_params = nnx.split(policy)
        self._prm, prm_params = (None, ()) if prm is None else nnx.split(prm)
        self.params: PyTree = (policy_params, prm_params, shared)
        self._settings = settings
        self._resampler, self.n = resampler, n
        self._mesh, self.together, self._slots = mesh, together, slots
        self._move = move
        self.groups = 1 if mesh is None else mesh.shape[mesh.axis_names[0]]
        self._compiled = 0
        over = partial(over_problems, mesh=mesh)
        self._start = jax.jit(self._counted(self._start_at), static_argnums=1)
        self._advance = jax.jit(
            self._counted(over(self._advance_fn, arguments=2)), donate_argnums=2
        )
        self._admit = jax.jit(
            self._counted(over(self._admit_fn, arguments=5)), donate_argnums=(1, 2)
        )
        self._grow = jax.jit(self._counted(self._grow_fn), static_argnums=1)

    def start(
        self, prompts: Prompts, keys: Key[Array, " p"], level: int | None = None
    ) -> tuple[Context, Pool]:
        """Problems at their first step; caches hold `level` solution tokens (None: the budget)."""
        level = self._settings.budget.max_tokens if level is None else level
        return self._start(self.params, level, prompts, keys)

    def advance(self, context: Context, pool: Pool) -> tuple[Pool, Snapshot]:
        """One generation of the next problems that are done; `pool` is donated."""
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

    def grow(self, pool: Pool, level: int) -> Pool:
        """The pool with caches for `level` solution tokens and a step more; itself if they are."""
        columns, _ = self._columns(level)
        if pool.state.particles.policy_cache.k[0].shape[-1] >= columns:
            return pool
        return self._grow(pool, level)

    def shapes(self, prompts: Prompts, level: int) -> tuple[Context, Pool]:
        """Abstract caches and particles of abstract prompts, caches at their width for `level`."""
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), prompts.last.shape[0]))
        return jax.eval_shape(partial(self._start_fn, level), self.params, prompts, keys)

    def lower_step(self, params: PyTree, context: Context, pool: Pool):
        """`advance` for abstract arguments, to be compiled for devices that are not here."""
        return self._advance.lower(params, context, pool)

    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return self._compiled

    def _counted(self, fn: Callable) -> Callable:
        """`fn`, which counts how often it is traced: once for every program."""

        def traced(*arguments):
            self._compiled += 1
            return fn(*arguments)

        return traced

    def _columns(self, level: int) -> tuple[int, int]:
        """Cache columns of policy and PRM that hold `level` solution tokens and one step more."""
        budget = self._settings.budget
        return level + budget.slack, level + budget.max_steps

    def _grow_fn(self, pool: Pool, level: int) -> Pool:
        policy, prm = self._columns(level)
        x, reward = pool.state.particles, pool.state.particles.reward_state
        if isinstance(reward, rewards.PRMState):
            reward = rewards.widen(reward, prm, self._settings.budget.step_tokens)
        x = x._replace(policy_cache=cache.widen(x.policy_cache, policy), reward_state=reward)
        return pool._replace(state=pool.state._replace(particles=x))

    def _start_at(self, params, level: int, prompts: Prompts, keys):
        fn = over_problems(partial(self._start_fn, level), self._mesh, 2)
        return fn(params, prompts, keys)

    def _start_fn(self, level: int, params, prompts: Prompts, keys) -> tuple[Context, Pool]:
        policy, prm, shared = self._merge(params)
        p, n, budget = prompts.last.shape[0], self.n, self._settings.budget
        context = self._prefill(policy, prm, prompts)
        columns, prm_columns = self._columns(level)
        blank = particles.empty(
            policy.config,
            prompts.last,
            prompts.active,
            n,
            max_tokens=budget.max_tokens,
            step_tokens=budget.step_tokens,
            max_steps=budget.max_steps,
            columns=columns,
            reward_state=self._reward(prm, shared, context, prm_columns).init(p, n),
            dtype=context.policy.kv.k[0].dtype,
        )
        return context, self._begun(blank, prompts.active, keys)

    def _prefill(self, policy: Decoder, prm: RewardModule | None, prompts: Prompts) -> Context:
        budget = self._settings.budget
        room = budget.max_tokens + budget.max_steps
        return Context(
            cache.prefill(policy, prompts.policy, prompts.policy_length, budget.max_tokens),
            prm and cache.prefill(prm.decoder, prompts.prm, prompts.prm_length, room),
        )

    def _begun(self, blank: particles.Particles, busy, keys) -> Pool:
        """Generation 0: blank particles of equal weight, nothing resampled."""
        p, n = blank.length.shape
        weights = jnp.full((p, n), -jnp.log(float(n)), jnp.float32)
        state = smc.State(blank, weights, jnp.zeros(p, jnp.float32), jnp.full(p, -1, jnp.int32))
        never = smc.when(smc.never, self._resampler)
        state, stay, resampled, row_keys = smc.resample(
            _generation(keys, state.t + 1), state, never, move=lambda x, _: x
        )
        flight = begin(blank, self._settings.budget)
        return Pool(state, flight, stay, resampled, keys, row_keys, busy)

    def _admit_fn(self, params, context: Context, pool: Pool, prompts: Prompts, keys, places):
        policy, prm, _ = self._merge(params)
        fresh = self._prefill(policy, prm, prompts)
        x = pool.state.particles
        a, n, budget = places.shape[0], self.n, self._settings.budget
        blank = particles.empty(
            policy.config,
            prompts.last,
            prompts.active,
            n,
            max_tokens=budget.max_tokens,
            step_tokens=budget.step_tokens,
            max_steps=budget.max_steps,
            columns=0,
            reward_state=jax.tree.map(
                lambda old: jnp.zeros((a, *old.shape[1:]), old.dtype),
                without_caches(x.reward_state),
            ),
            dtype=context.policy.kv.k[0].dtype,
        )
        begun = self._begun(blank, prompts.active, keys)
        # Caches keep what they hold: columns past a row's length are never seen.
        kept = without_caches(pool)
        placed = put(kept, without_caches(begun), places)
        return put(context, fresh, places), with_caches(placed, pool)

    def _advance_fn(self, params, context: Context, pool: Pool) -> tuple[Pool, Snapshot]:
        policy, prm, shared = self._merge(params)
        writer = Writer(
            policy, context.policy, shared.stop, self._settings.sampling, self._settings.budget
        )
        x, p = pool.state.particles, pool.busy.shape[0]
        together = p if self.together is None else min(self.together, p)

        def write(carry):
            kv, flight, rows = carry
            before = flight.count
            kv, flight = block(writer, pool.row_keys, x.length, kv, flight, self._slots)
            ran = jnp.max(flight.count - before)
            return kv, flight, rows + ran * p * min(self._slots or self.n, self.n)

        def waiting(carry):
            return jnp.sum(ready(pool.busy, carry[1])) < jnp.minimum(jnp.sum(pool.busy), together)

        kv, flight, decoded = jax.lax.while_loop(
            waiting, write, (x.policy_cache, pool.flight, jnp.zeros((), jnp.int32))
        )
        x = x._replace(policy_cache=kv)
        pool = pool._replace(state=pool.state._replace(particles=x), flight=flight)
        if together == p:
            places = jnp.arange(p, dtype=jnp.int32)
            pool, snapshot = self._settle(prm, shared, context, pool)
        else:
            done = ready(pool.busy, flight)
            places = jnp.argsort(~done, stable=True)[:together].astype(jnp.int32)
            part, snapshot = self._settle(prm, shared, *take((context, pool), places))
            places = jnp.where(done[places], places, p)
            pool = put(pool, part, places)
        return pool, snapshot._replace(problem=places, decoded=decoded[None])

    def _settle(self, prm, shared: Shared, context: Context, pool: Pool) -> tuple[Pool, Snapshot]:
        """Weighs the steps that are written, resamples, and begins the next ones."""
        budget, state = self._settings.budget, pool.state
        x = land(state.particles, pool.flight, state.particles.policy_cache, budget)
        x, log_g = weighed(x, self._reward(prm, shared, context), self._settings)
        state = state._replace(particles=x)
        state, info = smc.weighed(state, log_g, pool.ancestors, pool.resampled)
        snapshot = self._snapshot(state, info)
        busy = pool.busy & ~jnp.all(x.finished, axis=1)
        state, ancestors, resampled, row_keys = smc.resample(
            _generation(pool.keys, state.t + 1), state, self._resampler, self._move
        )
        flight = begin(state.particles, budget)
        return Pool(state, flight, ancestors, resampled, pool.keys, row_keys, busy), snapshot

    def _reward(
        self, prm: RewardModule | None, shared: Shared, context: Context, columns: int = 0
    ) -> rewards.RewardModel:
        if prm is None or context.prm is None:
            return rewards.none()
        return rewards.process_reward(
            prm,
            context.prm,
            shared.strip,
            shared.probe,
            step_tokens=self._settings.budget.step_tokens,
            columns=columns,
        )

    def _snapshot(self, state: smc.State, info: smc.Info) -> Snapshot:
        x = state.particles
        tokens, _ = last_step(x, self._settings.budget.step_tokens)
        none = jnp.zeros(0, jnp.int32)
        return Snapshot(
            problem=none,
            step=tokens,
            new_tokens=x.new_tokens,
            new_reward_tokens=x.new_reward_tokens,
            value=x.value,
            log_weights=state.log_weights,
            finished=x.finished,
            truncated=x.truncated,
            log_prob=x.log_prob,
            log_evidence=state.log_evidence,
            info=info,
            decoded=none,
        )

    def _merge(self, params) -> tuple[Decoder, RewardModule | None, Shared]:
        policy, prm, shared = params
        return nnx.merge(self._policy, policy), self._prm and nnx.merge(self._prm, prm), shared


def _generation(keys: Key[Array, " p"], t: Int[Array, " p"]) -> Key[Array, " p"]:
    """The keys of generation t[p], as the runners of pfjax.smc make them."""
    return jax.vmap(jax.random.fold_in)(keys, t)


def problem_keys(key: Key[Array, ""], ids: list[int]) -> Key[Array, " p"]:
    """One key a problem from its 64-bit id, so that a problem's draws do not depend on its
    batch.
    """
    high = jnp.array([i >> 32 for i in ids], jnp.uint32)
    low = jnp.array([i & 0xFFFFFFFF for i in ids], jnp.uint32)
    fold = jax.vmap(lambda h, lo: jax.random.fold_in(jax.random.fold_in(key, h), lo))
    return fold(high, low)
