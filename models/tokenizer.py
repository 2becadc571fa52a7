"""A checkpoint's own tokenizer: text to ids and back, the bytes of every token, the chat template.

Runs on the `tokenizers` library directly, because importing transformers costs seconds. Ids equal
those of `AutoTokenizer(...).encode(text, add_special_tokens=False)`. Knows nothing of models.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from functools import cached_property
from pathlib import Path

import tokenizers

from pfjax.models._files import read_object, read_text, write_object
from pfjax.models._veil import Veil
from pfjax.models.config import CheckpointError


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """`source` is the text of tokenizer.json, `settings` the parsed tokenizer_config.json."""

    backend: tokenizers.Tokenizer
    source: str
    settings: dict
    template: str | None

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """Reads tokenizer.json, tokenizer_config.json and, if there, chat_template.jinja."""
        folder = Path(path).expanduser()
        source = read_text(folder / "tokenizer.json")
        try:
            backend = tokenizers.Tokenizer.from_str(source)
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(
                f"{folder / 'tokenizer.json'} is not a tokenizer ({error}); download it again."
            ) from None
        backend.no_truncation()
        backend.no_padding()
        config = folder / "tokenizer_config.json"
        settings = read_object(config) if config.exists() else {}
        return cls(backend, source, settings, _template(folder, settings))

    def encode(self, text: str, *, control: bool = True) -> list[int]:
        """Token ids; no special tokens are added.

        Those written out in the text are recognised, without `control` they are text like any other.
        """
        literal = not control and any(mark in text for mark in self.controls)
        backend = self._literal if literal else self.backend
        return backend.encode(text, add_special_tokens=False).ids

    def continued(self, text: str, *, control: bool = True) -> list[int]:
        """Token ids of a text that goes on behind another; SentencePiece puts no space before it."""
        if self._byte_level:
            return self.encode(text, control=control)
        start = self.encode("\n")  # a byte of its own, with which nothing merges
        ids = self.encode("\n" + text, control=control)
        alone = ids[: len(start)] != start
        return self.encode(text, control=control) if alone else ids[len(start) :]

    def veil(self, texts: Sequence[str]) -> Veil:
        """What hides the marks of control tokens in texts from a template."""
        return Veil(self, texts)

    @cached_property
    def controls(self) -> dict[str, int]:
        """The special tokens, as they are written, and their ids."""
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: index for index, token in added if token.special and token.content}

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self.source)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def beginning(self) -> str:
        """What the tokenizer puts in front of a text by itself, such as "<bos>"; mostly nothing."""
        bare = self.backend.encode("x", add_special_tokens=False).ids
        full = self.backend.encode("x", add_special_tokens=True).ids
        count = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return self.decode(full[:count], keep_special=True)

    @cached_property
    def _byte_level(self) -> bool:
        return "ByteLevel" in set(_types(json.loads(self.source).get("decoder")))

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """The text of ids; special tokens are dropped unless kept."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=not keep_special)

    @cached_property
    def drops_blank(self) -> bool:
        """Whether `decode` leaves out the blank that a text begins with (SentencePiece)."""
        blank = (i for i, data in enumerate(self.token_bytes) if data[:1] == b" " and data.strip())
        first = next(blank, None)
        return first is not None and not self.decode([first]).startswith(" ")

    def chat(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        date: Date | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> str:
        """A conversation in the model's own format, or that of `template`.

        CheckpointError if there is none. `date` is today for the template (None: it is), `arguments` are
        names that it knows.
        """
        from pfjax.models._chat_template import render

        template = self.template if template is None else template
        if template is None:
            raise CheckpointError(
                "the tokenizer has no chat template; add chat_template to tokenizer_config.json, or "
                'give the text that is to be completed: Prompt(template="plain").'
            )
        return render(
            template,
            messages,
            self.special_tokens | dict(arguments or {}),
            add_generation_prompt=add_generation_prompt,
            date=date,
        )

    def token_id(self, text: str) -> int | None:
        """The id of a token given as text, such as `<extra_0>`; None if there is none."""
        return self.backend.token_to_id(text)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Named special tokens, such as {"eos_token": "<|endoftext|>"}."""
        named = {}
        for name, token in self.settings.items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str):
                named[name] = text
        return named

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes every id stands for, [vocab_size]; empty for special tokens and unused ids.

        Joined, they are the UTF-8 text of `decode` (which drops SentencePiece's leading space).
        """
        raw = json.loads(self.source)
        kinds = set(_types(raw.get("decoder")))
        if "ByteLevel" in kinds:
            to_bytes = _byte_level
        elif kinds & {"ByteFallback", "Metaspace", "Replace"}:
            to_bytes = _sentencepiece
        elif kinds - {"Sequence"} == {"Fuse"}:
            to_bytes = str.encode
        else:
            raise CheckpointError(
                f"tokenizer.json has the decoder {sorted(kinds)}, which gives tokens no fixed "
                "bytes; pfjax reads byte-level, SentencePiece and plainly joined (Fuse) tokenizers."
            )
        table = [b""] * self.vocab_size
        for piece, index in self.backend.get_vocab(with_added_tokens=False).items():
            table[index] = to_bytes(piece)
        for index, token in self.backend.get_added_tokens_decoder().items():
            table[index] = b"" if token.special else to_bytes(token.content)
        return table

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, unchanged, and tokenizer_config.json with the template inside."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.source, encoding="utf-8")
        settings = dict(self.settings)
        if self.template is not None:
            settings["chat_template"] = self.template
        write_object(folder / "tokenizer_config.json", settings)


def byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level BPE (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


_ALPHABET = byte_alphabet()


def _byte_level(piece: str) -> bytes:
    if all(c in _ALPHABET for c in piece):
        return bytes(_ALPHABET[c] for c in piece)
    return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


def _types(node: object) -> Iterable[str]:
    """The component types of a tokenizer.json node, sequences flattened."""
    if isinstance(node, dict):
        yield str(node.get("type"))
        for child in node.get("decoders") or []:
            yield from _types(child)


def _template(folder: Path, settings: dict) -> str | None:
    """chat_template.jinja, else the `chat_template` field (of a list the default), else None."""
    if (folder / "chat_template.jinja").exists():
        return read_text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
