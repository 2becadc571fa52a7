"""Rows that have written the same tokens are decoded once.

After resampling a problem's rows are copies of a few, and where the policy is sure of itself they
stay alike for many tokens. A lane is one of these distinct rows, of whichever problem, with its
prompt and its suffix beside it; every row draws its own token from its lane's distribution, so that
nothing about the draws changes.

    draw -> rows that are done take what their lane wrote -> rows that now differ get lanes of their own

A loop over lanes ends when there are too few of them; a wider one goes on, at last that of all rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree

from pfjax.models import cache
from pfjax.models.decoder import Decoder
from pfjax.models.sharding import model_size
from pfjax.reasoning.flight import Flight, written
from pfjax.reasoning.particles import MOST_COMPARED, first_alike

SHARES, LEAST = (0.125, 0.25), 256


def sizes(p: int, n: int, prompt: int, suffix: int) -> tuple[int, ...]:
    """Numbers of lanes to try for p * n rows, whose prompts and suffixes have so many columns.

    None for few rows, for which compiling takes longer than is saved, and for prompts so long that the lanes
    would take more memory than the suffixes of all rows.

    >>> sizes(32, 16, 64, 108), sizes(1, 16, 64, 108), sizes(32, 16, 1024, 108)
    ((64, 128), (), ())
    """
    rows = p * n
    counts = tuple(int(share * rows) for share in SHARES)
    short = max(counts, default=0) * (prompt + suffix) <= rows * suffix
    return counts if rows >= LEAST and n <= MOST_COMPARED and short else ()


def pay(policy: Decoder, mesh: Mesh | None) -> bool:
    """Whether a row costs its operations, as on a CPU, and the number of rows changes no token.

    It does in bfloat16, where a problem's particles would depend on those beside it.
    """
    exact = policy.norm.scale[...].dtype == jnp.float32
    return jax.default_backend() == "cpu" and exact and model_size(mesh) == 1


class Lanes(NamedTuple):
    """L lanes: the `row` of all p * n that each stands for, its prompt, its suffix, its step buffer.

    `lane` of a row that is not done; `enough` while every distinct row has one.
    """

    row: Int[Array, " L"]
    lane: Int[Array, "p n"]
    enough: Bool[Array, ""]
    prefix: cache.Prefix
    kv: cache.KV
    buffer: cache.KV


def decode(
    size: int,
    policy: Decoder,
    prefix: cache.Prefix,
    kv: cache.KV,
    cached: Int[Array, "p n"],
    history: Int[Array, "p n"],
    draw: Callable[[Flight, Array], tuple[Flight, Array]],
    state: tuple[Int[Array, ""], Flight, cache.KV],
) -> tuple[Int[Array, ""], Flight, cache.KV]:
    """(column, flight, buffer of all rows) when all rows are done, the buffer is full, or `size` lanes
    are too few.

    `draw(flight, logits[p, n, v])` gives the next flight and the tokens drawn.
    """
    tokens, start = state[2].v[0].shape[-2], state[0]

    def more(s):
        (column, flight, _), lanes = s
        return (column < tokens) & ~jnp.all(flight.done) & lanes.enough

    def token(s):
        (column, before, buffer), lanes = s
        last, length = before.last.ravel()[lanes.row], cached.ravel()[lanes.row]
        hidden, own = cache.extend(
            policy,
            last[:, None, None],
            lanes.prefix,
            lanes.kv,
            length[:, None],
            lanes.buffer,
            column,
        )
        logits = policy.logits(hidden[:, 0, 0])[lanes.lane]
        flight, drawn = draw(before, logits)
        buffer, own = _copied(buffer, own, lanes.lane, flight.done & ~before.done)
        lanes = _split(lanes._replace(buffer=own), drawn, ~flight.done)
        return (column + 1, flight, buffer), lanes

    state, lanes = jax.lax.while_loop(
        more, token, (state, _begun(size, prefix, kv, history, state))
    )
    column, flight, buffer = state
    unfinished = ~flight.done & (column > start)
    return column, flight, _copied(buffer, lanes.buffer, lanes.lane, unfinished)[0]


def _begun(size, prefix, kv, history, state) -> Lanes:
    """A lane for each distinct row that is not done, if there are enough."""
    column, flight, buffer = state
    live = ~flight.done
    first = first_alike(history, written(flight), live)
    leads = live & (first == _own(first))
    number = _numbered(leads)
    count = jnp.sum(leads, dtype=jnp.int32)
    row = jnp.argsort(~leads.ravel(), stable=True)[:size].astype(jnp.int32)
    problems = row // flight.done.shape[1]
    one = lambda x: jnp.zeros((size, 1, *x.shape[2:]), x.dtype)  # noqa: E731
    blank = jax.tree.map(one, (kv, buffer))
    needed = jnp.where((count <= size) & (column < buffer.v[0].shape[-2]), count, 0)
    own, begun = _loaded(blank, (kv, buffer), row, needed)
    prompts = jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), prefix.kv)
    prompts = _moved(prompts, prefix.kv, problems, jnp.arange(size, dtype=jnp.int32), needed)
    shared = cache.Prefix(prompts, prefix.length[problems], prefix.context[problems])
    lane = jnp.take_along_axis(number, first, axis=1)
    return Lanes(row, jnp.minimum(lane, size - 1), count <= size, shared, own, begun)


def _split(lanes: Lanes, drawn: Int[Array, "p n"], live: Bool[Array, "p n"]) -> Lanes:
    """Lanes after one more token: the first distinct row of a lane keeps it, the others get free ones."""
    size = len(lanes.row)
    first = first_alike(lanes.lane, drawn[..., None], live)
    leads = live & (first == _own(first))
    stays = leads & (
        first_alike(lanes.lane, jnp.zeros_like(drawn)[..., None], leads) == _own(first)
    )
    new = (leads & ~stays).ravel()
    enough = jnp.sum(leads) <= size
    flat = lanes.lane.ravel()
    taken = jnp.zeros(size, bool).at[jnp.where(stays.ravel(), flat, size)].set(True, mode="drop")
    free = jnp.argsort(taken, stable=True).astype(jnp.int32)
    lead = jnp.where(new, free[jnp.minimum(_numbered(new), size - 1)], flat)
    rows = jnp.arange(flat.size, dtype=jnp.int32)
    row = lanes.row.at[jnp.where(leads.ravel(), lead, size)].set(rows, mode="drop")
    order = jnp.argsort(~new, stable=True).astype(jnp.int32)
    held = (lanes.prefix, lanes.kv, lanes.buffer)
    count = jnp.where(enough, jnp.sum(new, dtype=jnp.int32), 0)
    prefix, kv, buffer = _moved(held, held, flat[order], lead[order], count)
    lane = jnp.take_along_axis(lead.reshape(drawn.shape), first, axis=1)
    lane = jnp.where(enough, lane, lanes.lane)
    return Lanes(jnp.where(enough, row, lanes.row), lane, enough, prefix, kv, buffer)


def _copied(buffer: cache.KV, own: cache.KV, lane: Int[Array, "p n"], which: Bool[Array, "p n"]):
    """(buffer of all rows with what the lanes of rows `which` wrote, `own`).

    `own` goes through the loop: what changes it later has to wait for what is copied here.
    """
    order = jnp.argsort(~which.ravel(), stable=True).astype(jnp.int32)
    n, flat = which.shape[1], lane.ravel()

    def copy(i, held):
        row, (buffer, own) = order[i], held
        buffer = jax.tree.map(lambda x, y: _put_row(x, y, flat[row], row, n), buffer, own)
        return jax.lax.optimization_barrier((buffer, own))

    return jax.lax.fori_loop(0, jnp.sum(which, dtype=jnp.int32), copy, (buffer, own))


def _loaded(
    blank: PyTree[Array], rows: PyTree[Array], row: Int[Array, " L"], count
) -> PyTree[Array]:
    """Lane i with what row[i] of all rows holds, i < count."""

    def copy(i, held):
        return jax.tree.map(lambda x, y: _put(x, _row(y, row[i]), jnp.int32(0), i), held, rows)

    return jax.lax.fori_loop(0, count, copy, blank)


def _row(x: Array, row: Int[Array, ""]) -> Array:
    """One row of [p, n, ...] by its number, as [1, 1, ...]; a reshape of x would cost a copy."""
    start = (row // x.shape[1], row % x.shape[1], *[0] * (x.ndim - 2))
    return jax.lax.dynamic_slice(x, start, (1, 1, *x.shape[2:]))


def _put_row(x: Array, y: Array, at: Int[Array, ""], row: Int[Array, ""], n: int) -> Array:
    part = jax.lax.dynamic_index_in_dim(y, at, keepdims=True)
    return jax.lax.dynamic_update_slice(x, part, (row // n, row % n, *[0] * (x.ndim - 2)))


def _moved(
    into: PyTree[Array], source: PyTree[Array], at, to, count: Int[Array, ""]
) -> PyTree[Array]:
    """`into` with entry at[i] of `source` as its entry to[i], i < count, one after the other."""

    def copy(i, held):
        put = lambda x, y: _put(x, y, at[i], to[i])  # noqa: E731
        return jax.tree.map(put, held, held if into is source else source)

    return jax.lax.fori_loop(0, count, copy, into)


def _put(x: Array, y: Array, at: Int[Array, ""], to: Int[Array, ""]) -> Array:
    part = jax.lax.dynamic_index_in_dim(y, at, keepdims=True)
    return jax.lax.dynamic_update_slice_in_dim(x, part, to, axis=0)


def _own(first: Int[Array, "p n"]) -> Int[Array, "1 n"]:
    return jnp.arange(first.shape[1], dtype=jnp.int32)[None]


def _numbered(which: Bool[Array, "..."]) -> Int[Array, "..."]:
    """How many entries of `which` come before each, in order."""
    return (jnp.cumsum(which.ravel(), dtype=jnp.int32) - 1).reshape(which.shape)
