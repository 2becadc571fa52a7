"""Tokenizers: text survives, every token has its bytes, templates run in a sandbox."""

import json
import subprocess
import sys

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax.embedded.tokenizer import write_tokenizer
from pfjax.models import CheckpointError, Tokenizer

USER = [{"role": "user", "content": "Hi"}]
PARTS = st.sampled_from(
    ["Ann ", "has ", "12", ".\n\n", " * ", "\\boxed{", "}.", "<extra_0>", " é", "日"]
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("embedded")
    write_tokenizer(folder)
    return Tokenizer.from_folder(folder)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(max_size=40) | st.lists(PARTS | st.text(max_size=3), max_size=8).map("".join))
def test_decode_inverts_encode(embedded, text):
    ids = embedded.encode(text)
    assert embedded.decode(ids, keep_special=True) == text
    plain = b"".join(embedded.token_bytes[i] for i in ids)
    assert plain.decode() == embedded.decode(ids)


def test_special_tokens_are_dropped_unless_kept(embedded):
    ids = [*embedded.encode("Ann "), embedded.token_id("<extra_0>")]
    assert embedded.decode(ids) == "Ann " and embedded.decode(ids, keep_special=True).endswith(
        "_0>"
    )
    assert embedded.token_id("<extra_1>") is None
    assert embedded.token_bytes[ids[-1]] == b""
    assert len(embedded.token_bytes) == embedded.vocab_size
    assert sorted(b for b in embedded.token_bytes if len(b) == 1) == [
        bytes([b]) for b in range(256)
    ]


def test_added_tokens_that_are_not_special_are_text(checkpoint):
    tokenizer = Tokenizer.from_folder(checkpoint("tied"))
    ids = tokenizer.encode("<think>Ann has<|im_end|>")
    assert tokenizer.decode(ids) == "<think>Ann has"
    assert b"".join(tokenizer.token_bytes[i] for i in ids) == b"<think>Ann has"


@pytest.fixture
def sentencepiece(tmp_path) -> Tokenizer:
    """Llama 2 style: `▁` for spaces, bytes where no piece fits."""
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "▁ab"]
    merges = [("▁", "a"), ("▁a", "b")]
    bpe = tokenizers.models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges,
        unk_token="<unk>",
        byte_fallback=True,
    )
    model = tokenizers.Tokenizer(bpe)
    model.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    steps = tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback()
    model.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Fuse()])
    model.add_special_tokens(["<unk>", "</s>"])
    model.enable_truncation(4)
    model.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer.from_folder(tmp_path)


def test_sentencepiece_bytes(sentencepiece):
    text = "ab a\n\nb ab é"
    ids = sentencepiece.encode(text)  # longer than the truncation in the file
    assert b"".join(sentencepiece.token_bytes[i] for i in ids).decode() == text
    assert sentencepiece.decode(ids) == text
    assert sentencepiece.token_bytes[sentencepiece.token_id("<0x0A>")] == b"\n"
    assert sentencepiece.token_bytes[1] == b""


def words(folder, decoder, pieces=("[UNK]", "one ", "é.\n\n")) -> Tokenizer:
    """A word-level tokenizer with a decoder, or none."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(pieces)}))
    if decoder is not None:
        model.decoder = decoder
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "decoder, named",
    [(tokenizers.decoders.WordPiece(), r"\['WordPiece'\]"), (None, r"\[\]")],
)
def test_tokens_without_fixed_bytes_are_refused(tmp_path, decoder, named):
    """Both put blanks between tokens, so what a token adds depends on its place."""
    tokenizer = words(tmp_path, decoder)
    assert tokenizer.decode([1, 2]) != "one é.\n\n"
    with pytest.raises(CheckpointError, match=f"decoder {named}, which gives tokens no fixed"):
        _ = tokenizer.token_bytes


@pytest.mark.parametrize("nested", [False, True])
def test_plainly_joined_words_are_their_own_bytes(tmp_path, nested):
    fuse = tokenizers.decoders.Fuse()
    tokenizer = words(tmp_path, tokenizers.decoders.Sequence([fuse]) if nested else fuse)
    assert tokenizer.token_bytes[1:] == [b"one ", "é.\n\n".encode()]
    assert tokenizer.decode([1, 2]) == "one é.\n\n"


@pytest.mark.parametrize(
    "decoder",
    [
        tokenizers.decoders.ByteLevel(),
        tokenizers.decoders.Sequence(
            [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback()]
        ),
    ],
    ids=["byte-level", "sentencepiece"],
)
def test_odd_pieces_and_added_tokens_have_the_bytes_that_decode_gives(tmp_path, decoder):
    """An added token passes through the decoder like a piece; `<0xNN>` is no byte but text."""
    words(tmp_path, decoder, ("[UNK]", "<0xNN>", "a"))
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    added = ("naïve", "x▁y", "two words")
    backend.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in added])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    texts = [data.decode(errors="replace") for data in tokenizer.token_bytes]
    assert texts == [tokenizer.decode([i]) for i in range(6)]


def test_no_template_matters_only_for_chat(sentencepiece):
    with pytest.raises(CheckpointError, match="has no chat template; add chat_template"):
        sentencepiece.chat(USER)


def with_template(folder, template) -> Tokenizer:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return Tokenizer.from_folder(folder)


def test_templates_run_in_a_sandbox(copied):
    folder = copied("tied")
    reach = "{{ messages.__class__.__mro__ }}"
    with pytest.raises(ValueError, match="refused the messages: access to attribute '__class__'"):
        with_template(folder, reach).chat(USER)
    with pytest.raises(ValueError, match="refused the messages: .*append"):
        with_template(folder, "{{ messages.append(1) }}").chat(USER)
    with pytest.raises(CheckpointError, match="not valid Jinja"):
        with_template(folder, "{% for %}").chat(USER)
    with pytest.raises(ValueError, match="unknown role tool"):
        Tokenizer.from_folder(copied("grouped")).chat([{"role": "tool", "content": "x"}])


def test_named_templates_and_special_tokens(copied):
    folder = copied("tied")
    named = [
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": "{{ bos_token }}"},
    ]
    assert with_template(folder, named).chat(USER) == "<|im_start|>"
    assert with_template(folder, "{{ tools is none }}{{ [1] | tojson }}").chat(USER) == "True[1]"
    assert with_template(folder, "a\n  {% if tools is none %}\nb{% endif %}").chat(USER) == "a\nb"
    text = "{% generation %}{{ messages[0].content }}{% endgeneration %}!"
    assert with_template(folder, text).chat(USER) == "Hi!"


def test_save_and_load(checkpoint, expected, tmp_path):
    tokenizer = Tokenizer.from_folder(checkpoint("sharded"))  # template in its own file
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_folder(tmp_path / "saved")
    _, texts = expected("sharded")
    assert again.encode(texts["text"]) == texts["ids"]
    assert again.chat(texts["messages"]) == texts["prompt"]


def test_loading_does_not_import_transformers_or_torch(checkpoint):
    code = (
        "import sys; from pfjax import models;"
        f"p = models.load_policy({str(checkpoint('tied'))!r});"
        "p.tokenizer.chat([{'role': 'user', 'content': 'Hi'}]); p.tokenizer.token_bytes;"
        "assert not {'transformers', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
