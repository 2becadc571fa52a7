"""Logits, scores, ids and chat text equal what transformers computed (fixtures; no torch here)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax import models

POLICIES = ("tied", "grouped", "sharded", "yarn")


@pytest.mark.parametrize("name", POLICIES)
def test_logits_equal_torch(name, checkpoint, expected):
    policy = models.load_policy(checkpoint(name))
    arrays, _ = expected(name)
    logits = policy.logits(arrays["tokens"])[:, -20:]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4)
    assert np.abs(arrays["logits"]).max() > 3  # the comparison is not of zeros


@pytest.mark.parametrize("name", (*POLICIES, "prm"))
def test_ids_and_chat_equal_transformers(name, checkpoint, expected):
    tokenizer = models.Tokenizer.from_folder(checkpoint(name))
    _, texts = expected(name)
    assert tokenizer.encode(texts["text"]) == texts["ids"]
    assert tokenizer.decode(texts["ids"]) == texts["text"]
    assert tokenizer.chat(texts["messages"]) == texts["prompt"]
    assert tokenizer.chat(texts["messages"], False) == texts["transcript"]


def test_prm_scores_equal_torch(checkpoint, expected):
    prm = models.load_prm(checkpoint("prm"))
    arrays, texts = expected("prm")
    ids, probes = prm.encode(texts["question"], texts["steps"])
    assert ids == arrays["ids"][0].tolist()
    assert [ids[i] for i in probes] == [prm.format.probe[0]] * 3
    scores = prm.score(texts["question"], texts["steps"])
    assert scores.dtype == jnp.float32 and scores.shape == (3,)
    np.testing.assert_allclose(scores, arrays["scores"], rtol=0, atol=1e-4)
    assert np.ptp(arrays["scores"]) > 0.1


def test_later_steps_do_not_change_earlier_scores(checkpoint, expected):
    prm = models.load_prm(checkpoint("prm"))
    _, texts = expected("prm")
    steps = texts["steps"] * 2
    whole = np.asarray(prm.score(texts["question"], steps))
    for n in range(1, len(steps)):
        part = prm.score(texts["question"], steps[:n])
        np.testing.assert_allclose(part, whole[:n], rtol=0, atol=1e-5)


def test_end_of_sequence_ids_come_from_the_first_file_that_has_them(checkpoint):
    ids = [models.load_policy(checkpoint(name)).eos_ids for name in POLICIES[:3]]
    assert ids == [(2, 0), (0,), (2,)]  # generation_config, config, tokenizer_config
    assert models.load_policy(checkpoint("tied")).generation["temperature"] == 0.7


def test_old_and_new_config_fields(checkpoint):
    tied, grouped = (models.load_policy(checkpoint(n)).config for n in ("tied", "grouped"))
    assert (tied.rope.theta, tied.head_dim, tied.tie_embeddings) == (10000.0, 8, True)
    assert (grouped.rope.theta, grouped.num_kv_heads, grouped.tie_embeddings) == (1e6, 1, False)


def test_bfloat16_weights_stay_bfloat16(checkpoint, expected):
    policy = models.load_policy(str(checkpoint("tied")), dtype=jnp.bfloat16)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(policy.decoder))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    arrays, _ = expected("tied")
    logits = policy.logits(arrays["tokens"])
    assert logits.dtype == jnp.float32
    assert np.abs(logits - arrays["logits"]).mean() < 0.02 * np.abs(arrays["logits"]).mean()


def test_tilde_is_the_home_folder(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint("tied").parent))
    assert models.load_policy("~/tied").config.hidden_size == 32
