"""Tokens of steps in progress: every particle of every problem writes its next step.

A row stops at the delimiter, at EOS, at a closed \\boxed{}, or at a budget. Token j of a row's step is
drawn with fold_in(row key, j), so that neither blocks nor the rest of the batch change it (in full
precision caches). Inside a block the caches are only read: new keys and values go to a small buffer
at one scalar column and are committed behind each row's suffix when the block ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from pfjax import smc
from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import gathered
from pfjax.reasoning import automaton
from pfjax.reasoning.drawing import draw, log_probs
from pfjax.reasoning.flight import Flight, put_rows
from pfjax.reasoning.particles import Particles
from pfjax.settings.budget import BLOCK, Budget
from pfjax.settings.sampling import Sampling


class Writer(NamedTuple):
    """What writes: the policy, the prompts, and the rules."""

    policy: Decoder
    prefix: cache.Prefix
    table: automaton.StopTable
    sampling: Sampling
    budget: Budget


def block(
    writer: Writer,
    keys: Key[Array, "p n"],
    x: Particles,
    kv: cache.KV,
    flight: Flight,
    *,
    slots: int | None = None,
) -> tuple[cache.KV, Flight]:
    """Up to budget.block more tokens for rows that are not done.

    x are the particles before the step, whose caches are `kv`. With `slots` < n only that many rows
    of each problem write, the first ones that are not done; the others wait for a later block. Blocks
    are shorter then, since a slot stays empty from the end of its row's step to the end of the block.
    """
    n, tokens = x.length.shape[1], writer.budget.block
    if slots is None or slots >= n:
        buffer, after = _write(writer, keys, x.length, kv, flight, tokens=tokens)
        return cache.commit(kv, buffer, x.length + flight.count), after
    rows = jnp.argsort(flight.done, axis=1, stable=True)[:, :slots]
    tokens = BLOCK // 2 if tokens == BLOCK else tokens
    keys, length, own, begun = smc.gather((keys, x.length, kv, flight), rows)
    buffer, after = _write(writer, keys, length, own, begun, tokens=tokens)
    part = cache.commit(own, buffer, length + begun.count)
    # A row that is done may have no room for a block behind it: it is put past the last, that is nowhere.
    rows = jnp.where(begun.done, n + jnp.arange(slots, dtype=rows.dtype), rows)
    return put_rows((kv, flight), (part, after), rows)


def _write(
    writer: Writer, keys, length, kv: cache.KV, flight: Flight, *, tokens: int
) -> tuple[cache.KV, Flight]:
    policy, prefix = writer.policy, writer.prefix
    cached = length + flight.count

    def token(state):
        column, flight, buffer = state
        last = flight.last[..., None]
        hidden, buffer = cache.extend(policy, last, prefix, kv, cached, buffer, column)
        logits = policy.logits(hidden[:, :, 0])
        return column + 1, _drawn(writer, keys, length, flight, logits), buffer

    buffer = cache.empty(policy.config, cached.shape, tokens, prefix.kv.k[0].dtype)
    state = (jnp.zeros((), jnp.int32), flight, buffer)
    more = lambda s: (s[0] < tokens) & ~jnp.all(s[1].done)  # noqa: E731
    _, flight, buffer = jax.lax.while_loop(more, token, state)
    return buffer, flight


def _drawn(
    writer: Writer, keys: Key[Array, "p n"], length: Int[Array, "p n"], f: Flight, logits: Array
) -> Flight:
    """The flight with one more token of every row that is not done."""
    split = jax.vmap(jax.vmap(jax.random.fold_in))
    logp = log_probs(gathered(logits), writer.sampling)
    drawn = draw(split(keys, f.count), logp)
    chosen = jnp.take_along_axis(logp, drawn[..., None], axis=-1)[..., 0]
    stop, ended, finished = automaton.advance(writer.table, f.stop, drawn, f.count == 0)
    # Logits that are not numbers have no token: the row is over, and NaN tells `weighed` to kill it.
    lost = ~f.done & ~jnp.isfinite(chosen)
    live, budget = ~f.done & ~lost, writer.budget
    count = f.count + live.astype(jnp.int32)
    column = jax.lax.broadcasted_iota(jnp.int32, f.tokens.shape, 2) == f.count[..., None]
    full = (length + count >= budget.max_tokens) | (count >= budget.step_tokens)
    return Flight(
        tokens=jnp.where(column & live[..., None], drawn[..., None], f.tokens),
        count=count,
        last=jnp.where(live, drawn, f.last),
        log_prob=f.log_prob + jnp.where(live, chosen, jnp.where(lost, jnp.nan, 0.0)),
        done=f.done | ended | full | lost,
        finished=f.finished | (live & finished) | lost,
        stop=jax.tree.map(lambda new, old: jnp.where(live, new, old), stop, f.stop),
    )
