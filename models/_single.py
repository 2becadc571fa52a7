"""Texts that have to be one token: tags, probes, and the two answers of a judge."""

import re

from pfjax.models._asked import shown
from pfjax.models.config import CheckpointError
from pfjax.models.tokenizer import Tokenizer


def single(tokenizer: Tokenizer, text: str) -> int:
    """The token that writes `text` behind another text, else the piece of the vocabulary so called.

    CheckpointError if there is neither, such as for a word of several tokens.
    """
    if not isinstance(text, str):
        raise CheckpointError(f"an answer or probe is {shown(text)}, wanted a text of one token.")
    ids = tokenizer.continued(text) if text else []
    if len(ids) == 1 and _writes(tokenizer, ids, text):
        return ids[0]
    piece = tokenizer.token_id(text)
    if piece is not None:
        return piece
    if _is_mark(text) or not _writes(tokenizer, ids, text):
        raise CheckpointError(
            f"the tokenizer lacks {text!r}; use the PRM's own tokenizer, or name a text of one token."
        )
    raise CheckpointError(
        f"the tokenizer writes {text!r} in {len(ids)} tokens, wanted one; use the PRM's own tokenizer, "
        "or name a text of one token."
    )


def alone(tokenizer: Tokenizer, text: str) -> int:
    """The token of a text that stands alone, where SentencePiece puts it behind a space."""
    ids = tokenizer.encode(text)
    if len(ids) == 2 and not tokenizer.decode(ids[:1]).strip(" "):
        ids = ids[1:]
    if len(ids) != 1 or not _writes(tokenizer, ids, text):
        what = f"writes {text!r} in {len(ids)} tokens" if len(ids) > 1 else f"lacks {text!r}"
        raise CheckpointError(f"the tokenizer {what}, wanted one; use the PRM's own tokenizer.")
    return ids[0]


def several(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text behind another, such as a question to a judge; of a piece its own.

    CheckpointError for what looks like a control token, <so>, and is none.
    """
    ids = tuple(tokenizer.continued(text)) if text and isinstance(text, str) else ()
    if len(ids) < 2 or tokenizer.token_id(text) is not None or _is_mark(text):
        return (single(tokenizer, text),)
    return ids


def _is_mark(text: str) -> bool:
    return re.fullmatch(r"<[^<>\s]+>|\[[^\[\]\s]+\]", text) is not None


def _writes(tokenizer: Tokenizer, ids: list[int], text: str) -> bool:
    """Decoders of SentencePiece take a space away; unknown texts become nothing, or a mark."""
    return bool(ids) and tokenizer.decode(ids, keep_special=True).strip(" ") == text.strip(" ")
