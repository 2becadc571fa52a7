"""The device tables against a search of the text, for tokenizers trained here.

For each of four tokenizers and three delimiters, 10 000 random token strings of 1 to 40 tokens. The
oracle joins the bytes and uses `bytes.find`; it knows tokens only by where they end.
"""

import functools
import itertools
import json
import re
import tempfile
from bisect import bisect_right

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pfjax.models import Tokenizer
from pfjax.reasoning import automaton, strip

STRINGS, WIDTH = 10_000, 40
EOS = "</s>"
SPECIAL = ["<unk>", EOS, "<s>"]
BOX = b"\\boxed{"
BREAK = b"\xff"  # stands for a special token in the searched text; part of no pattern
DELIMITERS = ["\n\n", "\n", " ки"]
CORPUS = [
    "Ann has 12 bags.\n\nBob has {3} кг.\n\n\nSo $\\boxed{12}$ or \\boxed{{a}}.\n\n",
    "Let {x}\n\n \n\n\nThe кит and кино.\nкниги ки ки. caffè naïve 日本\n\nно ки",
    "  two. blanks\n\n\n\nx}\n\n}.\n\n}}{{ f{g}\n\\boxed{\\frac{1}{2}}\n\n к и кит\n",
    "é.\n\n日本.\n \n\n\n$\\boxed{7}\n\n \\boxed{ки}.\n\nпочки ки.\n\nи как{ Yes\n\n\nno",
]
RARE = "emoji 🙂 and 字.\n\n"
SINGLE = ["\n", "\\", "boxed", "bo", "xed", "{", "}", "к", "и", " ", " к", "$", "."]
WORDS = Regex(r" ?\p{L}+|\p{N}| ?\$?\\boxed\{| ?[^\s\p{L}\p{N}]+\n*|\s*\n+|\s+")


def byte_level() -> tokenizers.Tokenizer:
    """Qwen's kind: bytes, and full stops merged with the newlines behind them."""
    backend = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(WORDS, "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator([*CORPUS, RARE] * 2, trainer)
    return backend


def fall_back() -> list[str]:
    return [*SPECIAL, *(f"<0x{b:02X}>" for b in range(256))]


def spaced() -> pre_tokenizers.PreTokenizer:
    """Words of SentencePiece; newlines are taken out, so that only byte pieces spell them."""
    newlines = pre_tokenizers.Split("\n", "removed")
    return pre_tokenizers.Sequence([newlines, pre_tokenizers.Metaspace(prepend_scheme="never")])


def llama() -> tokenizers.Tokenizer:
    """Llama 2's kind: BPE over `▁`, 256 byte pieces where no piece fits."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = spaced()
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(CORPUS * 2, trainer)
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    vocab = {p: i for i, p in enumerate([*fall_back(), *(p for p, _ in pieces)])}
    merges = [tuple(pair) for pair in trained_model(trained)["merges"]]
    bpe = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(bpe)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(SPECIAL)
    return backend


def unigram() -> tokenizers.Tokenizer:
    """SentencePiece's unigram model with byte fall-back."""
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = spaced()
    trainer = trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(CORPUS * 2, trainer)
    pieces = [(p, s) for p, s in trained_model(trained)["vocab"] if p not in SPECIAL]
    vocab = [*((p, 0.0) for p in fall_back()), *pieces]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, 0, True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(SPECIAL)
    return backend


def word_level() -> tokenizers.Tokenizer:
    """Whole words, the blank before and the newlines behind them inside, joined as they are."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    backend.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator([*CORPUS, RARE, *SINGLE], trainer)
    return backend


def trained_model(backend: tokenizers.Tokenizer) -> dict:
    return json.loads(backend.to_str())["model"]


KINDS = {f.__name__: f for f in (byte_level, llama, unigram, word_level)}


@functools.cache
def trained(kind: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind]().save(f"{folder}/tokenizer.json")
        return Tokenizer.from_folder(folder)


def vocabulary(kind: str) -> tuple[list[bytes], int]:
    """(bytes of every token, id of EOS)."""
    eos = trained(kind).token_id(EOS)
    assert eos is not None
    return trained(kind).token_bytes, eos


def spell(text: bytes, ids: dict[bytes, list[int]], rng: np.random.Generator) -> list[int]:
    """A random spelling of a text in tokens, empty if none is found."""
    for _ in range(20):
        at, spelling = 0, []
        while at < len(text):
            fits = [n for n in range(1, len(text) - at + 1) if text[at : at + n] in ids]
            if not fits:
                break
            size = int(rng.choice(fits))
            spelling.append(int(rng.choice(ids[text[at : at + size]])))
            at += size
        else:
            return spelling
    return []


def pool(kind: str, end: bytes, rng: np.random.Generator) -> list[list[list[int]]]:
    """Pieces of strings: quiet ones, ends of steps, boxes and braces, EOS and broken spellings."""
    token_bytes, eos = vocabulary(kind)
    ids: dict[bytes, list[int]] = {}
    for i, data in enumerate(token_bytes):
        ids.setdefault(data, []).append(i)
    special = ids.pop(b"")
    quiet = [[i] for data in ids if end not in data and data.isascii() for i in ids[data]]
    quiet += [[i] for data in ids if end not in data and not data.isascii() for i in ids[data]][:40]
    around = [b"", b"", b".", b"}", b" ", b"\n", b"a", end[:1], end[-1:]]
    ends = [before + end + after for before in around for after in around]
    inside = [b"7", b"{7}", b"{", b"}", b"{{}", b"{7}{}"] + [b"{" * k + b"}" * k for k in (7, 8, 9)]
    opened = [before + BOX for before in (b"", b"$", b" ", b"\\", b"\\bo", BOX[:-1])]
    boxes = [o + i + c for o in opened for i in inside for c in (b"}", b"}", b"}.", b"")]
    boxes += [b"{", b"}", b"}}", b"\\", BOX[:-1], BOX[1:], BOX]
    spelled = [[spell(t, ids, rng) for t in texts * 3] for texts in (ends, boxes)]
    spread = [spelling for spelling in [*spelled[0], *spelled[1]] if len(spelling) > 1]
    broken = [[*s[:k], i, *s[k:]] for s in spread for i in special if i != eos for k in (1, -1)]
    marked = [*([[eos]] * (len(broken) // 9)), *broken]
    return [quiet, *([f for f in found if f] for found in spelled), marked]


@functools.cache
def draw(kind: str, end: bytes) -> list[list[int]]:
    """10 000 strings, two in five of them without whole delimiters or boxes put in."""
    rng = np.random.default_rng([list(KINDS).index(kind), *end])
    flat = pool(kind, end, rng)
    busy = rng.random(STRINGS) < 0.6
    weights = np.array([[0.97, 0.0, 0.0, 0.03], [0.64, 0.18, 0.15, 0.03]]).cumsum(axis=1)
    kinds = (rng.random((STRINGS, WIDTH, 1)) > weights[busy.astype(int)][:, None]).sum(axis=2)
    kinds = np.minimum(kinds, len(flat) - 1)
    chosen = rng.random((STRINGS, WIDTH))
    strings = []
    for row, size, share in zip(kinds, rng.integers(1, WIDTH + 1, STRINGS), chosen, strict=True):
        parts = (flat[k][int(u * len(flat[k]))] for k, u in zip(row, share, strict=True))
        strings.append(list(itertools.islice(itertools.chain.from_iterable(parts), int(size))))
    return strings


def overlap(text: bytes, pattern: bytes) -> int:
    """How many bytes of the pattern, fewer than all, the text ends with."""
    return max(k for k in range(len(pattern)) if text.endswith(pattern[:k]))


def box(pieces: list[bytes]) -> tuple[int | None, int]:
    """(token that closes the first box with something in it, state at the end).

    States: bytes of the opening seen, 7 for a box that is empty so far, then 7 + braces open, 15 + braces open
    behind a backslash, 24 when there are too many, 25 when closed.
    """
    state, first = 0, 0
    for special, group in itertools.groupby(pieces, key=lambda piece: not piece):
        run = list(group)
        text = b"".join(run)
        empty = [m.end() for m in re.finditer(re.escape(BOX) + rb"\s*\}", text)]
        begun = next((i for i in starts(text) if not re.match(rb"\s*\}", text[i:])), None)
        state = overlap(text[max([e for e in empty if begun is None], default=0) :], BOX)
        if not special and begun is not None:
            depth, cut = 1, False
            for mark in re.compile(rb"\\.|[{}\\]", re.DOTALL).finditer(text, begun):
                cut = mark[0] == b"\\"
                depth += {b"{": 1, b"}": -1}.get(mark[0], 0)
                if depth == 0:
                    stops = list(itertools.accumulate(map(len, run)))
                    return first + bisect_right(stops, mark.start()), 25
                if depth == 9:
                    break
            inside = 24 if depth == 9 else 15 + depth if cut else 7 + depth
            state = inside if text[begun:].strip() else 7
        first += len(run)
    return None, state


def starts(text: bytes) -> list[int]:
    """Where the contents of boxes begin."""
    return [m.end() for m in re.finditer(re.escape(BOX), text)]


def find(text: bytes, end: bytes, start: int = 0) -> int | None:
    """Where the first delimiter from `start` on is over."""
    pattern = rb"\n[ \t\r]*\n" if end == b"\n\n" else re.escape(end)
    found = re.compile(pattern).search(text, start)
    return found.end() if found else None


def partial(text: bytes, end: bytes) -> int:
    """How much of the delimiter the text ends with."""
    if end == b"\n\n":
        return int(bool(re.search(rb"\n[ \t\r]*\Z", text)))
    return overlap(text, end)


@functools.cache
def searched(kind: str, end: bytes) -> list[tuple[list[int], int | None, int, int]]:
    token_bytes, eos = vocabulary(kind)
    return [search(tokens, token_bytes, eos, end) for tokens in draw(kind, end)]


def search(
    tokens: list[int], token_bytes: list[bytes], eos: int, end: bytes
) -> tuple[list[int], int | None, int, int]:
    """(tokens that end a step, token that ends the solution, step state, box state).

    A delimiter inside the first token of a step is passed over with the whole token.
    """
    tokens = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
    pieces = [token_bytes[i] for i in tokens]
    closed, box_state = box(pieces)
    finish = closed if closed is not None else len(tokens) - 1 if eos in tokens else None
    pieces = pieces if finish is None else pieces[: finish + 1]
    marked = [piece or BREAK for piece in pieces]
    text, stops = b"".join(marked), [0, *itertools.accumulate(map(len, marked))]
    found, first, offset = [], 0, 0
    while first < len(pieces):
        alone = find(pieces[first], end) is not None
        offset = stops[first + 1] if alone else stops[first]
        over = find(text, end, offset)
        if over is None:
            break
        found.append(bisect_right(stops, over - 1) - 1)
        first, offset = found[-1] + 1, len(text)
    step_state = partial(text[offset:], end)
    if finish is not None and finish not in found:
        found.append(finish)
    return found, finish, step_state, box_state


@jax.jit
def scan(table: automaton.StopTable, tokens, lengths):
    """(final state, step ended [w, b], solution ended [w, b]), as a decoding loop goes."""

    def body(carry, column):
        state, empty, live = carry
        token, at = column
        live = live & (at < lengths)
        moved, ended, finished = automaton.advance(table, state, token, empty)
        state = jax.tree.map(lambda new, old: jnp.where(live, new, old), moved, state)
        return (state, ended, live & ~finished), (ended & live, finished & live)

    true = jnp.ones(lengths.shape, bool)
    columns = tokens.T, jnp.arange(tokens.shape[1], dtype=jnp.int32)
    carry, (ended, finished) = jax.lax.scan(
        body, (automaton.start(lengths.shape), true, true), columns
    )
    return carry[0], ended, finished


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros((len(rows), WIDTH), np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table, np.array([len(r) for r in rows], np.int32)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_device_tables_equal_a_search_of_the_text(kind, delimiter):
    (token_bytes, eos), end = vocabulary(kind), delimiter.encode()
    strings, wanted = draw(kind, end), searched(kind, end)
    table = automaton.stop_table(token_bytes, [eos], [delimiter])
    state, ended, finished = jax.tree.map(np.asarray, scan(table, *padded(strings)))
    for i, (found, finish, step_state, box_state) in enumerate(wanted):
        got = np.flatnonzero(ended[:, i]).tolist(), np.flatnonzero(finished[:, i]).tolist()
        assert got == (found, [] if finish is None else [finish]), strings[i]
        assert (state.step[i], state.boxed[i]) == (step_state, box_state), strings[i]
    ends = [[k for k in found if k != finish] for found, finish, *_ in wanted]
    stepped, closed = np.mean([*map(bool, ends)]), np.mean([w[1] is not None for w in wanted])
    boxed, lost = (np.mean([w[3] == box_state for w in wanted]) for box_state in (25, 24))
    assert 0.2 < stepped < 0.8 and 0.15 < closed < 0.8 and boxed > 0.1 and lost > 0.02
    spread = [end not in token_bytes[s[k]] for s, at in zip(strings, ends, strict=True) for k in at]
    assert len(end) == 1 or np.mean(spread) > 0.2


def bare(ids: list[int], token_bytes: list[bytes], eos: int) -> list[bytes]:
    """A step's text without EOS and the white space around, in pieces as they were but the outer two."""
    pieces = [token_bytes[i] or BREAK for i in ids if i != eos]
    text = b"".join(pieces)
    start, stop = len(text) - len(text.lstrip(strip.WHITE)), len(text.rstrip(strip.WHITE))
    found, at = [], 0
    for piece in pieces:
        kept = text[max(at, start) : min(at + len(piece), max(stop, start))]
        found += [kept if kept in token_bytes or kept == BREAK else piece] if kept else []
        at += len(piece)
    return [b"" if piece == BREAK else piece for piece in found]


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_strip_leaves_the_text_without_the_white_space_around(kind, delimiter):
    (token_bytes, eos), end = vocabulary(kind), delimiter.encode()
    steps = []
    for tokens, (found, finish, *_) in zip(draw(kind, end), searched(kind, end), strict=True):
        stops = [0, *(i + 1 for i in found), *([len(tokens)] if finish is None else [])]
        steps += [tokens[a:b] for a, b in itertools.pairwise(stops) if a < b]
    steps = steps[:STRINGS]
    table = strip.strip_table(token_bytes, [eos])
    ids, counts = jax.jit(strip.strip)(table, *(x[None] for x in padded(steps)))
    ids, counts = np.asarray(ids)[0], np.asarray(counts)[0]
    cut = 0
    for step, row, count in zip(steps, ids, counts, strict=True):
        wanted = bare(step, token_bytes, eos)
        assert [token_bytes[i] for i in row[:count]] == wanted, step
        cut += step[-1] != eos and len(b"".join(wanted)) < sum(len(token_bytes[i]) for i in step)
    assert 0.1 < cut / len(steps)


@pytest.mark.parametrize("kind", KINDS)
def test_joined_bytes_are_the_decoded_text(kind):
    """Up to SentencePiece's first blank; bytes that are no UTF-8 are compared for BPE only."""
    tokenizer = trained(kind)
    compared = 0
    for tokens in draw(kind, b"\n\n")[:3000]:
        data, text = b"".join(tokenizer.token_bytes[i] for i in tokens), tokenizer.decode(tokens)
        if kind == "byte_level":
            assert data.decode(errors="replace") == text
        elif data == data.decode(errors="ignore").encode():
            assert data.decode().lstrip(" ") == text.lstrip(" ")
        else:
            continue
        compared += 1
    assert compared > 300
    for text in CORPUS:
        data = b"".join(tokenizer.token_bytes[i] for i in tokenizer.encode(text))
        assert data.decode().strip(" ") == text.strip(" ")
