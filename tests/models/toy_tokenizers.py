"""Tokenizers of the kinds that published PRMs use, small: Llama 3's byte-level BPE, Mistral's SentencePiece."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

WORDS = ["Ann", "Bob", "has", "apples", "The", "answer", "is", "Why", "So", "more"]
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def _merged(words: list[str], alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary that spells every word, and the merges that build it letter by letter."""
    vocab, merges = {piece: i for i, piece in enumerate(alphabet)}, []
    for word in words:
        done = word[0]
        for letter in word[1:]:
            if done + letter not in vocab:
                merges.append((done, letter))
                vocab[done + letter] = len(vocab)
            done += letter
    return vocab, merges


def _save(folder: Path, backend: Tokenizer, settings: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def llama_like(folder: Path) -> int:
    """Byte-level BPE with a dialogue template; returns the number of ids."""
    alphabet = [chr(b) for b in range(33, 127)] + ["Ġ", "Ċ"]
    vocab, merges = _merged([*WORDS, *("Ġ" + word for word in WORDS), "ĊĊ"], alphabet)
    backend = Tokenizer(BPE(vocab, merges))
    split = pre_tokenizers.Split(" ?[A-Za-z]+| ?[0-9]| ?[^\\sA-Za-z0-9]+|\\s+", "isolated", False)  # fmt: skip
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    settings = {"bos_token": names[0], "eos_token": names[3], "chat_template": LLAMA_TEMPLATE}
    _save(folder, backend, settings)
    return backend.get_vocab_size()


def mistral_like(folder: Path) -> int:
    """SentencePiece-like BPE with byte fall-back, where " ки" is one token; returns the number of ids."""
    special = ["<unk>", "<s>", "</s>"]
    letters = sorted({*"".join(WORDS), *"0123456789+-=*.?\\{}", *"boxed", "▁", "к", "и"})
    pieces = special + [f"<0x{b:02X}>" for b in range(256)] + letters
    vocab, merges = _merged([*("▁" + word for word in WORDS), "▁ки", *WORDS], pieces)
    model = BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in special])
    _save(folder, backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    return backend.get_vocab_size()
