"""The shipped checkpoints: Hugging Face format, small, and the same in transformers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfjax import models
from pfjax.search.loading import EMBEDDED, resolve
from pfjax.tasks import generate

NAMES = ("small", "large", "prm")
TOKENIZER = models.Tokenizer.from_folder(resolve("embedded:small"))


def test_together_at_most_8_megabytes_with_a_card():
    files = [f for name in NAMES for f in (EMBEDDED / name).iterdir()]
    assert sum(f.stat().st_size for f in files) <= 8 * 2**20
    card = (EMBEDDED / "README.md").read_text()
    assert all(f"embedded:{name}" in card for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_hugging_face(name):
    folder = EMBEDDED / name
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted <= {f.name for f in folder.iterdir()}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2"
    assert "chat_template" in json.loads((folder / "tokenizer_config.json").read_text())


def test_the_three_share_one_tokenizer():
    texts = {(EMBEDDED / name / "tokenizer.json").read_text() for name in NAMES}
    assert len(texts) == 1


@given(st.text(max_size=60))
def test_decode_inverts_encode(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text), keep_special=True) == text


def test_words_and_numbers_are_single_tokens():
    problem = generate(0, "test")
    for step in problem.steps[:-1]:
        ids = TOKENIZER.encode(step + "\n\n")
        assert len(ids) <= 12 and TOKENIZER.token_bytes[ids[-1]] == b".\n\n"
    assert all(len(TOKENIZER.encode(str(n))) == 1 for n in range(100))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ("small", "large"))
def test_live_transformers_gives_the_same_tokens_and_logits(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = resolve(f"embedded:{name}")
    policy = models.load_policy(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for index in range(3):
        problem = generate(index, "test")
        messages = [{"role": "user", "content": problem.question}]
        text = policy.tokenizer.chat(messages) + "\n\n".join(problem.steps)
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text.startswith(theirs)
        ids = policy.tokenizer.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        with torch.no_grad():
            wanted = reference(torch.tensor([ids])).logits[0].numpy()
        got = np.asarray(policy.logits(np.array([ids], np.int32)))[0]
        np.testing.assert_allclose(got, wanted, atol=1e-4)
