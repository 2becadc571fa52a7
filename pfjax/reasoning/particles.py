"""The state of a partial solution.

Token ids are kept as they were sampled and never re-tokenised. `length` tokens of `tokens` are
real; the last of them is not in the policy's cache yet, it is fed first in the next step. Knows
nothing of how steps are proposed or weighed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pfjax.models import cache
from pfjax.models.config import DecoderConfig
from pfjax.reasoning import automaton
from pfjax.settings.budget import Budget

MOST_COMPARED = 1024


class Particles(NamedTuple):
    """p problems x n particles; s solution tokens and m steps at most.

    `history` is the first row of the problem with the same tokens when the newest step was done; rows
    with the same one are alike until they write again. It is a row's own number if it wrote no step then,
    or if there are more than `MOST_COMPARED` rows.
    `new_tokens` and `new_reward_tokens` count what policy and reward model processed in the newest
    generation, `new_reward_calls` values that the host was asked for. `log_g` is log G of the newest
    generation, so that a particle that is weighed again (the reference of a conditional filter)
    weighs the same.
    """

    tokens: Int[Array, "p n s"]
    length: Int[Array, "p n"]
    last: Int[Array, "p n"]
    step_end: Int[Array, "p n m"]
    num_steps: Int[Array, "p n"]
    history: Int[Array, "p n"]
    scored: Int[Array, "p n"]
    new_tokens: Int[Array, "p n"]
    new_reward_tokens: Int[Array, "p n"]
    new_reward_calls: Int[Array, "p n"]
    log_prob: Float[Array, "p n"]
    value: Float[Array, "p n"]
    aggregate: Float[Array, "p n"]
    log_g: Float[Array, "p n"]
    finished: Bool[Array, "p n"]
    truncated: Bool[Array, "p n"]
    stop: automaton.StopState
    policy_cache: cache.KV
    reward_state: PyTree[Array]


def empty(
    config: DecoderConfig,
    last: Int[Array, " p"],
    active: Bool[Array, " p"],
    n: int,
    *,
    budget: Budget,
    columns: int,
    reward_state: PyTree[Array],
    dtype=jnp.float32,
) -> Particles:
    """Solutions of no tokens, with a policy cache of `columns`.

    `last` is each problem's last prompt token. Problems that are not `active` are padding.
    """
    rows = (last.shape[0], n)
    zeros = jnp.zeros(rows, jnp.int32)
    floats = jnp.zeros(rows, jnp.float32)
    return Particles(
        tokens=jnp.zeros((*rows, budget.max_tokens + budget.step_tokens), jnp.int32),
        length=zeros,
        last=jnp.broadcast_to(last[:, None], rows),
        step_end=jnp.zeros((*rows, budget.max_steps), jnp.int32),
        num_steps=zeros,
        history=zeros,
        scored=zeros,
        new_tokens=zeros,
        new_reward_tokens=zeros,
        new_reward_calls=zeros,
        log_prob=floats,
        value=floats,
        aggregate=floats,
        log_g=floats,
        finished=jnp.broadcast_to(~active[:, None], rows),
        truncated=jnp.zeros(rows, bool),
        stop=automaton.start(rows),
        policy_cache=cache.empty(config, rows, columns, dtype),
        reward_state=reward_state,
    )


def alike(x: Particles) -> Int[Array, "p n"]:
    """`history` by comparing whole solutions: for particles that did not stay in their rows."""
    columns = jax.lax.broadcasted_iota(jnp.int32, x.tokens.shape, 2)
    tokens = jnp.where(columns < x.length[..., None], x.tokens, -1)
    return first_alike(jnp.zeros_like(x.length), tokens, x.num_steps > x.scored)


def last_step(x: Particles, width: int) -> tuple[Int[Array, "p n w"], Int[Array, "p n"]]:
    """(tokens, count) of the newest step of every particle, in `width` columns."""
    before = jnp.maximum(x.num_steps - 2, 0)
    start = jnp.take_along_axis(x.step_end, before[..., None], axis=2)[..., 0]
    start = jnp.where(x.num_steps >= 2, start, 0)
    columns = start[..., None] + jnp.arange(width, dtype=jnp.int32)[None, None]
    columns = jnp.minimum(columns, x.tokens.shape[2] - 1)
    return jnp.take_along_axis(x.tokens, columns, axis=2), x.length - start


def last_tokens(x: Particles, count: int) -> Int[Array, "p n count"]:
    """The last tokens of every solution, -1 in front of its first one."""
    columns = x.length[..., None] + jnp.arange(-count, 0, dtype=jnp.int32)[None, None]
    tokens = jnp.take_along_axis(x.tokens, jnp.maximum(columns, 0), axis=2)
    return jnp.where(columns >= 0, tokens, -1)


def first_alike(
    history: Int[Array, "p n"], tokens: Int[Array, "p n t"], among: Bool[Array, "p n"]
) -> Int[Array, "p n"]:
    """The first row `among` those with the same history and the same new tokens; itself for the rest.

    More rows than `MOST_COMPARED` are not compared: n^2 pairs would take longer than what they save.

    >>> among = jnp.array([[False, True, True, True]])
    >>> first_alike(jnp.array([[0, 0, 2, 0]]), jnp.full((1, 4, 3), 7), among).tolist()
    [[0, 1, 2, 1]]
    """
    itself = jnp.broadcast_to(jnp.arange(history.shape[1], dtype=jnp.int32)[None], history.shape)
    if history.shape[1] > MOST_COMPARED:
        return itself
    alike = jnp.all(tokens[:, :, None] == tokens[:, None], axis=3)
    alike &= (history[:, :, None] == history[:, None]) & among[:, None]
    return jnp.where(among, jnp.argmax(alike, axis=2).astype(jnp.int32), itself)
