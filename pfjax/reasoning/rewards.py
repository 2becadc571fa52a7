"""Where the value of a partial solution comes from: v_t for every particle, new tokens only.

A RewardModel is a pair of functions over batches of particles:

    init(p, n)        -> state                     any pytree with leading axes [p, n]; moves with the particles
    score(state, x)   -> (state, v[p, n], cost)    values of the newest steps; cost[p, n] tokens that it adds

`process_reward` runs a PRM incrementally against its own KV cache: the step's tokens without the
delimiter, then the probe token, whose cache entry is kept (the form of Qwen2.5-Math-PRM).
`from_function` lifts any jax function of the tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning import passes
from pfjax.reasoning.particles import Particles, last_step
from pfjax.reasoning.passes import PRMState, blocks


class RewardModel(NamedTuple):
    """See the module docstring."""

    init: Callable[[int, int], PyTree[Array]]
    score: Callable[[PyTree[Array], Particles], tuple[PyTree[Array], Array, Array]]


class StripTable(NamedTuple):
    """How tokens lose the delimiter, from the last one on.

    With the first j + 1 bytes of the delimiter still to drop, token v becomes `bare[j, v]` (-1 if
    nothing is left) and leaves `rest[j, v]` bytes to drop, -1 if the token must stay.
    """

    bare: Int[Array, "d v"]
    rest: Int[Array, "d v"]


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
    """The table for a vocabulary.

    Of tokens with the same bytes the last is taken: encoders prefer pieces to byte fall-backs.
    """
    end = delimiter.encode()
    ids = {data: i for i, data in enumerate(token_bytes) if data}
    bare = np.full((len(end), len(token_bytes)), -1, np.int32)
    rest = np.full((len(end), len(token_bytes)), -1, np.int32)
    for j in range(len(end)):
        todo = end[: j + 1]
        for i, data in enumerate(token_bytes):
            if data.endswith(todo) and (data == todo or data[: -len(todo)] in ids):
                bare[j, i], rest[j, i] = ids.get(data[: -len(todo)], -1), 0
            elif data and todo.endswith(data):
                rest[j, i] = len(todo) - len(data)
    bare[-1, eos_ids], rest[-1, eos_ids] = -1, 0
    return StripTable(jnp.asarray(bare), jnp.asarray(rest))


def strip(
    table: StripTable, tokens: Int[Array, "p n w"], count: Int[Array, "p n"]
) -> tuple[Int[Array, "p n w"], Int[Array, "p n"]]:
    """A step's tokens without its delimiter or EOS, and how many are left.

    A step stays as it is if a token would have to be cut where no token has the bytes before.
    """
    columns = jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None]
    size = table.rest.shape[0]
    cut, left, todo = tokens, count, jnp.full_like(count, size)
    for _ in range(size):
        last = columns == (left - 1)[..., None]
        ending = jnp.sum(jnp.where(last, tokens, 0), axis=2)
        active = (todo > 0) & (left > 0)
        row = jnp.maximum(todo - 1, 0)
        bare, rest = table.bare[row, ending], table.rest[row, ending]
        cut = jnp.where(last & (active & (bare >= 0))[..., None], bare[..., None], cut)
        left = left - (active & (bare < 0)).astype(jnp.int32)
        todo = jnp.where(active, rest, todo)
    gone = todo == 0
    return jnp.where(gone[..., None], cut, tokens), jnp.where(gone, left, count)


def process_reward(
    prm: RewardModule,
    prefix: cache.Prefix,
    strip_by: StripTable,
    probe: Int[Array, ""],
    *,
    step_tokens: int,
    columns: int,
    kv_format: str | None = None,
) -> RewardModel:
    """A PRM with the policy's tokenizer, scored incrementally in blocks of at most 64 tokens.

    `columns` bounds a solution's PRM tokens (tokens and probes). The value is the float32 log-odds
    at the probe. `kv_format` as in `model.Settings`.
    """
    count, block = blocks(step_tokens)
    width = count * block
    dtype = cache.suffix_dtype(prefix, kv_format)

    def init(p: int, n: int) -> PRMState:
        kv = cache.empty(prm.config, (p, n), columns + width, dtype)
        return PRMState(kv, jnp.zeros((p, n), jnp.int32))

    def score(state: PRMState, x: Particles):
        tokens, count = strip(strip_by, *last_step(x, width))
        new = x.num_steps > x.scored
        count = jnp.where(new, count + 1, 0)
        at = jnp.arange(width, dtype=jnp.int32)[None, None]
        tokens = jnp.where(at == (count - 1)[..., None], probe, tokens)
        found = passes.read(prm, prefix, state, tokens, count=count, first=x.history, block=block)
        kv = cache.commit(state.kv, found.buffer, state.length)
        after = PRMState(kv, state.length + count)
        return after, jnp.where(new, found.value, x.value), found.cost

    return RewardModel(init, score)


def widen(state: PRMState, columns: int, step_tokens: int) -> PRMState:
    """A state whose cache holds `columns` and one step more."""
    count, block = blocks(step_tokens)
    return state._replace(kv=cache.widen(state.kv, columns + count * block))
