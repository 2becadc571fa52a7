"""Propose one reasoning step for every particle: M_t of the Feynman-Kac model.

    x_t ~ prod_j p(token_j | prompt, tokens_<j)      until the step ends

p is the policy at its temperature and top-p. All rows advance together in one `lax.while_loop`; a
row stops at the delimiter, at EOS, at a closed \\boxed{}, or at the step budget. Token j of a row
is drawn with fold_in(row key, j).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import gathered
from pfjax.reasoning import automaton
from pfjax.reasoning.particles import Particles


class Sampling(NamedTuple):
    """How tokens are drawn.

    Softmax(logits / temperature), cut to the smallest set of mass top_p.
    """

    temperature: float = 1.0
    top_p: float = 1.0


class Budget(NamedTuple):
    """Tokens of a step, tokens of a solution, steps of a solution."""

    step_tokens: int = 16
    max_tokens: int = 96
    max_steps: int = 12


class _Loop(NamedTuple):
    column: Int[Array, ""]
    last: Int[Array, "p n"]
    tokens: Int[Array, "p n t"]
    count: Int[Array, "p n"]
    log_prob: Float[Array, "p n"]
    done: Bool[Array, "p n"]
    finished: Bool[Array, "p n"]
    stop: automaton.StopState
    buffer: cache.KV


def log_probs(logits: Float[Array, "*b v"], sampling: Sampling) -> Float[Array, "*b v"]:
    """float32 log-probabilities of the sampled distribution.

    -inf outside the top-p set (Holtzman et al. 2020).
    """
    logp = jax.nn.log_softmax(logits.astype(jnp.float32) / sampling.temperature)
    if sampling.top_p >= 1.0:
        return logp
    ordered = jnp.sort(logp, axis=-1, descending=True)
    mass_before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)
    kept = jnp.where(mass_before < sampling.top_p, ordered, jnp.inf)
    logp = jnp.where(logp >= jnp.min(kept, axis=-1, keepdims=True), logp, -jnp.inf)
    return jax.nn.log_softmax(logp)


def draw(keys: Key[Array, "p n"], logp: Float[Array, "p n v"]) -> Int[Array, "p n"]:
    """One token a row by inverting the distribution function.

    One uniform a row, never a token of probability 0.
    """
    mass = jnp.cumsum(jnp.exp(logp), axis=-1)
    total = mass[..., -1]
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key)))(keys)
    # float32 may round u * total up to total, which no entry exceeds.
    level = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    return jnp.sum(mass <= level[..., None], axis=-1, dtype=jnp.int32)


def propose(
    policy: Decoder,
    prefix: cache.Prefix,
    table: automaton.StopTable,
    sampling: Sampling,
    budget: Budget,
    keys: Key[Array, "p n"],
    x: Particles,
) -> Particles:
    """Every unfinished particle with one more step; finished ones stay as they are."""
    loop = _decode(policy, prefix, table, sampling, budget, keys, x)
    moved = loop.count > 0
    length = x.length + loop.count
    over = (length >= budget.max_tokens) & ~loop.finished & moved
    num_steps = x.num_steps + moved.astype(jnp.int32)
    steps = jnp.arange(budget.max_steps, dtype=jnp.int32)[None, None]
    new_end = (steps == (num_steps - 1)[..., None]) & moved[..., None]
    out_of_steps = (num_steps >= budget.max_steps) & ~loop.finished
    return x._replace(
        tokens=_place(x.tokens, loop.tokens, x.length),
        length=length,
        last=loop.last,
        step_end=jnp.where(new_end, length[..., None], x.step_end),
        num_steps=num_steps,
        new_tokens=loop.count,
        log_prob=x.log_prob + loop.log_prob,
        finished=loop.finished | over | out_of_steps,
        truncated=x.truncated | over | out_of_steps,
        stop=loop.stop,
        policy_cache=cache.commit(x.policy_cache, loop.buffer, x.length),
    )


def _decode(policy, prefix, table, sampling, budget, keys, x: Particles) -> _Loop:
    rows, width = x.length.shape, budget.step_tokens
    split = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))

    def body(s: _Loop) -> _Loop:
        hidden, buffer = cache.extend(
            policy, s.last[..., None], prefix, x.policy_cache, x.length, s.buffer, s.column
        )
        logits = gathered(policy.logits(hidden[:, :, 0]))
        logp = log_probs(logits, sampling)
        token = draw(split(keys, s.column), logp)
        chosen = jnp.take_along_axis(logp, token[..., None], axis=-1)[..., 0]
        stop, ended, finished = automaton.advance(table, s.stop, token, s.count == 0)
        live = ~s.done
        count = s.count + live.astype(jnp.int32)
        column = jax.lax.broadcasted_iota(jnp.int32, s.tokens.shape, 2) == s.column
        full = (x.length + count >= budget.max_tokens) | (count >= width)
        return _Loop(
            column=s.column + 1,
            last=jnp.where(live, token, s.last),
            tokens=jnp.where(column & live[..., None], token[..., None], s.tokens),
            count=count,
            log_prob=s.log_prob + jnp.where(live, chosen, 0.0),
            done=s.done | ended | full,
            finished=s.finished | (live & finished),
            stop=jax.tree.map(lambda new, old: jnp.where(live, new, old), stop, s.stop),
            buffer=buffer,
        )

    dtype = x.policy_cache.k[0].dtype
    start = _Loop(
        column=jnp.zeros((), jnp.int32),
        last=x.last,
        tokens=jnp.zeros((*rows, width), jnp.int32),
        count=jnp.zeros(rows, jnp.int32),
        log_prob=jnp.zeros(rows, jnp.float32),
        done=x.finished,
        finished=x.finished,
        stop=x.stop._replace(step=jnp.zeros(rows, jnp.int32)),
        buffer=cache.empty(policy.config, rows, width, dtype),
    )
    return jax.lax.while_loop(lambda s: ~jnp.all(s.done) & (s.column < width), body, start)


def _place(tokens: Int[Array, "p n s"], new: Int[Array, "p n t"], at: Int[Array, "p n"]):
    put = jax.vmap(jax.vmap(lambda row, part, i: jax.lax.dynamic_update_slice(row, part, (i,))))
    return put(tokens, new, at)
