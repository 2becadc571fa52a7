"""The engine of pfjax as gpu.py calls it: the only file of the benchmark that knows its insides.

Particles come from `particles.empty`, loops from `propose` and `rewards.process_reward`, whole
generations from the engine's entry point. Caches are normal numbers, in the tables no token ends a step.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import prod
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from gpu_models import BUDGET, DTYPE, PROMPT, SMALL_BUDGET

from pfjax import smc
from pfjax.bench import endless, filled
from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context, Pool
from pfjax.engine.programs import Rules
from pfjax.models import cache
from pfjax.plan.shapes import nbytes
from pfjax.reasoning import Budget, Sampling, Settings, flight, particles, passes, rewards, writing
from pfjax.reasoning.propose import propose
from pfjax.reasoning.sources import Sources, plain
from pfjax.search import methods

Patches = tuple[tuple[object, str, Callable], ...]


class Case(NamedTuple):
    """Models, prompts' caches and particles; `state` holds p problems x n particles."""

    policy: nnx.Module
    prm: nnx.Module | None
    context: Context
    state: smc.State
    settings: Settings


def case(small: bool, policy: nnx.Module, prm: nnx.Module | None, rows: int) -> Case:
    """Problems of 32 particles each, one step short of a full cache; `rows` particles in all."""
    budget = SMALL_BUDGET if small else BUDGET
    settings = Settings(Sampling(), budget, methods.find("pf").weighing(1.0))
    n = min(rows, 32)
    build = partial(_blank, policy.config, prm and prm.config, rows // n, n, budget)
    context, x = filled(jax.eval_shape(build))
    done = budget.max_tokens // budget.step_tokens - 1
    length = done * budget.step_tokens
    ends = budget.step_tokens * jnp.arange(1, budget.max_steps + 1, dtype=jnp.int32)
    x = x._replace(
        length=jnp.full_like(x.length, length),
        step_end=jnp.broadcast_to(jnp.where(ends <= length, ends, 0), x.step_end.shape),
        num_steps=jnp.full_like(x.num_steps, done),
        scored=jnp.full_like(x.scored, done),
        # No row is a copy of another.
        history=x.history + jnp.arange(n, dtype=jnp.int32)[None],
    )
    if prm is not None:
        (read,), used = x.reward_state, jnp.full_like(x.length, length + done)
        x = x._replace(reward_state=(read._replace(length=used),))
    log_w = jax.nn.log_softmax(jax.random.normal(jax.random.key(2), x.length.shape))
    state = smc.start(jax.random.split(jax.random.key(3), len(log_w)), x, n)
    state = state._replace(log_weights=log_w, t=state.t + done - 1)
    policy_prefix = _prompted(context.policy, PROMPT - 1, budget)
    prompts = tuple(_prompted(prompt, PROMPT, budget) for prompt in context.prm)
    context = Context(policy_prefix, prompts, context.job)
    return Case(policy, prm, context, state, settings)


def _blank(config, prm_config, p: int, n: int, budget: Budget):
    """(prompts' caches, blank particles) of one step more than the budget, as the engine has them."""

    def prefix(config):
        length = jnp.zeros(p, jnp.int32)
        return cache.Prefix(cache.empty(config, (p,), PROMPT, DTYPE), length, length)

    prompts = (prefix(prm_config),) if prm_config else ()
    context, reward = Context(prefix(config), prompts, jnp.zeros(p, jnp.int32)), ()
    if prm_config:
        columns = budget.max_tokens + budget.max_steps + prod(passes.blocks(budget.step_tokens))
        kv = cache.empty(prm_config, (p, n), columns, DTYPE)
        reward = (passes.PRMState(kv, jnp.zeros((p, n), jnp.int32)),)
    return context, particles.empty(
        config,
        jnp.zeros(p, jnp.int32),
        jnp.ones(p, bool),
        n,
        budget=budget,
        columns=budget.max_tokens + budget.slack,
        reward_state=reward,
        dtype=DTYPE,
    )


def decode(case: Case, patches: Patches = ()):
    """(lowered token loop of one step, its arguments)."""
    graph, params = nnx.split(case.policy)
    settings, (stop, _) = case.settings, endless(case.policy.config.vocab_size)

    def run(params, stop, prefix, keys, x):
        policy = nnx.merge(graph, params)
        writer = writing.Writer(policy, prefix, stop, settings.sampling, settings.budget)
        return propose(writer, keys, x)

    x = case.state.particles
    keys = jax.random.split(jax.random.key(3), x.length.shape)
    return _lower(run, patches, params, stop, case.context.policy, keys, x)


def score(case: Case):
    """(lowered scoring of a step of every row by the PRM, its arguments)."""
    graph, params = nnx.split(case.prm)
    x, budget = case.state.particles, case.settings.budget
    new = jnp.arange(budget.max_steps, dtype=jnp.int32)[None, None] == x.num_steps[..., None]
    x = x._replace(
        length=x.length + budget.step_tokens,
        num_steps=x.num_steps + 1,
        step_end=jnp.where(new, (x.length + budget.step_tokens)[..., None], x.step_end),
        policy_cache=(),
    )

    def run(params, strip, prefix, x):
        prm = nnx.merge(graph, params)
        model = rewards.process_reward(
            prm, prefix, strip, jnp.int32(0), step_tokens=budget.step_tokens, columns=0
        )
        return model.score(x.reward_state[0], x)

    _, strip = endless(case.policy.config.vocab_size)
    return _lower(run, (), params, strip, case.context.prm[0], x)


def gather(case: Case):
    """(lowered copy of the particles that systematic resampling chooses, its arguments)."""
    log_w = case.state.log_weights
    keys = jax.random.split(jax.random.key(4), len(log_w))
    ancestors, _, _ = jax.jit(methods.find("pf").resampler)(keys, log_w, case.state.t)
    return _lower(smc.gather, (), case.state.particles, ancestors)


def engine(case: Case) -> Engine:
    """The search's own programs."""
    stop, strip = endless(case.policy.config.vocab_size)
    method, n = methods.find("pf"), case.state.log_weights.shape[1]
    rules = Rules(case.settings, method.resampler, n, method.move)
    read = Sources() if case.prm is None else plain(case.prm, strip, jnp.int32(0))
    return Engine(case.policy, read, stop, rules)


def step(search: Engine, case: Case):
    """One generation, new tokens told; the particles of `case` are donated."""
    keys = jax.random.split(jax.random.key(5), len(case.state.log_weights))
    x, row_keys = case.state.particles, jax.random.split(keys[0], case.state.log_weights.shape)
    stay = jnp.zeros_like(x.length) + jnp.arange(x.length.shape[1], dtype=jnp.int32)
    # A donated array may stand in one place only.
    begun = jax.tree.map(jnp.copy, flight.begin(x, case.settings.budget))
    no = jnp.zeros(len(keys), bool)
    pool = Pool(case.state, begun, stay, no, keys, row_keys, ~no)
    _, found = search.advance(case.context, pool)
    return found.snapshot.new_tokens


def iterations(x) -> int:
    """Tokens that every row drew; ValueError where some row stopped early."""
    most = int(x.new_tokens.max())
    if int(x.new_tokens.min()) != most:
        raise ValueError("some rows stopped early")
    return most


# What is left out of the loop while it is traced, to see what it costs.
PATCHES: dict[str | None, Patches] = {
    None: (),
    "greedy": (
        (writing, "log_probs", lambda logits, sampling: logits.astype(jnp.float32)),
        (writing, "draw", lambda keys, z: jnp.argmax(z, axis=-1).astype(jnp.int32)),
    ),
    "no attention": ((cache, "attend", lambda q, segments, *, softcap=None: q),),
}


def read_bytes(case: Case) -> int:
    """Allocated columns of prompts and particles that one token iteration reads, step buffers left out."""
    return nbytes((case.context.policy.kv, case.state.particles.policy_cache))


def particle_bytes(case: Case) -> int:
    """Bytes of the particles, nearly all of them caches."""
    return nbytes(case.state.particles)


def _lower(run: Callable, patches: tuple, *arguments):
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        return jax.jit(run).lower(*arguments), arguments


def _prompted(prefix: cache.Prefix, length: int, budget: Budget) -> cache.Prefix:
    real = jnp.full_like(prefix.length, length)
    return prefix._replace(length=real, context=real + budget.prm_tokens)
