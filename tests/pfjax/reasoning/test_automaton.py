"""The token automaton ends steps exactly where a text search does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax.reasoning import automaton, strip

VOCABULARY = [
    b"",
    b"a",
    b"\n",
    b".\n\n",
    b"\n\n\n",
    b"\\boxed{",
    b"}",
    b"{",
    b"}.",
    b"\\bo",
    b"xed{",
    b"x\n",
]
EOS = 0


def run(tokens: list[int]) -> tuple[list[int], int | None]:
    """(token index of every step end, index where the solution ends) by the automaton, one step
    after another.
    """
    table = automaton.stop_table(VOCABULARY, [EOS])
    state, ends, start = automaton.start((1,)), [], 0
    for i, token in enumerate(tokens):
        first = jnp.array([i == start])
        state, ended, finished = automaton.advance(table, state, jnp.array([token]), first)
        if ended[0]:
            ends.append(i)
            start = i + 1
        if finished[0]:
            return ends, i
    return ends, None


def search(tokens: list[int]) -> tuple[list[int], int | None]:
    """The same by looking at the text after every token."""
    ends, start = [], 0
    for i, token in enumerate(tokens):
        step = b"".join(VOCABULARY[t] for t in tokens[start : i + 1])
        text = b"".join(VOCABULARY[t] for t in tokens[: i + 1])
        finished = token == EOS or closes_box(text)
        # A delimiter in the first token of a step does not end it, and is used up.
        head = VOCABULARY[tokens[start]]
        consumed = len(head) if head.find(b"\n\n") >= 0 else 0
        if finished or (i > start and b"\n\n" in step[consumed:]):
            ends.append(i)
            start = i + 1
        if finished:
            return ends, i
    return ends, None


def closes_box(text: bytes) -> bool:
    """Whether the first `\\boxed{` with something in it is closed by a balanced brace."""
    match = re.search(rb"\\boxed\{(?!\s*\})", text)
    if not match:
        return False
    depth = 1
    for mark in re.findall(rb"\\.|[{}]", text[match.end() :], re.DOTALL):
        depth += (mark == b"{") - (mark == b"}")
        if depth == 0:
            return True
    return False


@pytest.mark.parametrize("seed", range(4))
def test_automaton_equals_text_search(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        tokens = rng.integers(1 if seed % 2 else 0, len(VOCABULARY), 24).tolist()
        assert run(tokens) == search(tokens), tokens


def test_special_tokens_break_a_pattern():
    table = automaton.stop_table([b"", b"\n", b"a"], [])
    assert table.step[1, 0] == 0 and table.step[1, 1] == 2


def test_kmp_finds_overlapping_prefixes():
    table = automaton.kmp(b"aab")
    state = 0
    for byte in b"aaab":
        state = table[state, byte]
    assert state == 3


@pytest.mark.parametrize("depth, closes", [(8, True), (9, False), (12, False)])
def test_deep_boxes_stay_open(depth, closes):
    """`\\boxed{` and 7 more braces are counted; a ninth is not, so nothing may close the box."""
    opening, closing = VOCABULARY.index(b"{"), VOCABULARY.index(b"}")
    tokens = [5, *[opening] * (depth - 1), *[closing] * depth]
    assert run(tokens)[1] == (len(tokens) - 1 if closes else None)
    assert run(tokens[:-1])[1] is None


STRIPPED = [b"", b"a", b".", b"\n", b".\n", b".\n\n", b"?\n", b"\n\n", b".", b" a", b" ", b" a "]


@pytest.mark.parametrize(
    "tokens, left",
    [
        ([1, 5], [1, 8]),  # the piece, not the byte of the same text
        ([1, 4, 3], [1, 8]),
        ([1, 3, 3], [1]),
        ([3, 3], []),
        ([1, 6, 3], [1, 6]),  # "?" is no token
        ([1, 10, 7], [1]),
        ([1, 3, 0], [1]),
        ([4, 1, 3], [4, 1]),
        ([7, 10, 9, 2, 10], [1, 2]),
        ([11], [1]),
        ([0], []),
        ([1, 10, 1], [1, 10, 1]),
    ],
)
def test_strip_drops_the_white_space_around(tokens, left):
    table = strip.strip_table(STRIPPED, [0])
    row, count = np.array([[[*tokens, 2, 3]]], np.int32), np.array([[len(tokens)]], np.int32)
    ids, size = strip.strip(table, jnp.asarray(row), jnp.asarray(count))
    assert ids[0, 0, : int(size[0, 0])].tolist() == left


TEXTS = {
    "blank lines": (["\n\n"], ["one", "\n \t\r", "\n", "two\r\n", "\r\n", "x\n", "y"], [2, 4]),
    "several": (["\n\n", ";", "then"], ["a;", "b", "; c", "d th", "en", "e\n", "\n"], [2, 4, 6]),
    "overlapping": (
        ["aab", "abc"],
        ["x", "aab", "x", "aa", "ab", "x", "abb", "xab", "c"],
        [1, 4, 8],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_several_delimiters(name):
    """Every step ends at the first delimiter, of whatever kind, that is not in its first token."""
    delimiters, texts, wanted = TEXTS[name]
    table = automaton.stop_table([t.encode() for t in texts], [], delimiters)
    state, found, empty = automaton.start((1,)), [], True
    for i in range(len(texts)):
        state, ended, _ = automaton.advance(table, state, jnp.array([i]), jnp.array([empty]))
        found += [i] if ended[0] else []
        empty = bool(ended[0])
    assert found == wanted


@pytest.mark.parametrize(
    "texts, stops, boxed, finish",
    [
        (["a \\boxed{", "1}", " b"], (), True, 1),
        (["a \\boxed{", "1}", " b"], (), False, None),
        (["a \\boxed{ ", "} then ", "\\boxed{2}"], (), True, 2),  # an empty box is none
        (["a \\boxed{}", "{}"], (), True, None),
        (["\\boxed{\\left\\{1", "\\right.", "}"], (), True, 2),  # a written brace is none
        (["\\boxed{1\\", "}", "}"], (), True, 2),
        (["\\boxed{\\}", "}"], (), True, 1),
        (["\\boxed{1\\\\", "}"], (), True, 1),
        (["a\n\nQ", "uestion", ": b"], ("Question:", "User:"), True, 2),
        (["Us", "User", ":"], ("Question:", "User:"), False, 2),
        (["Question", "\n\n", ":"], ("Question:",), True, None),
    ],
)
def test_what_ends_a_solution(texts, stops, boxed, finish):
    vocabulary = [t.encode() for t in texts]
    table = automaton.stop_table(vocabulary, [], stops=stops, boxed=boxed)
    state, found = automaton.start((1,)), None
    for i in range(len(texts)):
        state, ended, over = automaton.advance(table, state, jnp.array([i]), jnp.array([False]))
        assert ended[0] or not over[0]
        found = i if over[0] and found is None else found
    assert found == finish


def test_empty_delimiter_is_refused():
    with pytest.raises(ValueError, match="delimiter is empty"):
        automaton.stop_table([b"a"], [], [""])


def test_advance_runs_under_jit():
    table = automaton.stop_table(VOCABULARY, [EOS])
    state = automaton.start((2,))
    step = jax.jit(automaton.advance)
    state, ended, _ = step(table, state, np.array([1, 1], np.int32), np.array([True, True]))
    _, ended, finished = step(table, state, np.array([3, EOS], np.int32), np.array([False, False]))
    assert ended.tolist() == [True, True] and finished.tolist() == [False, True]
