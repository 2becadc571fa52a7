"""Marks of control tokens that a user wrote are hidden while a template is rendered, and read as text.

    veil = Veil(tokenizer, contents);  veil.encode(render(veil.hide(content)))

Without such marks this is the tokenizer's `encode` of the rendered text.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfjax.models.tokenizer import Tokenizer

PRIVATE = range(0xE000, 0xF8FF)


class Veil:
    """`texts` are everything that is going to be hidden."""

    def __init__(self, tokenizer: "Tokenizer", texts: Sequence[str]):
        self._tokenizer = tokenizer
        self._marks = [mark for mark in tokenizer.controls if any(mark in text for text in texts)]
        every = "".join(texts)
        self._sign = next(c for c in map(chr, PRIVATE) if c not in every)

    def hide(self, text: str) -> str:
        """The text with every mark replaced by a sign that is none."""
        longest = sorted(self._marks, key=len, reverse=True)
        if not longest:
            return text
        pattern = "|".join(map(re.escape, longest))
        return re.sub(pattern, lambda m: self._signed(self._marks.index(m[0])), text)

    def encode(self, rendered: str) -> list[int]:
        """Ids of the rendered text: its own marks are control tokens, hidden ones are text."""
        if not self._marks:
            return self._tokenizer.encode(rendered)
        controls = set(self._tokenizer.controls.values())
        found = self._tokenizer.backend.encode(rendered, add_special_tokens=False)
        ids, start = [], 0
        for index, (left, right) in zip(found.ids, found.offsets, strict=True):
            if index in controls:
                ids += [*self._text(rendered[start:left], start == 0), index]
                start = right
        return ids + self._text(rendered[start:], start == 0)

    def _text(self, part: str, first: bool) -> list[int]:
        """The ids of what stands between two control tokens."""
        for i, mark in enumerate(self._marks):
            part = part.replace(self._signed(i), mark)
        encode = self._tokenizer.encode if first else self._tokenizer.continued
        return encode(part, control=False) if part else []

    def _signed(self, i: int) -> str:
        return f"{self._sign}{i}{self._sign}"
