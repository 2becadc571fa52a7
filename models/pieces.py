"""A text in pieces, where tokens do not end with characters and decoders drop blanks.

    texts = pieces(tokenizer, [[5, 9], [3], ...])       "".join(texts) is the text of all tokens

A character whose bytes are spread over two pieces belongs to the second. Bytes that no character was made of
at the end are not shown.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pfjax.models.tokenizer import Tokenizer


class Cut(NamedTuple):
    """Where a text stands: the bytes of a character that has begun, and whether anything was written."""

    begun: bytes = b""
    written: bool = False


START = Cut()


def pieces(tokenizer: Tokenizer, steps: Iterable[Sequence[int]]) -> list[str]:
    """The text of each step of one text."""
    texts, cut = [], START
    for step in steps:
        text, cut = piece(tokenizer, step, cut)
        texts.append(text)
    return texts


def piece(tokenizer: Tokenizer, ids: Sequence[int], cut: Cut = START) -> tuple[str, Cut]:
    """The text of tokens that go on behind `cut`, and where it stands then."""
    table = tokenizer.token_bytes
    data = cut.begun + b"".join(table[i] for i in ids if i < len(table))
    whole = _whole(data)
    text = data[:whole].decode("utf-8", "replace")
    if not cut.written and text.startswith(" ") and tokenizer.drops_blank:
        text = text[1:]
        return text, Cut(data[whole:], True)
    return text, Cut(data[whole:], cut.written or whole > 0)


def tail(tokenizer: Tokenizer, ids: Sequence[int]) -> Cut:
    """Where a text stands behind tokens of which these are the last ones, three or all."""
    table = tokenizer.token_bytes
    data = b"".join(table[i] for i in ids if i < len(table))
    return Cut(data[_whole(data) :], bool(data))


def _whole(data: bytes) -> int:
    """How many bytes there are without those of a character that has only begun."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if lead >= 0xC0:
            size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(data) - back if size > back else len(data)
        if lead < 0x80:
            break
    return len(data)
