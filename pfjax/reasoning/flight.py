"""Steps in progress: every particle of every problem writes its next step, token by token.

flight = begin(x)                                 nothing written yet
cache, flight = block(...)                        more tokens for every row, see `writing.py`
x = land(x, flight)                               the step becomes part of the solution
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pfjax.models import cache
from pfjax.reasoning import automaton
from pfjax.reasoning.particles import Particles, first_alike
from pfjax.settings.budget import Budget


class Flight(NamedTuple):
    """The step in progress of every row; `count` of `tokens` are written."""

    tokens: Int[Array, "p n t"]
    count: Int[Array, "p n"]
    last: Int[Array, "p n"]
    log_prob: Float[Array, "p n"]
    done: Bool[Array, "p n"]
    finished: Bool[Array, "p n"]
    stop: automaton.StopState


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
        history=first_alike(x.history, written(flight), moved),
        new_tokens=flight.count,
        log_g=jnp.zeros_like(x.log_g),
        log_prob=x.log_prob + flight.log_prob,
        finished=flight.finished | over | out_of_steps,
        truncated=x.truncated | over | out_of_steps,
        stop=flight.stop,
        policy_cache=kv,
    )


def put_rows(tree: PyTree[Array], part: PyTree[Array], rows: Int[Array, "p m"]) -> PyTree[Array]:
    """`part` in the rows `rows` of each problem; rows past the last are dropped."""
    write = jax.vmap(lambda x, new, i: x.at[i].set(new, unique_indices=True))
    return jax.tree.map(lambda x, new: write(x, new, rows), tree, part)


def written(flight: Flight) -> Int[Array, "p n t"]:
    """The tokens of steps in progress, -1 where none is yet."""
    columns = jax.lax.broadcasted_iota(jnp.int32, flight.tokens.shape, 2)
    return jnp.where(columns < flight.count[..., None], flight.tokens, -1)


def _place(tokens: Int[Array, "p n s"], new: Int[Array, "p n t"], at: Int[Array, "p n"]):
    put = jax.vmap(jax.vmap(lambda row, part, i: jax.lax.dynamic_update_slice(row, part, (i,))))
    return put(tokens, new, at)
