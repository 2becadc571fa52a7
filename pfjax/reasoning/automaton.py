"""Where a reasoning step and a solution end: byte patterns lifted to token ids.

A pattern such as "\\n\\n" may sit inside a merged token (".\\n\\n") or be spread over several
("\\n" + "\\n"), so comparing ids with the id of the pattern misses step ends. The
Knuth-Morris-Pratt automaton of the byte pattern is therefore advanced by whole tokens:

    delta[s, v] = state after all bytes of token v from state s;   the last state is absorbing: the pattern was seen

Of several patterns the product is taken. The delimiter "\\n\\n" is any blank line, one of blanks or of
"\\r\\n" too. The boxed answer has an automaton of the same kind: `\\boxed{` opens a counter of braces, and
the closing brace ends the solution, unless the box is empty. Knows nothing of models or sampling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

BOXED = b"\\boxed{"
BLANK_LINE = "\n\n"
BLANKS = b" \t\r"
MAX_DEPTH = 8


class StopTable(NamedTuple):
    """Tables over token ids, on device.

    `step` ends a step; `boxed`, `text` (texts that stop) and `eos` end the solution.
    """

    step: Int[Array, "s v"]
    boxed: Int[Array, "b v"]
    text: Int[Array, "t v"]
    eos: Bool[Array, " v"]


class StopState(NamedTuple):
    """One automaton state per row."""

    step: Int[Array, "*b"]
    boxed: Int[Array, "*b"]
    text: Int[Array, "*b"]


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


def blank_line() -> np.ndarray:
    """Transitions of a line end, blanks, and a line end."""
    table = np.zeros((3, 256), np.int32)
    table[:2, ord("\n")] = 1, 2
    table[1, list(BLANKS)] = 1
    table[2] = 2
    return table


def any_of(patterns: Sequence[str]) -> np.ndarray:
    """Transitions that end as soon as one of the patterns is seen; of none, that never end."""
    parts = [blank_line() if p == BLANK_LINE else kmp(p.encode()) for p in patterns]
    begin: tuple[int, ...] = (0,) * len(parts)
    numbers: dict[tuple[int, ...], int] = {begin: 0}
    waiting: list[tuple[int, ...]] = [begin]
    rows: dict[tuple[int, ...], np.ndarray] = {}
    while waiting:
        states = waiting.pop()
        rows[states] = np.zeros(256, np.int32)
        for byte in range(256):
            after = tuple(int(part[s, byte]) for part, s in zip(parts, states, strict=True))
            if any(s == len(part) - 1 for s, part in zip(after, parts, strict=True)):
                rows[states][byte] = -1
                continue
            if after not in numbers:
                numbers[after] = len(numbers)
                waiting.append(after)
            rows[states][byte] = numbers[after]
    table = np.stack([*(rows[states] for states in numbers), np.full(256, -1, np.int32)])
    return np.where(table < 0, len(numbers), table)


def boxed_automaton() -> np.ndarray:
    """Transitions of "\\boxed{", something in it, and a balanced closing brace; \\{ and \\} are none.

    A box of more than 8 open braces, its own among them, stays open for good. An empty one is as if it
    were not there.
    """
    opening = kmp(BOXED)
    size = len(BOXED)
    # After the opening: how many braces are open, the same behind a backslash, and the two ends.
    escaped = size + MAX_DEPTH
    lost, closed = escaped + MAX_DEPTH + 1, escaped + MAX_DEPTH + 2
    table = np.repeat(np.arange(closed + 1, dtype=np.int32)[:, None], 256, axis=1)
    table[:size] = opening[:size]
    table[size] = size + 1
    table[size, list(BLANKS + b"\n\v\f")] = size
    table[size, [ord("{"), ord("}"), ord("\\")]] = size + 2, 0, escaped + 1
    for depth in range(1, MAX_DEPTH + 1):
        state = size + depth
        table[state, ord("{")] = state + 1 if depth < MAX_DEPTH else lost
        table[state, ord("}")] = state - 1 if depth > 1 else closed
        table[state, ord("\\")] = escaped + depth
        table[escaped + depth] = state
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


def stop_table(
    token_bytes: list[bytes],
    eos_ids: list[int],
    delimiters: Sequence[str] = (BLANK_LINE,),
    stops: Sequence[str] = (),
    *,
    boxed: bool = True,
) -> StopTable:
    """Tables for a vocabulary: a delimiter ends a step, a stop or (`boxed`) a closed box the solution.

    `token_bytes[i]` is what token i adds to the text; empty for special tokens.
    """
    if not delimiters or not all([*delimiters, *stops]):
        raise ValueError("delimiter is empty; give the text that ends a step, such as '\\n\\n'.")
    eos = np.zeros(len(token_bytes), bool)
    eos[eos_ids] = True
    box = boxed_automaton() if boxed else any_of(())
    automata = any_of(delimiters), box, any_of(stops)
    step, closed, text = (jnp.asarray(lift(a, token_bytes)) for a in automata)
    return StopTable(step, closed, text, jnp.asarray(eos))


def start(shape: tuple[int, ...]) -> StopState:
    """States before the first token of a solution."""
    return StopState(*(jnp.zeros(shape, jnp.int32) for _ in StopState._fields))


def advance(
    table: StopTable, state: StopState, token: Int[Array, "*b"], empty: Bool[Array, "*b"]
) -> tuple[StopState, Bool[Array, "*b"], Bool[Array, "*b"]]:
    """(state, step ended, solution ended) after one token.

    A delimiter that the first token of a step (`empty`) completes does not end it and is used up.
    The step automaton starts afresh in each step.
    """
    tables = table.step, table.boxed, table.text
    moved = [rows[s, token] for rows, s in zip(tables, state, strict=True)]
    hit, closed, said = (s == len(rows) - 1 for rows, s in zip(tables, moved, strict=True))
    finished = table.eos[token] | closed | said
    after = StopState(jnp.where(hit, 0, moved[0]), *moved[1:])
    return after, (hit & ~empty) | finished, finished
