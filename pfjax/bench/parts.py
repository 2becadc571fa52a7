"""The parts of a search, each compiled and timed alone on the arrays that the engine would hold.

Every row writes, is scored, and moves as in the middle of a full step: caches are at their full width,
half of the solution's tokens are written, no token ends a step. Caches are donated and handed on, as
the engine does, so that no copy is timed that a search does not make.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from pfjax import smc
from pfjax.bench.case import Case, endless
from pfjax.bench.fill import filled
from pfjax.bench.operations import operations, prefill_operations
from pfjax.bench.timing import timed
from pfjax.engine.pool import Context, Prompts
from pfjax.engine.run import bucket, pad
from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.plan.devices import Device
from pfjax.plan.roofline import Roofline, roofline
from pfjax.plan.shapes import Workload, nbytes
from pfjax.reasoning import passes, rewards
from pfjax.reasoning.particles import Particles
from pfjax.reasoning.propose import propose
from pfjax.reasoning.sources import Plain
from pfjax.reasoning.writing import Writer


class Part(NamedTuple):
    """Median seconds; tokens, and what those seconds cannot avoid: operations, bytes read and written.

    None where a part has no such figure.
    """

    what: str
    seconds: float
    tokens: int | None
    operations: int | None
    bytes_moved: int | None


def prefill(case: Case, which: str, repeats: int) -> Part:
    """The prompts of a batch through "policy" or "prm"; padding is computed but not counted."""
    prompts, weights = _prompts(case), case.engine.params.policy
    model, merge = case.policy, partial(nnx.merge, case.engine.programs.policy)
    tokens, length = prompts.policy, prompts.policy_length
    if which == "prm":
        model, merge, weights = case.prm, lambda w: _prm(case, w).decoder, _source(case).weights
        (tokens,), (length,) = prompts.prm, prompts.prm_length

    def run(weights, tokens, length):
        return cache.prefill(merge(weights), tokens, length, case.budget.max_tokens)

    program = jax.jit(run).lower(weights, tokens, length).compile()
    seconds = median(timed(partial(program, weights, tokens, length), repeats=repeats))
    lengths = length.tolist()
    what = f"{case.batch} prompts, {min(lengths)} to {max(lengths)} tokens"
    return Part(what, seconds, sum(lengths), prefill_operations(model, lengths), None)


def decode(case: Case, repeats: int) -> Part:
    """One token of every row: the mean over the iterations of a whole step and its commit."""
    context, x = _arrays(case)
    settings = case.engine.programs.rules.settings
    stop, _ = endless(case.policy.config.vocab_size)
    keys = jax.random.split(jax.random.key(3), x.length.shape)

    def run(kv, weights, stop, prefix, keys, x):
        policy = nnx.merge(case.engine.programs.policy, weights)
        writer = Writer(policy, prefix, stop, settings.sampling, case.budget)
        x = propose(writer, keys, x._replace(policy_cache=kv))
        return x.policy_cache, x.new_tokens

    small = x._replace(policy_cache=(), reward_state=())
    call = _donating(
        run, x.policy_cache, case.engine.params.policy, stop, context.policy, keys, small
    )
    new = call()
    iterations = int(new.max())
    if int(new.min()) != iterations:
        raise ValueError("some rows stopped early; give a larger max-tokens.")
    seconds = median(timed(call, repeats=repeats)) / iterations
    needed = ceiling(case, 1.0, 1.0).decode
    what = f"a token of each of {case.rows} rows, of {iterations}"
    return Part(what, seconds, case.rows, needed.operations, needed.bytes_read)


def score(case: Case, repeats: int) -> Part:
    """The PRM on a full step of every row and its probe."""
    context, x = _arrays(case)
    budget, (prefix,) = case.budget, context.prm
    x = x._replace(length=x.length + budget.step_tokens)
    small = x._replace(policy_cache=(), reward_state=())

    def run(kv, weights, strip, prefix, length, x):
        model = rewards.process_reward(
            _prm(case, weights),
            prefix,
            strip,
            jnp.int32(0),
            step_tokens=budget.step_tokens,
            columns=0,
        )
        state, value, cost = model.score(passes.PRMState(kv, length), x)
        return state.kv, (value, cost.tokens)

    (_, strip), (state,) = endless(case.policy.config.vocab_size), x.reward_state
    weights = _source(case).weights
    call = _donating(run, state.kv, weights, strip, prefix, state.length, small)
    tokens = int(call()[1].sum())
    seconds = median(timed(call, repeats=repeats))
    buffer = passes.blocks(budget.step_tokens)
    columns = prefix.kv.k[0].shape[-1] + state.kv.k[0].shape[-1] + buffer[0] * buffer[1]
    needed = operations(case.prm, tokens, columns)
    scoring = ceiling(case, 1.0, 1.0).scoring
    what = f"a step of {budget.step_tokens} tokens and its probe, {case.rows} rows"
    return Part(what, seconds, tokens, needed, scoring and scoring.bytes_read)


def move(case: Case, repeats: int) -> Part | None:
    """Particles with both caches, moved by ancestors of systematic in-place resampling; None
    if none moves.

    Only rows that change are counted, read once and written once.
    """
    _, x = _arrays(case)
    rules = case.engine.programs.rules
    log_w = jax.nn.log_softmax(1.5 * jax.random.normal(jax.random.key(2), x.length.shape))
    keys = jax.random.split(jax.random.key(4), len(log_w))
    t = jnp.ones(len(log_w), jnp.int32)
    ancestors, _, _ = jax.jit(smc.in_place(smc.systematic))(keys, log_w, t)
    changed = int(jnp.sum(ancestors != jnp.arange(case.engine.n, dtype=jnp.int32)[None]))
    if not changed:
        return None

    def run(x, ancestors):
        moved = rules.move(x, ancestors)
        return moved, ()

    row = nbytes(x) // case.rows
    seconds = median(timed(_donating(run, x, ancestors), repeats=repeats))
    what = f"{changed} of {case.rows} rows change, {row / 1e6:.2f} MB each"
    return Part(what, seconds, None, None, 2 * changed * row)


def ceiling(case: Case, bandwidth: float, rate: float) -> Roofline:
    """`pfjax plan`'s formulas for a device of this bandwidth and rate in the case's dtype."""
    peak = rate if jnp.dtype(case.dtype).itemsize == 2 else 2 * rate
    device = Device("this device", 0, bandwidth, peak, peak, 1.0, 1)
    work = Workload(
        policy=case.policy,
        prm=case.prm,
        dtype=case.dtype,
        weight_format=None,
        model=1,
        budget=case.budget,
        prompt_tokens=case.longest,
        particles=case.engine.n,
        problems=case.batch,
    )
    return roofline(work, device, 1)


def _prm(case: Case, weights: PyTree) -> RewardModule:
    return nnx.merge(_source(case).graph, weights)


def _source(case: Case) -> Plain:
    (source,) = case.engine.params.sources.parts
    assert isinstance(source, Plain)
    return source


def _prompts(case: Case) -> Prompts:
    """A full batch: where there are fewer problems than places, prompts come again."""
    chosen = [case.prompts[i % len(case.prompts)] for i in range(case.batch)]
    return pad(chosen, case.batch, bucket(case.longest))


def _arrays(case: Case) -> tuple[Context, Particles]:
    """Prompts' caches and particles in the middle of a solution, at the start of their second step."""
    prompts, budget = _prompts(case), case.budget
    context, pool = case.engine.shapes(prompts, budget.max_tokens)
    context, x = filled((context, pool.state.particles))
    read = (budget.max_tokens, budget.prm_tokens)
    lengths = prompts.policy_length, *prompts.prm_length
    policy, prm = (
        prefix._replace(length=length, context=length + room)
        for prefix, length, room in zip((context.policy, *context.prm), lengths, read, strict=True)
    )
    (state,) = x.reward_state
    half = max((budget.max_tokens - budget.step_tokens) // 2, 0)
    x = x._replace(
        length=x.length + half,
        step_end=x.step_end.at[..., 0].set(half),
        num_steps=x.num_steps + 2,
        scored=x.scored + 1,
        # No row is a copy of another.
        history=x.history + jnp.arange(x.history.shape[1], dtype=jnp.int32)[None],
        reward_state=(state._replace(length=state.length + half + 1),),
    )
    return Context(policy, (prm,), context.job), x


def _donating(run: Callable, held, *arguments) -> Callable:
    """A thunk of run(held, *arguments) -> (held, result) that donates `held` and keeps the new one."""
    program = jax.jit(run, donate_argnums=0).lower(held, *arguments).compile()
    kept = [held]

    def call():
        kept[0], result = program(kept[0], *arguments)
        return result if jax.tree.leaves(result) else kept[0]

    return call
