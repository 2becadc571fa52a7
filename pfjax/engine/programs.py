"""What the engine compiles, as pure functions of weights and arrays.

    start      prompts' caches, blank particles, first steps begun
    advance    tokens until enough problems have written their steps; those are weighed, resampled
               and begin the next step: the last third and the first third of
               `smc.particle_filter`'s step
    admit      new problems in the places of finished ones
    grow       wider caches

Knows nothing of devices or of how often it is compiled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int, Key, PyTree

from pfjax import smc
from pfjax.engine.pool import (
    Context,
    Found,
    Pool,
    Prompts,
    Snapshot,
    put,
    put_around_caches,
    ready,
    snapshot,
    take,
)
from pfjax.models import cache
from pfjax.reasoning import foreign, particles, rewards
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.flight import begin, land
from pfjax.reasoning.model import Settings, weighed
from pfjax.reasoning.passes import is_prm_state
from pfjax.reasoning.sources import Sources, reward_model
from pfjax.reasoning.writing import Writer, block


class Params(NamedTuple):
    """What every program is given: the policy's weights, where values come from, how steps end."""

    policy: PyTree[Array]
    sources: Sources
    stop: StopTable


class Rules(NamedTuple):
    """Of a search with n particles a problem.

    `together` problems a group of devices are weighed at a time (None: all, at a common barrier),
    `slots` rows of each write at a time (None: all n).
    """

    settings: Settings
    resampler: smc.Resampler
    n: int
    move: smc.Move = smc.gather
    together: int | None = None
    slots: int | None = None


class Programs(NamedTuple):
    """The functions for one (policy, rules); modules come as their graphs."""

    policy: nnx.GraphDef
    rules: Rules

    def columns(self, level: int) -> tuple[int, int]:
        """Cache columns of policy and PRM that hold `level` solution tokens and one step more."""
        budget = self.rules.settings.budget
        return level + budget.slack, level + budget.max_steps

    def grow(self, pool: Pool, level: int) -> Pool:
        policy, prm = self.columns(level)
        x, step = pool.state.particles, self.rules.settings.budget.step_tokens

        def wider(state):
            return rewards.widen(state, prm, step) if is_prm_state(state) else state

        reward = jax.tree.map(wider, x.reward_state, is_leaf=is_prm_state)
        x = x._replace(policy_cache=cache.widen(x.policy_cache, policy), reward_state=reward)
        return pool._replace(state=pool.state._replace(particles=x))

    def start(self, level: int, params: Params, prompts: Prompts, keys) -> tuple[Context, Pool]:
        policy = nnx.merge(self.policy, params.policy)
        context = self.prefill(params, prompts)
        columns, prm_columns = self.columns(level)
        rows, budget = (prompts.last.shape[0], self.rules.n), self.rules.settings.budget
        blank = particles.empty(
            policy.config,
            prompts.last,
            prompts.active,
            self.rules.n,
            budget=budget,
            columns=columns,
            reward_state=self.reward(params.sources, context, columns=prm_columns).init(*rows),
            dtype=cache.suffix_dtype(context.policy, self.rules.settings.kv_format),
        )
        return context, self._begun(blank, prompts.active, keys)

    def admit(self, params: Params, context: Context, pool: Pool, prompts: Prompts, keys, places):
        fresh, begun = self.start(0, params, prompts, keys)
        # Particles' caches keep what they hold: columns past a row's length are never seen.
        return put(context, fresh, places), put_around_caches(pool, begun, places)

    def advance(self, params: Params, context: Context, pool: Pool) -> tuple[Pool, Found]:
        pool, decoded = self._written(params, context, pool)
        pool, places, found = self._settled(params.sources, (), context, pool)
        return pool, Found(places, decoded[None], found)

    def prefill(self, params: Params, prompts: Prompts) -> Context:
        """The prompts' caches."""
        budget, sources = self.rules.settings.budget, params.sources
        policy = nnx.merge(self.policy, params.policy)
        asked = zip(sources.prompted, prompts.prm, prompts.prm_length, strict=True)
        return Context(
            cache.prefill(policy, prompts.policy, prompts.policy_length, budget.max_tokens),
            tuple(
                cache.prefill(sources.module(i).decoder, ids, length, sources.room(i, budget))
                for i, ids, length in asked
            ),
            prompts.job,
        )

    def reward(
        self, sources: Sources, context: Context, told: tuple = (), columns: int = 0
    ) -> rewards.RewardModel:
        """The reward of particles of the problems of `context`."""
        settings = self.rules.settings
        return reward_model(
            sources,
            context.prm,
            told or (None,) * len(sources.parts),
            settings.budget,
            columns=columns,
            kv_format=settings.kv_format,
        )

    def _written(self, params: Params, context: Context, pool: Pool) -> tuple[Pool, Int[Array, ""]]:
        """Tokens until enough problems have written their steps, and how many rows were decoded."""
        writer = Writer(
            nnx.merge(self.policy, params.policy),
            context.policy,
            params.stop,
            self.rules.settings.sampling,
            self.rules.settings.budget,
        )
        x, p = pool.state.particles, pool.busy.shape[0]
        together = self._together(p)

        def write(carry):
            kv, flight, rows = carry
            before = flight.count
            kv, flight = block(writer, pool.row_keys, x, kv, flight, slots=self.rules.slots)
            ran = jnp.max(flight.count - before)
            return kv, flight, rows + ran * p * min(self.rules.slots or self.rules.n, self.rules.n)

        def waiting(carry):
            return jnp.sum(ready(pool.busy, carry[1])) < jnp.minimum(jnp.sum(pool.busy), together)

        kv, flight, decoded = jax.lax.while_loop(
            waiting, write, (x.policy_cache, pool.flight, jnp.zeros((), jnp.int32))
        )
        x = x._replace(policy_cache=kv)
        return pool._replace(state=pool.state._replace(particles=x), flight=flight), decoded

    def _together(self, p: int) -> int:
        return p if self.rules.together is None else min(self.rules.together, p)

    def _chosen(self, pool: Pool) -> tuple[Int[Array, " c"], Bool[Array, " p"]]:
        """Places of the next problems to weigh, and which of all p are done (all, at a common barrier)."""
        p = pool.busy.shape[0]
        if self._together(p) == p:
            return jnp.arange(p, dtype=jnp.int32), jnp.ones(p, bool)
        done = ready(pool.busy, pool.flight)
        return jnp.argsort(~done, stable=True)[: self._together(p)].astype(jnp.int32), done

    def _settled(self, sources: Sources, told: tuple, context: Context, pool: Pool):
        """(pool, places, snapshot) after `_settle` of the chosen; places not done are past the last."""
        p, (places, done) = pool.busy.shape[0], self._chosen(pool)
        if len(places) == p:
            pool, found = self._settle(sources, told, context, pool)
            return pool, places, found
        part, found = self._settle(sources, told, *take((context, pool), places))
        places = jnp.where(done[places], places, p)
        return put(pool, part, places), places, found

    def _begun(self, blank: particles.Particles, busy, keys) -> Pool:
        """Generation 0: blank particles of equal weight, nothing resampled."""
        p, n = blank.length.shape
        state = smc.start(keys, blank, n)
        state = state._replace(t=state.t - 1)
        never = smc.when(smc.never, self.rules.resampler)
        state, stay, resampled, row_keys = smc.resample(
            _generation(keys, state.t + 1), state, never, move=lambda x, _: x
        )
        flight = begin(blank, self.rules.settings.budget)
        return Pool(state, flight, stay, resampled, keys, row_keys, busy)

    def _settle(
        self, sources: Sources, told: tuple, context: Context, pool: Pool
    ) -> tuple[Pool, Snapshot]:
        """Weighs the steps that are written, resamples, and begins the next ones."""
        budget, state = self.rules.settings.budget, pool.state
        x = land(state.particles, pool.flight, state.particles.policy_cache, budget)
        for text in told:
            x = foreign.ended(x, text) if isinstance(text, foreign.Text) else x
        x, log_g = weighed(x, self.reward(sources, context, told), self.rules.settings)
        state = state._replace(particles=x)
        state, info = smc.weighed(state, log_g, pool.ancestors, pool.resampled)
        found = snapshot(state, info, budget.step_tokens)
        busy = pool.busy & ~jnp.all(x.finished, axis=1)
        state, ancestors, resampled, row_keys = smc.resample(
            _generation(pool.keys, state.t + 1), state, self.rules.resampler, self.rules.move
        )
        flight = begin(state.particles, budget)
        return Pool(state, flight, ancestors, resampled, pool.keys, row_keys, busy), found


def _generation(keys: Key[Array, " p"], t: Int[Array, " p"]) -> Key[Array, " p"]:
    """The keys of generation t[p], as the runners of pfjax.smc make them."""
    return jax.vmap(jax.random.fold_in)(keys, t)
