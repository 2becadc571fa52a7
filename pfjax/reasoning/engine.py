"""The compiled programs of a search: prefill, step.

Generation 0 is a step from blank particles with equal weights at t = -1: whatever is resampled then
is blank.

Modules are split once; the programs are pure functions of weights and arrays, so a run compiles
each once per shape. With a mesh the problems are sharded over its first axis by `shard_map`, and
every device group runs its own loops. Caches of large batches grow in three levels that depend on
the generation alone. Knows nothing of text, answers or keys' origin.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.prm import RewardModule
from pfjax.models.sharding import over_problems
from pfjax.reasoning import particles, rewards
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.model import Settings, language_model
from pfjax.reasoning.particles import last_step


class Prompts(NamedTuple):
    """Padded prompts of p problems: the policy's without its last token, the PRM's whole."""

    policy: Int[Array, "p t"]
    policy_length: Int[Array, " p"]
    last: Int[Array, " p"]
    prm: Int[Array, "p u"]
    prm_length: Int[Array, " p"]
    active: Bool[Array, " p"]


class Context(NamedTuple):
    """What the steps of one batch share and never change."""

    policy: cache.Prefix
    prm: cache.Prefix | None


LARGE_BATCH = 512


class Snapshot(NamedTuple):
    """What the host keeps of a generation."""

    step: Int[Array, "p n w"]
    new_tokens: Int[Array, "p n"]
    new_reward_tokens: Int[Array, "p n"]
    value: Float[Array, "p n"]
    log_weights: Float[Array, "p n"]
    finished: Bool[Array, "p n"]
    truncated: Bool[Array, "p n"]
    log_prob: Float[Array, "p n"]
    log_evidence: Float[Array, " p"]
    info: smc.Info


class Shared(NamedTuple):
    """Tables over the vocabulary that policy and PRM share, and the PRM's probe token."""

    stop: StopTable
    strip: rewards.StripTable
    probe: Int[Array, ""]


class Engine:
    """Compiled functions for one (policy, PRM, settings, resampler, n).

    `compilations()` counts them.
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
    ):
        self._policy, policy_params = nnx.split(policy)
        self._prm, prm_params = (None, ()) if prm is None else nnx.split(prm)
        self.params: PyTree = (policy_params, prm_params, shared)
        self._settings = settings
        self._resampler, self._n = resampler, n
        self._mesh = mesh
        self._prefill = jax.jit(self._prefill_at, static_argnums=1)
        self._step = jax.jit(over_problems(self._step_fn, mesh, 3), donate_argnums=3)
        self._grow = jax.jit(self._grow_fn, static_argnums=1)

    def prefill(self, prompts: Prompts) -> tuple[Context, smc.State]:
        """Caches of the prompts, and blank particles."""
        level = self._level(0, prompts.last.shape[0], self._n)
        return self._prefill(self.params, level, prompts)

    def step(
        self, context: Context, key: Key[Array, " p"], state: smc.State, t: int
    ) -> tuple[smc.State, Snapshot]:
        """Generation t; `state` is donated."""
        level = self._level(t, *state.log_weights.shape)
        if state.particles.policy_cache.k[0].shape[-1] < level + self._settings.budget.step_tokens:
            state = self._grow(state, level)
        return self._step(self.params, context, key, state)

    def shapes(self, prompts: Prompts, level: int) -> tuple[Context, smc.State]:
        """Abstract caches and particles of abstract prompts, caches at their width for `level`."""
        return jax.eval_shape(partial(self._prefill_fn, level), self.params, prompts)

    def lower_step(self, params: PyTree, context: Context, key, state: smc.State):
        """A step for abstract arguments, to be compiled for devices that are not here."""
        return self._step.lower(params, context, key, state)

    def compilations(self) -> int:
        """How many programs were compiled so far."""
        programs = (self._prefill, self._step, self._grow)
        return sum(f._cache_size() for f in programs)  # pyright: ignore[reportAttributeAccessIssue]

    def _level(self, t: int, p: int, n: int) -> int:
        """Solution tokens that the caches must hold before generation t.

        A third, two thirds or all of the budget.
        """
        budget = self._settings.budget
        if p * n < LARGE_BATCH:
            return budget.max_tokens
        third = -(-budget.max_tokens // 3)
        return min(third * -(-max(t * budget.step_tokens, 1) // third), budget.max_tokens)

    def _columns(self, level: int) -> tuple[int, int]:
        """Cache columns of policy and PRM that hold `level` solution tokens and one step more."""
        budget = self._settings.budget
        return level + budget.step_tokens, level + budget.max_steps

    def _grow_fn(self, state: smc.State, level: int) -> smc.State:
        policy, prm = self._columns(level)
        x, reward = state.particles, state.particles.reward_state
        if isinstance(reward, rewards.PRMState):
            reward = rewards.widen(reward, prm, self._settings.budget.step_tokens)
        x = x._replace(policy_cache=cache.widen(x.policy_cache, policy), reward_state=reward)
        return state._replace(particles=x)

    def _prefill_at(self, params, level: int, prompts: Prompts):
        return over_problems(partial(self._prefill_fn, level), self._mesh, 1)(params, prompts)

    def _prefill_fn(self, level: int, params, prompts: Prompts) -> tuple[Context, smc.State]:
        policy, prm, shared = self._merge(params)
        p, n, budget = prompts.last.shape[0], self._n, self._settings.budget
        prefix = cache.prefill(policy, prompts.policy, prompts.policy_length, budget.max_tokens)
        room = budget.max_tokens + budget.max_steps
        prm_prefix = prm and cache.prefill(prm.decoder, prompts.prm, prompts.prm_length, room)
        context = Context(prefix, prm_prefix)
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
            dtype=prefix.kv.k[0].dtype,
        )
        weights = jnp.full((p, n), -jnp.log(float(n)), jnp.float32)
        evidence, t = jnp.zeros(p, jnp.float32), jnp.full(p, -1, jnp.int32)
        return context, smc.State(blank, weights, evidence, t)

    def _step_fn(self, params, context: Context, key, state: smc.State):
        policy, prm, shared = self._merge(params)
        model = language_model(
            policy,
            context.policy,
            state.particles,
            shared.stop,
            self._reward(prm, shared, context),
            self._settings,
        )
        state, info = smc.particle_filter(model, self._n, self._resampler).step(key, state)
        return state, self._snapshot(state, info)

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
        return Snapshot(
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
        )

    def _merge(self, params) -> tuple[Decoder, RewardModule | None, Shared]:
        policy, prm, shared = params
        return nnx.merge(self._policy, policy), self._prm and nnx.merge(self._prm, prm), shared


def problem_keys(key: Key[Array, ""], ids: list[int]) -> Key[Array, " p"]:
    """One key a problem from its 64-bit id, so that a problem's draws do not depend on its
    batch.
    """
    high = jnp.array([i >> 32 for i in ids], jnp.uint32)
    low = jnp.array([i & 0xFFFFFFFF for i in ids], jnp.uint32)
    fold = jax.vmap(lambda h, lo: jax.random.fold_in(jax.random.fold_in(key, h), lo))
    return fold(high, low)


def step_keys(keys: Key[Array, " p"], t: int) -> Key[Array, " p"]:
    """The keys of generation t, as the runners of pfjax.smc make them."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, t)
