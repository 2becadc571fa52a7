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
from jaxtyping import Array, Float, Int, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning.flight import put_rows
from pfjax.reasoning.particles import Particles, last_step

GROUPS, FEW = 4, 256


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
    at the probe. A block is skipped when every row's step ends before it. `kv_format` as in
    `model.Settings`.
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
        value, buffer = read_blocks(prm, prefix, state, tokens, count, block)
        kv = cache.commit(state.kv, buffer, state.length)
        return PRMState(kv, state.length + count), jnp.where(new, value, x.value), count

    return RewardModel(init, score)


def blocks(step_tokens: int) -> tuple[int, int]:
    """How many blocks a step and its probe are scored in, and the tokens of each.

    >>> blocks(12), blocks(256)
    ((1, 13), (5, 52))
    """
    count = -(-(step_tokens + 1) // 64)
    return count, -(-(step_tokens + 1) // count)


def widen(state: PRMState, columns: int, step_tokens: int) -> PRMState:
    """A state whose cache holds `columns` and one step more."""
    count, block = blocks(step_tokens)
    return state._replace(kv=cache.widen(state.kv, columns + count * block))


def read_blocks(
    prm: RewardModule,
    prefix: cache.Prefix,
    state: PRMState,
    tokens: Int[Array, "p n w"],
    count: Int[Array, "p n"],
    block: int,
) -> tuple[Float[Array, "p n"], cache.KV]:
    """(value at each row's last token, filled buffer).

    Steps of several blocks are read in groups of rows with about as many tokens each, longest first,
    so that short steps do not wait for blocks that only a long one fills.
    """
    p, n, width = tokens.shape
    size = group_size(p, n, width, block)
    if size == n:
        return _read(prm, prefix, state, tokens, count, block)
    order = jnp.argsort(-count, axis=1, stable=True)

    def group(g, found):
        rows = jax.lax.dynamic_slice_in_dim(order, g * size, size, axis=1)
        own, ids, many = smc.gather((state, tokens, count), rows)
        part = _read(prm, prefix, own, ids, many, block)
        return put_rows(found, part, rows)

    buffer = cache.empty(prm.config, tokens.shape[:2], width, prefix.kv.k[0].dtype)
    return jax.lax.fori_loop(0, GROUPS, group, (jnp.zeros(count.shape, jnp.float32), buffer))


def group_size(p: int, n: int, width: int, block: int) -> int:
    """Rows of each problem that are read at a time: a group's, or all n.

    Groups whose blocks have fewer than `FEW` tokens would read the weights for longer than multiply.

    >>> group_size(1, 32, 260, 52), group_size(1, 8, 260, 52), group_size(32, 16, 13, 13)
    (8, 8, 16)
    """
    size, rest = divmod(n, GROUPS)
    return n if width == block or rest or p * size * block < FEW else size


def _read(prm, prefix, state: PRMState, tokens, count, block: int):
    """Loops over the blocks that some row needs."""
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

    dtype = prefix.kv.k[0].dtype
    buffer = cache.empty(prm.config, rows, width, dtype)
    probed = jnp.zeros((*rows, prm.config.hidden_size), dtype)
    carry = (jnp.zeros((), jnp.int32), probed, buffer)
    _, probed, buffer = jax.lax.while_loop(lambda c: c[0] < longest, body, carry)
    return prm.margin(probed), buffer
