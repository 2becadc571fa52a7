"""Live comparison with torch and transformers; skipped without them (pfjax[parity])."""

import families
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import models

torch = pytest.importorskip("torch")

MESSAGES = [{"role": "user", "content": "Bob has 3 apples."}, {"role": "assistant", "content": "3"}]
TEXT = "Ann has 12 apples.\n\n<|im_start|>Zed: {x}\n 7 + 8 = 15<think>"


@pytest.mark.parametrize("name", families.CASES)
def test_exports_run_in_transformers(name, checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = models.load_policy(checkpoint("tied"))
    decoder = families.decoder(families.config(name))
    noted = {"bos_token_id": 1, "pad_token_id": 3}
    policy = models.Policy(decoder, source.tokenizer, (2, 0), source.generation, noted)
    models.export(policy, tmp_path / "out", dtype=jnp.float32)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert model.dtype == torch.float32 and model.generation_config.eos_token_id == [2, 0]
    assert (model.config.bos_token_id, model.config.pad_token_id) == (1, 3)
    tokens = np.random.default_rng(1).integers(0, 131, (3, 29))
    with torch.no_grad():
        wanted = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(policy.logits(tokens), wanted, rtol=0, atol=1e-4)
    assert np.abs(wanted).max() * max(policy.config.logits_divisor, 1) > 1

    prompt = tokens[:1, :20]
    told = dict(do_sample=False, max_new_tokens=8, eos_token_id=None, pad_token_id=0)
    text = model.generate(torch.tensor(prompt), **told)[0, 20:].tolist()
    assert text == greedy(policy, prompt, 8)

    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.encode(TEXT, add_special_tokens=False) == policy.tokenizer.encode(TEXT)
    ids = policy.tokenizer.encode(TEXT)
    assert theirs.decode(ids, skip_special_tokens=True) == policy.tokenizer.decode(ids)
    for prompt in (True, False):
        text = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)
        assert text == policy.tokenizer.chat(MESSAGES, prompt)

    model.save_pretrained(tmp_path / "theirs")  # and back from their own file
    theirs.save_pretrained(tmp_path / "theirs")
    again = models.load_policy(tmp_path / "theirs")
    assert again.eos_ids == (2, 0)
    np.testing.assert_array_equal(again.logits(tokens), policy.logits(tokens))


LONG = (
    "qwen3-yarn",
    "qwen2-yarn-sharp",
    "qwen2-grouped-7",
    "llama3",
    "llama-linear",
    "phi3-longrope",
    "phi3-partial",
    "gemma3",
)


@pytest.mark.parametrize("name", LONG)
def test_long_positions(name, checkpoint, tmp_path):
    """Tokens at positions around 4000: angles are as exact as float32 lets them be."""
    from transformers import AutoModelForCausalLM

    from pfjax.models.decoder import causal_attention

    config = families.config(name)
    decoder = families.decoder(config)
    source = models.load_policy(checkpoint("tied"))
    models.export(models.Policy(decoder, source.tokenizer, (0,), {}), tmp_path, dtype=jnp.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    tokens = np.random.default_rng(2).integers(0, 131, (1, 20))
    positions = np.arange(4000, 4020)[None]
    with torch.no_grad():
        wanted = model(torch.tensor(tokens), position_ids=torch.tensor(positions)).logits.numpy()
    x, at = (jnp.asarray(a, jnp.int32)[:, None] for a in (tokens, positions))
    found = decoder.logits(decoder(x, at, causal_attention(config))[:, 0])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def greedy(policy, prompt: np.ndarray, count: int) -> list[int]:
    """The likeliest continuation, by full passes of one width."""
    ids = np.pad(prompt, ((0, 0), (0, count)))
    for at in range(prompt.shape[1], ids.shape[1]):
        ids[0, at] = int(policy.logits(ids)[0, at - 1].argmax())
    return ids[0, prompt.shape[1] :].tolist()


def test_bfloat16_export_is_read_as_bfloat16(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    models.export(models.load_policy(checkpoint("grouped")), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16


def test_prm_scores_equal_torch(checkpoint, tmp_path):
    from safetensors.torch import load_file
    from transformers import Qwen2Model

    source = models.load_prm(checkpoint("prm"))
    models.export(source, tmp_path / "prm", dtype=jnp.float32)
    body = Qwen2Model.from_pretrained(tmp_path / "prm", attn_implementation="eager")
    weights = load_file(tmp_path / "prm" / "model.safetensors")
    steps = ["Bob has 3.", "Ann has 3 + 4 = 7.", "so \\boxed{7}"]
    ids, probes = source.encode("How many?", steps)
    with torch.no_grad():
        h = body(torch.tensor([ids])).last_hidden_state[0, probes]
        h = torch.relu(h @ weights["score.0.weight"].T + weights["score.0.bias"])
        z = h @ weights["score.2.weight"].T + weights["score.2.bias"]
    scores = source.score("How many?", steps)
    np.testing.assert_allclose(scores, (z[:, 1] - z[:, 0]).numpy(), rtol=0, atol=1e-4)
