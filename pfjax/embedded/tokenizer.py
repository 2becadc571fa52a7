"""The embedded models' tokenizer: byte-level BPE without merges, whose words and numbers 0..99 are
added tokens.

Built, not trained: the vocabulary is 256 bytes, the words of the orchard task with the spaces
around them, and the numbers. Every other text falls back to bytes, so decode(encode(s)) == s for
any s. A full stop and the blank line after it are one token, as in Qwen2.5. Added tokens, and not a
pre-tokenizer, because transformers 5 rebuilds its own pre-tokenizer for Qwen2.
"""

import json
from pathlib import Path

from pfjax.tasks.orchard import ITEMS, NAMES

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
EOS, START, END, PROBE = SPECIAL
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% if not loop.last %}<|endoftext|>{% endif %}"
    "{% endif %}{% endfor %}"
)
_INSIDE = (
    "has ",
    " bags ",
    "of ",
    " more ",
    " fewer ",
    "than ",
    "twice ",
    " times ",
    "half ",
    "as ",
    "many ",
)
_INSIDE += ("and ", "together", "How ", "does ", "have", "bags ", "more ", "fewer ", "times ")
_MARKS = (
    ". ",
    ".\n\n",
    ".",
    "?",
    " * ",
    " + ",
    " - ",
    " / ",
    " = ",
    "* ",
    "+ ",
    "- ",
    "/ ",
    "= ",
    "\\boxed{",
    "}.",
    "}",
    "\n\n",
)


def words() -> list[str]:
    """Every multi-byte token, as text, in id order."""
    named = [form for name in NAMES for form in (f"{name} ", name)]
    items = [form for item in ITEMS for form in (f" {item}", f"{item} ")]
    numbers = [str(i) for i in range(10, 100)]
    return [*named, *items, *_INSIDE, *(m for m in _MARKS if len(m) > 1), *numbers]


def _byte_alphabet() -> dict[int, str]:
    """The printable stand-ins that byte-level BPE uses for bytes (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def write_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json in Hugging Face format."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(SPECIAL)}
    vocab |= {piece: byte + len(SPECIAL) for byte, piece in _byte_alphabet().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(w, special=False, normalized=False) for w in words()])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": EOS,
        "unk_token": EOS,
        "pad_token": EOS,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
