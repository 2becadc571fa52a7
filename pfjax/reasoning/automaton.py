"""Where a reasoning step ends: byte patterns lifted to token ids.

A pattern such as "\\n\\n" may sit inside a merged token (".\\n\\n") or be spread over several
("\\n" + "\\n"), so comparing ids with the id of the pattern misses step ends. The
Knuth-Morris-Pratt automaton of the byte pattern is therefore advanced by whole tokens:

    delta[s, v] = state after all bytes of token v from state s;   the last state is absorbing: the pattern was seen

The boxed answer has a second automaton of the same kind: `\\boxed{` opens a counter of braces, and
the closing brace ends the solution. Knows nothing of models or sampling.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

BOXED = b"\\boxed{"
MAX_DEPTH = 8


class StopTable(NamedTuple):
    """Tables over token ids, on device.

    `step` ends a step, `boxed` ends the solution, `eos` too.
    """

    step: Int[Array, "s v"]
    boxed: Int[Array, "b v"]
    eos: Bool[Array, " v"]


class StopState(NamedTuple):
    """One automaton state per row."""

    step: Int[Array, "*b"]
    boxed: Int[Array, "*b"]


def kmp(pattern: bytes) -> np.ndarray:
    """int32[len(pattern) + 1, 256] transitions.

    The last row is absorbing (Knuth, Morris, Pratt 1977).
    """
    size = len(pattern)
    table = np.zeros((size + 1, 256), np.int32)
    table[size] = size
    table[0, pattern[0]] = 1
    fallback = 0
    for state in range(1, size):
        table[state] = table[fallback]
        table[state, pattern[state]] = state + 1
        fallback = table[fallback, pattern[state]]
    return table


def boxed_automaton() -> np.ndarray:
    """Transitions of "\\boxed{" followed by a balanced closing brace.

    A box of more than 8 open braces, its own among them, stays open for good.
    """
    opening = kmp(BOXED)
    size = len(BOXED)
    lost, closed = size + MAX_DEPTH, size + MAX_DEPTH + 1
    table = np.repeat(np.arange(closed + 1, dtype=np.int32)[:, None], 256, axis=1)
    table[:size] = opening[:size]
    for state in range(size, lost):
        table[state, ord("{")] = state + 1
        table[state, ord("}")] = closed if state == size else state - 1
    return table


def lift(table: np.ndarray, token_bytes: list[bytes]) -> np.ndarray:
    """int32[states, vocabulary].

    The state after all bytes of a token; special tokens (no bytes) reset to 0.
    """
    states, absorbing = len(table), len(table) - 1
    width = max(map(len, token_bytes))
    padded = np.zeros((len(token_bytes), width), np.int64)
    lengths = np.array([len(b) for b in token_bytes])
    for row, data in zip(padded, token_bytes, strict=True):
        row[: len(data)] = list(data)
    lifted = np.repeat(np.arange(states, dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for column in range(width):
        moved = table[lifted, padded[None, :, column]]
        lifted = np.where(column < lengths, moved, lifted)
    return np.where((lengths == 0) & (lifted != absorbing), 0, lifted).astype(np.int32)


def stop_table(token_bytes: list[bytes], eos_ids: list[int], delimiter: str = "\n\n") -> StopTable:
    """Tables for a vocabulary.

    `token_bytes[i]` is what token i adds to the text; empty for special tokens.
    """
    if not delimiter:
        raise ValueError("delimiter is empty; give the text that ends a step, such as '\\n\\n'.")
    eos = np.zeros(len(token_bytes), bool)
    eos[eos_ids] = True
    return StopTable(
        jnp.asarray(lift(kmp(delimiter.encode()), token_bytes)),
        jnp.asarray(lift(boxed_automaton(), token_bytes)),
        jnp.asarray(eos),
    )


def start(shape: tuple[int, ...]) -> StopState:
    """States before the first token of a solution."""
    return StopState(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def advance(
    table: StopTable, state: StopState, token: Int[Array, "*b"], empty: Bool[Array, "*b"]
) -> tuple[StopState, Bool[Array, "*b"], Bool[Array, "*b"]]:
    """(state, step ended, solution ended) after one token.

    A delimiter that the first token of a step (`empty`) completes does not end it and is used up.
    The step automaton starts afresh in each step.
    """
    step, boxed = table.step[state.step, token], table.boxed[state.boxed, token]
    hit = step == table.step.shape[0] - 1
    finished = table.eos[token] | (boxed == table.boxed.shape[0] - 1)
    step = jnp.where(hit, 0, step)
    return StopState(step, boxed), (hit & ~empty) | finished, finished
