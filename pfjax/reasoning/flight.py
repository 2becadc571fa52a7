"""Steps in progress: every particle of every problem writes its next step, token by token.

    flight = begin(x)                                 nothing written yet
    cache, flight = block(...)                        at most `tokens` more tokens for every row
    x = land(x, flight)                               the step becomes part of the solution

A row stops at the delimiter, at EOS, at a closed \\boxed{}, or at a budget. Token j of a row's step is
drawn with fold_in(row key, j), so that neither blocks nor the rest of the batch change it (in full
precision caches). Inside a block the caches are only read: new keys and values go to a small buffer
at one scalar column and are committed behind each row's suffix when the block ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import gathered
from pfjax.reasoning import automaton
from pfjax.reasoning.particles import Particles
from pfjax.reasoning.sampling import Sampling, draw, log_probs

BLOCK = 16


class Budget(NamedTuple):
    """Tokens of a step, tokens of a solution, steps of a solution."""

    step_tokens: int = 16
    max_tokens: int = 96
    max_steps: int = 12

    @property
    def block(self) -> int:
        """Tokens between two looks at which rows are done."""
        return min(self.step_tokens, BLOCK)

    @property
    def slack(self) -> int:
        """Cache columns behind the tokens of a step that a block's end may touch."""
        return -(-self.step_tokens // self.block) * self.block


class Flight(NamedTuple):
    """The step in progress of every row; `count` of `tokens` are written."""

    tokens: Int[Array, "p n t"]
    count: Int[Array, "p n"]
    last: Int[Array, "p n"]
    log_prob: Float[Array, "p n"]
    done: Bool[Array, "p n"]
    finished: Bool[Array, "p n"]
    stop: automaton.StopState


class Writer(NamedTuple):
    """What writes: the policy, the prompts, and the rules."""

    policy: Decoder
    prefix: cache.Prefix
    table: automaton.StopTable
    sampling: Sampling
    budget: Budget


def begin(x: Particles, budget: Budget) -> Flight:
    """No tokens yet; finished particles are done."""
    rows = x.length.shape
    return Flight(
        tokens=jnp.zeros((*rows, budget.step_tokens), jnp.int32),
        count=jnp.zeros(rows, jnp.int32),
        last=x.last,
        log_prob=jnp.zeros(rows, jnp.float32),
        done=x.finished,
        finished=x.finished,
        stop=x.stop._replace(step=jnp.zeros(rows, jnp.int32)),
    )


def block(
    writer: Writer,
    keys: Key[Array, "p n"],
    length: Int[Array, "p n"],
    kv: cache.KV,
    flight: Flight,
    slots: int | None = None,
) -> tuple[cache.KV, Flight]:
    """Up to budget.block more tokens for rows that are not done.

    `length` are the tokens before the step. With `slots` < n only that many rows of each problem
    write, the first ones that are not done; the others wait for a later block. Blocks are shorter
    then, since a slot stays empty from the end of its row's step to the end of the block.
    """
    n, tokens = length.shape[1], writer.budget.block
    if slots is None or slots >= n:
        buffer, after = _write(writer, keys, length, kv, flight, tokens)
        return cache.commit(kv, buffer, length + flight.count), after
    rows = jnp.argsort(flight.done, axis=1, stable=True)[:, :slots]
    tokens = BLOCK // 2 if tokens == BLOCK else tokens
    keys, length, own, begun = smc.gather((keys, length, kv, flight), rows)
    buffer, after = _write(writer, keys, length, own, begun, tokens)
    part = cache.commit(own, buffer, length + begun.count)
    return put_rows((kv, flight), (part, after), rows)


def put_rows(tree: PyTree[Array], part: PyTree[Array], rows: Int[Array, "p m"]) -> PyTree[Array]:
    """`part` in the rows `rows` of each problem."""
    write = jax.vmap(lambda x, new, i: x.at[i].set(new, unique_indices=True))
    return jax.tree.map(lambda x, new: write(x, new, rows), tree, part)


class _Loop(NamedTuple):
    column: Int[Array, ""]
    flight: Flight
    buffer: cache.KV


def _write(
    writer: Writer, keys, length, kv: cache.KV, start: Flight, tokens: int
) -> tuple[cache.KV, Flight]:
    policy, prefix, table, sampling, budget = writer
    split = jax.vmap(jax.vmap(jax.random.fold_in))
    cached = length + start.count

    def token(s: _Loop) -> _Loop:
        f = s.flight
        hidden, buffer = cache.extend(
            policy, f.last[..., None], prefix, kv, cached, s.buffer, s.column
        )
        logp = log_probs(gathered(policy.logits(hidden[:, :, 0])), sampling)
        drawn = draw(split(keys, f.count), logp)
        chosen = jnp.take_along_axis(logp, drawn[..., None], axis=-1)[..., 0]
        stop, ended, finished = automaton.advance(table, f.stop, drawn, f.count == 0)
        live = ~f.done
        count = f.count + live.astype(jnp.int32)
        column = jax.lax.broadcasted_iota(jnp.int32, f.tokens.shape, 2) == f.count[..., None]
        full = (length + count >= budget.max_tokens) | (count >= budget.step_tokens)
        flight = Flight(
            tokens=jnp.where(column & live[..., None], drawn[..., None], f.tokens),
            count=count,
            last=jnp.where(live, drawn, f.last),
            log_prob=f.log_prob + jnp.where(live, chosen, 0.0),
            done=f.done | ended | full,
            finished=f.finished | (live & finished),
            stop=jax.tree.map(lambda new, old: jnp.where(live, new, old), stop, f.stop),
        )
        return _Loop(s.column + 1, flight, buffer)

    buffer = cache.empty(policy.config, length.shape, tokens, prefix.kv.k[0].dtype)
    loop = _Loop(jnp.zeros((), jnp.int32), start, buffer)
    more = lambda s: (s.column < tokens) & ~jnp.all(s.flight.done)  # noqa: E731
    loop = jax.lax.while_loop(more, token, loop)
    return loop.buffer, loop.flight


def land(x: Particles, flight: Flight, kv: cache.KV, budget: Budget) -> Particles:
    """Every particle that wrote with one more step; the others as they were."""
    moved = flight.count > 0
    length = x.length + flight.count
    over = (length >= budget.max_tokens) & ~flight.finished & moved
    num_steps = x.num_steps + moved.astype(jnp.int32)
    steps = jnp.arange(budget.max_steps, dtype=jnp.int32)[None, None]
    new_end = (steps == (num_steps - 1)[..., None]) & moved[..., None]
    out_of_steps = (num_steps >= budget.max_steps) & ~flight.finished
    return x._replace(
        tokens=_place(x.tokens, flight.tokens, x.length),
        length=length,
        last=flight.last,
        step_end=jnp.where(new_end, length[..., None], x.step_end),
        num_steps=num_steps,
        new_tokens=flight.count,
        log_prob=x.log_prob + flight.log_prob,
        finished=flight.finished | over | out_of_steps,
        truncated=x.truncated | over | out_of_steps,
        stop=flight.stop,
        policy_cache=kv,
    )


def _place(tokens: Int[Array, "p n s"], new: Int[Array, "p n t"], at: Int[Array, "p n"]):
    put = jax.vmap(jax.vmap(lambda row, part, i: jax.lax.dynamic_update_slice(row, part, (i,))))
    return put(tokens, new, at)
