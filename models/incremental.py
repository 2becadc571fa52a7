"""Scoring step by step against a PRM's own cache: each token passes through the model once.

    state = begin(prm, questions, n, room)
    state = append(prm, state, steps)            state.value[p, n] are the newest steps' log-odds
    state = select(state, ancestors)             after resampling

Works on texts, so policy and PRM may have different tokenizers, for every format of `formats.py`.
Equals `PRM.score` on the whole solution. The search itself scores policy tokens on the device, see
`pfjax.reasoning.rewards`.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.models import cache
from pfjax.models.policy import PRM

_BUCKET = 32


class Scoring(NamedTuple):
    """Solutions in progress: p questions, n each; `tokens` counts what the PRM has processed."""

    prefix: cache.Prefix
    kv: cache.KV
    length: Int[Array, "p n"]
    num_steps: Int[Array, "p n"]
    value: Float[Array, "p n"]
    tokens: Int[Array, "p n"]


def begin(prm: PRM, questions: Sequence[str], n: int, room: int) -> Scoring:
    """n empty solutions of each question, of at most `room` PRM tokens each; values are 0."""
    prompts = [prm.format.prompt(question) for question in questions]
    longest = max(map(len, prompts))
    if longest + room > prm.config.max_positions:
        raise ValueError(
            f"a prompt of {longest} tokens and {room} more exceed the {prm.config.max_positions} "
            "that the PRM takes; lower room."
        )
    tokens = _block(prompts)
    length = jnp.asarray([len(ids) for ids in prompts], jnp.int32)
    prefix = _prefill(*prm.split, tokens, length, room)
    rows = (len(prompts), n)
    zeros = jnp.zeros(rows, jnp.int32)
    dtype = prefix.kv.k[0].dtype
    kv = cache.empty(prm.config, rows, 2 * _BUCKET, dtype)
    return Scoring(prefix, kv, zeros, zeros, jnp.zeros(rows, jnp.float32), zeros)


def append(prm: PRM, state: Scoring, steps: Sequence[Sequence[str | None]]) -> Scoring:
    """One more step of every solution; None leaves a solution as it is."""
    form, lengths = prm.format, np.asarray(state.length)
    if [len(row) for row in steps] != [lengths.shape[1]] * lengths.shape[0]:
        raise ValueError(
            f"steps are {[len(row) for row in steps]} texts, wanted {lengths.shape[1]} for each of "
            f"{lengths.shape[0]} questions."
        )
    ids = []
    for row, counts in zip(steps, np.asarray(state.num_steps), strict=True):
        for text, number in zip(row, counts, strict=True):
            if text is None:
                ids.append([])
                continue
            ids.append([*(form.after if number else ()), *form.step(text, not number), *form.probe])
    tokens = _block(ids).reshape(*lengths.shape, -1)
    count = jnp.asarray([len(row) for row in ids], jnp.int32).reshape(lengths.shape)
    room = state.prefix.context - state.prefix.length
    over = lengths + np.asarray(count) > np.asarray(room)[:, None]
    if over.any():
        p, i = np.argwhere(over)[0]
        raise ValueError(
            f"solution {i} of question {p} reaches {lengths[p, i] + count[p, i]} tokens, room was "
            f"made for {room[p]}; begin with more."
        )
    needed = int(lengths.max()) + tokens.shape[-1]
    state = state._replace(kv=cache.widen(state.kv, -(-needed // 128) * 128))
    return _extend(*prm.split, state, tokens, count, 0 if form.keep_probe else len(form.probe))


def select(state: Scoring, ancestors: Int[Array, "p n"]) -> Scoring:
    """Row (p, i) becomes a copy of row (p, ancestors[p, i])."""
    moved = (state.kv, state.length, state.num_steps, state.value, state.tokens)
    take = jax.vmap(lambda x, a: jnp.take(x, a, axis=0))
    kv, length, num_steps, value, tokens = jax.tree.map(lambda x: take(x, ancestors), moved)
    return Scoring(state.prefix, kv, length, num_steps, value, tokens)


def _block(rows: list[list[int]]) -> Int[Array, "b t"]:
    width = max(1, -(-max(map(len, rows)) // _BUCKET)) * _BUCKET
    table = np.zeros((len(rows), width), np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return jnp.asarray(table)


@partial(jax.jit, static_argnums=(0, 4))
def _prefill(graph, params, tokens, length, room):
    return cache.prefill(nnx.merge(graph, params).decoder, tokens, length, room)


@partial(jax.jit, static_argnums=(0, 5))
def _extend(graph, params, state: Scoring, tokens, count, dropped: int) -> Scoring:
    module = nnx.merge(graph, params)
    rows, width = tokens.shape[:2], tokens.shape[2]
    buffer = cache.empty(module.config, rows, width, state.kv.k[0].dtype)
    hidden, buffer = cache.extend(
        module.decoder, tokens, state.prefix, state.kv, state.length, buffer, jnp.int32(0)
    )
    last = jnp.maximum(count - 1, 0)[..., None, None]
    value = module.margin(jnp.take_along_axis(hidden, last, axis=2)[:, :, 0])
    moved = count > 0
    kept = jnp.where(moved, count - dropped, 0)
    return Scoring(
        prefix=state.prefix,
        kv=cache.commit(state.kv, buffer, state.length),
        length=state.length + kept,
        num_steps=state.num_steps + moved.astype(jnp.int32),
        value=jnp.where(moved, value, state.value),
        tokens=state.tokens + count,
    )
