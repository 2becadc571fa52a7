"""Tags, probes and answers that have to be one token, and probes that may be many."""

import json
from pathlib import Path

import numpy as np
import pytest
import toy_prms
import toy_tokenizers

from pfjax import models

QUESTION, STEPS = "Ann has 3 apples. Why?", ["Bob has 3 + 4 = 7.", "So Ann has more.", "It is 7."]
SENTENCE = "\nIs this right so far?"


def edited(tokenizer: models.Tokenizer, folder: Path, edit) -> models.Tokenizer:
    """A tokenizer whose tokenizer.json was changed."""
    tokenizer.save(folder)
    raw = json.loads(tokenizer.source)
    edit(raw["model"])
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return models.Tokenizer.from_folder(folder)


def without_merges(*pieces: str):
    """Words of several letters are spelled."""

    def edit(model):
        model["merges"] = [m for m in model["merges"] if "".join(m) not in pieces]

    return edit


def renamed(old: str, new: str):
    """A letter that the vocabulary no longer has."""

    def edit(model):
        model["vocab"] = {new if k == old else k: v for k, v in model["vocab"].items()}
        model["merges"] = [m for m in model["merges"] if old not in m]

    return edit


@pytest.mark.parametrize(
    "kind, own, edit, words",
    [
        (models.MATH_SHEPHERD, "mistral", without_merges("▁ки"), "writes ' ки' in 2 tokens"),
        (models.MATH_SHEPHERD, "llama", without_merges(), "lacks ' ки'"),
        (models.RLHFLOW, "llama", renamed("-", "±"), "lacks '-'"),
        (models.SKYWORK, "qwen", renamed("Ċ", "±"), r"lacks '\n'"),
        (models.QWEN, "llama", without_merges(), "lacks '<extra_0>'"),
        (models.QWEN_ONCE, "mistral", without_merges(), "lacks '<extra_0>'"),
    ],
)
def test_a_kind_refuses_a_tokenizer_without_its_marks(kind, own, edit, words, tmp_path, checkpoint):
    """As it is loaded, before weights are read."""
    edited(toy_prms.tokenizer(own), tmp_path, edit)
    config = json.loads((checkpoint("tied") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 999}))
    (tmp_path / "model.safetensors").write_bytes(
        (checkpoint("tied") / "model.safetensors").read_bytes()
    )
    with pytest.raises(models.CheckpointError) as caught:
        models.load_prm(tmp_path, kind=kind)
    assert words in str(caught.value) and "use the PRM's own tokenizer" in str(caught.value)


@pytest.mark.parametrize(
    "text, piece", [(" has", "Ġhas"), ("\n", "Ċ"), ("+", "+"), ("Ġhas", "Ġhas"), ("Ċ", "Ċ"), ("<think>", "<think>")]
)  # fmt: skip
def test_answers_are_texts_or_pieces(text, piece, checkpoint):
    policy = models.load_policy(checkpoint("tied"))
    prm = models.token_prm(policy, text, "-", probe="<extra_0>")
    assert prm.module.plus == policy.tokenizer.token_id(piece) is not None


def test_pieces_of_sentencepiece(tmp_path):
    """A word behind another has a space in front, or none."""
    toy_tokenizers.mistral_like(tmp_path)
    tokenizer = models.Tokenizer.from_folder(tmp_path)
    from pfjax.models._single import single

    found = [single(tokenizer, text) for text in (" has", "▁has", "has", "\n", "<0x0A>")]
    wanted = [tokenizer.token_id(p) for p in ("▁has", "▁has", "has", "<0x0A>", "<0x0A>")]
    assert found == wanted and None not in wanted


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((" Yes", "-", "<extra_0>"), "writes ' Yes' in 3 tokens, wanted one"),
        (("+", "No", "<extra_0>"), "writes 'No' in 2 tokens, wanted one"),
        (("+", "☃", "<extra_0>"), "lacks '☃'"),
        (("+", "", "<extra_0>"), "lacks ''"),
        (("+", "-", "<good>"), "lacks '<good>'"),
        (("+", "-", ""), "lacks ''"),
    ],
)
def test_answers_of_several_tokens_are_refused(arguments, words, checkpoint):
    policy = models.load_policy(checkpoint("tied"))
    with pytest.raises(models.CheckpointError) as caught:
        models.token_prm(policy, *arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    if words == "lacks '<good>'":
        with pytest.raises(models.CheckpointError, match=words):
            models.value_prm(policy, "<good>")


@pytest.mark.parametrize("keep", (True, False))
def test_a_sentence_is_a_probe(keep, checkpoint):
    """The policy's logits behind the question; step by step as at once; never handed to the device's path."""
    policy = models.load_policy(checkpoint("tied"))
    prm = models.token_prm(policy, " has", "+", SENTENCE, keep=keep)
    assert len(prm.format.probe) > 5 and not prm.format.plain
    wanted = []
    for i in range(len(STEPS)):
        parts = [*(s + SENTENCE * keep for s in STEPS[:i]), STEPS[i] + SENTENCE]
        text = ("" if keep else "\n\n").join(parts)
        start = policy.tokenizer.decode(prm.format.prompt(QUESTION), keep_special=True)
        ids = prm.encode(QUESTION, STEPS[: i + 1])[0]
        assert policy.tokenizer.decode(ids, keep_special=True) == start + text
        z = np.asarray(policy.logits(np.array([ids])))[0, -1]
        plus, minus = (policy.tokenizer.token_id(t) for t in ("Ġhas", "+"))
        wanted.append(z[plus] - z[minus])
    np.testing.assert_allclose(prm.score(QUESTION, STEPS), wanted, rtol=0, atol=1e-4)
    state = models.begin(prm, [QUESTION], 1, room=200)
    for step, value in zip(STEPS, wanted, strict=True):
        state = models.append(prm, state, [[step]])
        np.testing.assert_allclose(state.value, [[value]], rtol=0, atol=1e-4)


def test_formats_that_the_device_cannot_read_are_refused():
    made = dict(prompt=lambda q: [1], step=lambda text, first: [2])
    with pytest.raises(ValueError, match="probe has 2 tokens, wanted one, for a plain format"):
        models.StepFormat(**made, probe=(3, 4), plain=True)
    with pytest.raises(ValueError, match="probe has 0 tokens, wanted at least one"):
        models.StepFormat(**made, probe=())
