"""A PRM's passes over the newest steps: each distinct partial solution is read once.

    found = read(prm, prefix, state, tokens, count=count, first=first, block=block)

After resampling many particles are copies, and copies often write the same step. Rows of a problem
with the same tokens so far have the same value and the same cache, so one row is read for all of
them (where all rows fit one pass, copies are read along: that costs nothing). What is left is sorted
by length and read `ROWS` rows of a problem and about `FEW` tokens at a time, so that short steps do
not wait for blocks that only a long one fills.
"""

from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning.flight import put_rows
from pfjax.reasoning.move import move_in_place

ROWS, GROUPS, FEW = 2, 4, 512


class PRMState(NamedTuple):
    """A particle's committed PRM cache and how many of its columns are real."""

    kv: cache.KV
    length: Int[Array, "p n"]


def is_prm_state(node) -> bool:
    """Whether a node of a tree is what a PRM has read."""
    return isinstance(node, PRMState)


class Read(NamedTuple):
    """Values at the rows' last tokens, keys and values of their steps, and how many tokens each row
    adds: none for a copy of an earlier row, which accelerators read along but nothing has to.
    """

    value: Float[Array, "p n"]
    buffer: cache.KV
    cost: Int[Array, "p n"]


def blocks(step_tokens: int) -> tuple[int, int]:
    """How many blocks a step and its probe are read in, and the tokens of each: at most 64.

    >>> blocks(12), blocks(256)
    ((1, 13), (5, 52))
    """
    count = -(-(step_tokens + 1) // 64)
    return count, -(-(step_tokens + 1) // count)


def rows_at_once(p: int, n: int, block: int) -> tuple[int, int]:
    """(groups, rows of one problem in each) that are read at a time.

    Passes of fewer than `FEW` tokens would read the weights for longer than multiply.

    >>> rows_at_once(1, 32, 52), rows_at_once(1, 16, 13), rows_at_once(32, 16, 13)
    ((5, 2), (8, 2), (20, 2))
    """
    rows = gcd(n, ROWS)
    return min(p * n // rows, -(-FEW // (rows * block))), rows


def read(
    prm: RewardModule,
    prefix: cache.Prefix,
    state: PRMState,
    tokens: Int[Array, "p n w"],
    *,
    count: Int[Array, "p n"],
    first: Int[Array, "p n"],
    block: int,
) -> Read:
    """The newest steps, `count` of `tokens` each (0: none), in blocks of `block` columns.

    `first` is the first row of the problem with the same tokens so far, as `Particles.history` is until
    rows are resampled.
    """
    n = tokens.shape[1]
    cost = jnp.where(first == jnp.arange(n, dtype=jnp.int32)[None], count, 0)
    # TPU programs copied a cache in the loop over passes, so there every row is read.
    value, buffer = jax.lax.platform_dependent(
        cpu=lambda: _distinct(prm, prefix, state, tokens, count, first, cost, block),
        default=lambda: _groups(prm, prefix, state, tokens, count, block),
    )
    return Read(value, buffer, cost)


def group_size(p: int, n: int, width: int, block: int) -> int:
    """Rows of each problem that an accelerator reads at a time: a quarter of them, or all n.

    Groups whose blocks have fewer than half of `FEW` tokens read the weights for longer than multiply.

    >>> group_size(1, 32, 260, 52), group_size(1, 8, 260, 52), group_size(32, 16, 13, 13)
    (8, 8, 16)
    """
    size, rest = divmod(n, GROUPS)
    return n if width == block or rest or 2 * p * size * block < FEW else size


def _groups(prm, prefix, state: PRMState, tokens, count, block: int):
    """(value, buffer) of all rows: of steps of several blocks a group of rows at a time, longest first."""
    p, n, width = tokens.shape
    size = group_size(p, n, width, block)
    if size == n:
        return _read(prm, prefix, state.kv, state.length, tokens, count, block)
    order = jnp.argsort(-count, axis=1, stable=True)

    def group(g, found):
        rows = jax.lax.dynamic_slice_in_dim(order, g * size, size, axis=1)
        own, ids, many = smc.gather((state, tokens, count), rows)
        part = _read(prm, prefix, own.kv, own.length, ids, many, block)
        return put_rows(found, part, rows)

    buffer = cache.empty(prm.config, (p, n), width, prefix.kv.k[0].dtype)
    return jax.lax.fori_loop(0, GROUPS, group, (jnp.zeros((p, n), jnp.float32), buffer))


def _distinct(prm, prefix, state: PRMState, tokens, count, first, cost, block: int):
    """(value, buffer) of all rows, each distinct one read once."""
    p, n, width = tokens.shape
    groups, rows = rows_at_once(p, n, block)
    if groups * rows == p * n:
        return _read(prm, prefix, state.kv, state.length, tokens, count, block)
    order = jnp.argsort(-cost, axis=1, stable=True).astype(jnp.int32)
    order = (order + n * jnp.arange(p, dtype=jnp.int32)[:, None]).reshape(-1, rows)
    longest = jnp.max(_take(cost, order), axis=1)
    queue = jnp.argsort(-longest, stable=True).astype(jnp.int32)
    queue = jnp.pad(queue, (0, groups), constant_values=len(queue))

    def some(i, found):
        places = jax.lax.dynamic_slice(queue, (i * groups,), (groups,))
        there, at = (places < len(order))[:, None], order[jnp.minimum(places, len(order) - 1)]
        kv, length, ids, many = _take((state.kv, state.length, tokens, cost), at)
        prompt = jax.tree.map(lambda x: x[at[:, 0] // n], prefix)
        part = _read(prm, prompt, kv, length, ids, jnp.where(there, many, 0), block)
        return _put(found, part, jnp.where(there, at, p * n))

    buffer = cache.empty(prm.config, (p, n), width, prefix.kv.k[0].dtype)
    passes = -(-jnp.sum(longest > 0, dtype=jnp.int32) // groups)
    blank = (jnp.zeros((p, n), jnp.float32), buffer)
    value, buffer = jax.lax.fori_loop(0, passes, some, blank)
    return move_in_place((value, buffer), first)


def _take(tree: PyTree[Array], at: Int[Array, "*b"]) -> PyTree[Array]:
    return jax.tree.map(lambda x: x[at // x.shape[1], at % x.shape[1]], tree)


def _put(tree: PyTree[Array], part: PyTree[Array], at: Int[Array, "*b"]) -> PyTree[Array]:
    """`part` in the rows `at`; rows past the last are dropped."""

    def put(x, new):
        return x.at[at // x.shape[1], at % x.shape[1]].set(new, mode="drop")

    return jax.tree.map(put, tree, part)


def _read(prm, prefix, kv: cache.KV, length, tokens, count, block: int):
    """(value, buffer) of rows: loops over the blocks that some row needs."""
    rows, width = tokens.shape[:2], tokens.shape[2]
    longest = jnp.max(count)
    columns = jnp.arange(block, dtype=jnp.int32)[None, None]

    def body(carry):
        start, probed, buffer = carry
        part = jax.lax.dynamic_slice_in_dim(tokens, start, block, axis=2)
        hidden, buffer = cache.extend(prm.decoder, part, prefix, kv, length, buffer, start)
        here = (start + columns) == (count - 1)[..., None]
        probed = probed + jnp.sum(jnp.where(here[..., None], hidden, 0.0), axis=2)
        return start + block, probed, buffer

    dtype = prefix.kv.k[0].dtype
    buffer = cache.empty(prm.config, rows, width, dtype)
    probed = jnp.zeros((*rows, prm.config.hidden_size), dtype)
    carry = (jnp.zeros((), jnp.int32), probed, buffer)
    _, probed, buffer = jax.lax.while_loop(lambda c: c[0] < longest, body, carry)
    return prm.margin(probed), buffer
