"""PRM scores beside the published procedures run with torch and transformers (pfjax[parity])."""

import json

import families
import jax.numpy as jnp
import numpy as np
import pytest
import toy_tokenizers

from pfjax import models

torch = pytest.importorskip("torch")

QUESTION = "Ann has 3 apples. Why?"
STEPS = ["Bob has 3 + 4 = 7.", "So Ann has more.", "The answer is \\boxed{7}."]


def _checkpoint(folder, tokenizer_folder, family: str, vocab_size: int) -> None:
    """A causal language model with a tokenizer of its own, written by pfjax and re-read by transformers."""
    config = models.DecoderConfig(**(vars(families.config(family)) | dict(vocab_size=vocab_size)))
    tokenizer = models.Tokenizer.from_folder(tokenizer_folder)
    policy = models.Policy(families.decoder(config), tokenizer, (0,), {})
    models.export(policy, folder, dtype=jnp.float32)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def test_rlhflow(tmp_path):
    """One forward pass per step of the dialogue so far, the answer before "+" read at index -3."""
    from transformers import AutoModelForCausalLM

    size = toy_tokenizers.llama_like(tmp_path / "tokenizer")
    _checkpoint(tmp_path / "prm", tmp_path / "tokenizer", "llama3", size)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "prm", attn_implementation="eager")
    prm = models.load_prm(tmp_path / "prm", kind=models.RLHFLOW)
    plus, minus = (prm.tokenizer.encode(t)[-1] for t in "+-")
    conversation, wanted = [], []
    for i, step in enumerate(STEPS):
        content = f"{QUESTION} {step}" if i == 0 else step
        conversation += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": "+"},
        ]
        text = prm.tokenizer.chat(conversation, add_generation_prompt=False)
        ids = torch.tensor([prm.tokenizer.encode(text)])
        with torch.no_grad():
            z = theirs(ids).logits[:, -3, [plus, minus]].double()
        wanted.append(z.softmax(dim=-1)[0, 0].item())
    scores = prm.score(QUESTION, STEPS)
    np.testing.assert_allclose(scores, _log_odds(np.array(wanted)), rtol=0, atol=1e-4)


def test_math_shepherd(tmp_path):
    """All steps at once; two tokens' softmax at every step tag."""
    from transformers import AutoModelForCausalLM

    size = toy_tokenizers.mistral_like(tmp_path / "tokenizer")
    _checkpoint(tmp_path / "prm", tmp_path / "tokenizer", "mistral-window", size)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "prm", attn_implementation="eager")
    prm = models.load_prm(tmp_path / "prm", kind=models.MATH_SHEPHERD)
    tokens = [prm.tokenizer.encode(t)[-1] for t in "+-"]
    tag = prm.tokenizer.encode("ки")[-1]
    text = f"<s>{QUESTION} " + "\n".join(step + " ки" for step in STEPS)
    ids = torch.tensor([prm.tokenizer.encode(text)])
    with torch.no_grad():
        p = theirs(ids).logits[:, :, tokens].double().softmax(dim=-1)[0, :, 0]
    wanted = p[ids[0] == tag].numpy()
    assert wanted.shape == (3,)
    np.testing.assert_allclose(prm.score(QUESTION, STEPS), _log_odds(wanted), rtol=0, atol=1e-4)


def test_skywork(tmp_path, checkpoint):
    """pytorch_model.bin with a value head; steps encoded one by one, read at each newline."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "prm"
    source = models.load_policy(checkpoint("tied"))
    config = models.DecoderConfig(
        **(vars(families.config("qwen2-ungrouped")) | dict(vocab_size=131))
    )
    policy = models.Policy(families.decoder(config), source.tokenizer, (0,), {})
    models.export(policy, folder, dtype=jnp.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    head = torch.nn.Linear(config.hidden_size, 1)
    state = {
        **theirs.state_dict(),
        "v_head.summary.weight": head.weight,
        "v_head.summary.bias": head.bias,
    }
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    prm = models.load_prm(folder)
    assert prm.kind is models.SKYWORK
    encode, newline = prm.tokenizer.encode, prm.tokenizer.encode("\n")[-1]
    ids = encode(prm.tokenizer.special_tokens["bos_token"] + QUESTION + "\n")
    flags = [0] * len(ids)
    for step in STEPS:
        piece = [*encode(step), newline]
        ids, flags = ids + piece, flags + [0] * (len(piece) - 1) + [1]
    with torch.no_grad():
        h = theirs.model(torch.tensor([ids])).last_hidden_state[0]
        wanted = head(h)[np.array(flags) == 1, 0].numpy()
    np.testing.assert_allclose(prm.score(QUESTION, STEPS), wanted, rtol=0, atol=1e-4)

    models.export(prm, tmp_path / "again", dtype=jnp.float32)
    again = models.load_prm(tmp_path / "again")
    assert again.kind is models.SKYWORK
    np.testing.assert_array_equal(again.score(QUESTION, STEPS), prm.score(QUESTION, STEPS))


def test_kinds_survive_an_export(tmp_path):
    size = toy_tokenizers.llama_like(tmp_path / "tokenizer")
    _checkpoint(tmp_path / "prm", tmp_path / "tokenizer", "llama3", size)
    with pytest.raises(models.CheckpointError, match="without a reward head"):
        models.load_prm(tmp_path / "prm")
    prm = models.load_prm(tmp_path / "prm", kind=models.RLHFLOW)
    models.export(prm, tmp_path / "out", dtype=jnp.float32)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pfjax_prm"] == "rlhflow"
    again = models.load_prm(tmp_path / "out")
    assert again.kind is models.RLHFLOW
    np.testing.assert_array_equal(again.score(QUESTION, STEPS), prm.score(QUESTION, STEPS))
