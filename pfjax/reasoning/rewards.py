"""Where the value of a partial solution comes from: v_t for every particle, new tokens only.

A RewardModel is a pair of functions over batches of particles:

    init(p, n)        -> state                     any pytree with leading axes [p, n]; moves with the particles
    score(state, x)   -> (state, v[p, n], cost)    values of the newest steps; cost[p, n] tokens were processed

`process_reward` runs a PRM incrementally against its own KV cache: the step's tokens without the
delimiter, then the probe token, whose cache entry is kept (the form of Qwen2.5-Math-PRM).
`from_function` lifts any jax function of the tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from pfjax.models import cache
from pfjax.models.prm import ProcessRewardModel
from pfjax.reasoning.particles import Particles, last_step


class RewardModel(NamedTuple):
    """See the module docstring."""

    init: Callable[[int, int], PyTree[Array]]
    score: Callable[[PyTree[Array], Particles], tuple[PyTree[Array], Array, Array]]


class StripTable(NamedTuple):
    """How a step's tokens lose their delimiter: `bare[v]` is token v without it, -1 if nothing is
    left.

    `partial[v]` marks tokens made of delimiter bytes only; they are dropped when the delimiter is
    spread over tokens.
    """

    bare: Int[Array, " v"]
    partial: Bool[Array, " v"]


class PRMState(NamedTuple):
    """A particle's committed PRM cache and how many of its columns are real."""

    kv: cache.KV
    length: Int[Array, "p n"]


def none() -> RewardModel:
    """Every value is 0 and costs nothing: plain sampling from the policy."""

    def score(state, x):
        return state, jnp.zeros_like(x.value), jnp.zeros_like(x.length)

    return RewardModel(lambda p, n: (), score)


def from_function(value: Callable[[Array, Array], Array]) -> RewardModel:
    """Values from `value(tokens int32[s], length int32[]) -> float32[]`, a pure function of one
    solution.
    """

    def score(state, x):
        return state, jax.vmap(jax.vmap(value))(x.tokens, x.length), jnp.zeros_like(x.length)

    return RewardModel(lambda p, n: (), score)


def strip_table(
    token_bytes: list[bytes], eos_ids: list[int], delimiter: str = "\n\n"
) -> StripTable:
    """The table for a vocabulary; a token whose bare form is not a token keeps its id."""
    end = delimiter.encode()
    ids = {data: i for i, data in reversed(list(enumerate(token_bytes))) if data}
    bare = np.arange(len(token_bytes), dtype=np.int32)
    partial = np.zeros(len(token_bytes), bool)
    for i, data in enumerate(token_bytes):
        if data.endswith(end):
            rest = data[: -len(end)]
            bare[i] = ids.get(rest, i) if rest else -1
        partial[i] = bool(data) and set(data) <= set(end) and len(data) < len(end)
    bare[eos_ids] = -1
    return StripTable(jnp.asarray(bare), jnp.asarray(partial))


def strip(
    table: StripTable, tokens: Int[Array, "p n w"], count: Int[Array, "p n"]
) -> tuple[Int[Array, "p n w"], Int[Array, "p n"]]:
    """A step's tokens without its delimiter, and how many are left."""
    columns = jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None]
    last = columns == (count - 1)[..., None]
    ending = jnp.sum(jnp.where(last, tokens, 0), axis=2)
    bare = table.bare[ending]
    tokens = jnp.where(last & (bare >= 0)[..., None], bare[..., None], tokens)
    dropped = (bare < 0).astype(jnp.int32)
    # A delimiter spread over single-byte tokens: drop the run of partial tokens that ends the step, two at most.
    before = jnp.sum(jnp.where(columns == (count - 2)[..., None], tokens, 0), axis=2)
    spread = table.partial[ending] & table.partial[before] & (count >= 2)
    return tokens, count - jnp.where(spread, 2, dropped)


def process_reward(
    prm: ProcessRewardModel,
    prefix: cache.Prefix,
    strip_by: StripTable,
    probe: int,
    *,
    step_tokens: int,
    columns: int,
) -> RewardModel:
    """A PRM with the policy's tokenizer, scored incrementally in two blocks of half the step
    budget.

    `columns` bounds a solution's PRM tokens (tokens and probes). The value is the float32 log-odds
    at the probe. A block is skipped when every row's step ends before it.
    """
    block = -(-(step_tokens + 1) // 2)
    width = 2 * block
    dtype = prefix.kv.k[0].dtype

    def init(p: int, n: int) -> PRMState:
        kv = cache.empty(prm.config, (p, n), columns + width, dtype)
        return PRMState(kv, jnp.zeros((p, n), jnp.int32))

    def score(state: PRMState, x: Particles):
        tokens, count = strip(strip_by, *last_step(x, width))
        new = x.num_steps > x.scored
        count = jnp.where(new, count + 1, 0)
        at = jnp.arange(width, dtype=jnp.int32)[None, None]
        tokens = jnp.where(at == (count - 1)[..., None], probe, tokens)
        value, buffer = _blocks(prm, prefix, state, tokens, count, block)
        kv = cache.commit(state.kv, buffer, state.length)
        return PRMState(kv, state.length + count), jnp.where(new, value, x.value), count

    return RewardModel(init, score)


def widen(state: PRMState, columns: int, step_tokens: int) -> PRMState:
    """A state whose cache holds `columns` and one step more."""
    block = -(-(step_tokens + 1) // 2)
    return state._replace(kv=cache.widen(state.kv, columns + 2 * block))


def _blocks(prm, prefix, state: PRMState, tokens, count, block: int):
    """(value at each row's last token, filled buffer), looping only over blocks that some row
    needs.
    """
    rows, width = tokens.shape[:2], tokens.shape[2]
    longest = jnp.max(count)
    columns = jnp.arange(block, dtype=jnp.int32)[None, None]

    def body(carry):
        start, probed, buffer = carry
        part = jax.lax.dynamic_slice_in_dim(tokens, start, block, axis=2)
        hidden, buffer = cache.extend(
            prm.decoder, part, prefix, state.kv, state.length, buffer, start
        )
        here = (start + columns) == (count - 1)[..., None]
        probed = probed + jnp.sum(jnp.where(here[..., None], hidden, 0.0), axis=2)
        return start + block, probed, buffer

    dtype = state.kv.k[0].dtype
    buffer = cache.empty(prm.config, rows, width, dtype)
    probed = jnp.zeros((*rows, prm.config.hidden_size), dtype)
    carry = (jnp.zeros((), jnp.int32), probed, buffer)
    _, probed, buffer = jax.lax.while_loop(lambda c: c[0] < longest, body, carry)
    return prm.margin(probed), buffer
