"""Export: what is written loads to the same model, and nothing that was there is harmed."""

import json
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax import models

FILES = ["config.json", "generation_config.json", "model.safetensors"]
FILES += ["tokenizer.json", "tokenizer_config.json"]


def leaves(module) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(module))]


@pytest.mark.parametrize("name", ["tied", "grouped", "sharded"])
def test_a_policy_comes_back_bitwise(name, checkpoint, expected, tmp_path):
    policy = models.load_policy(checkpoint(name))
    models.export(policy, tmp_path / "new" / "folder", dtype=jnp.float32)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == FILES
    assert os.listdir(tmp_path / "new") == ["folder"]
    again = models.load_policy(tmp_path / "new" / "folder")
    assert again.config == policy.config and again.eos_ids == policy.eos_ids
    assert again.generation == policy.generation | {"eos_token_id": list(policy.eos_ids)}
    for old, new in zip(leaves(policy.decoder), leaves(again.decoder), strict=True):
        np.testing.assert_array_equal(old, new)
    arrays, texts = expected(name)
    np.testing.assert_array_equal(again.logits(arrays["tokens"]), policy.logits(arrays["tokens"]))
    assert again.tokenizer.source == policy.tokenizer.source
    assert again.tokenizer.chat(texts["messages"]) == texts["prompt"]


def test_a_prm_comes_back_bitwise(checkpoint, expected, tmp_path):
    prm = models.load_prm(checkpoint("prm"))
    models.export(prm, tmp_path / "prm")  # bfloat16: what the fixture holds
    assert sorted(os.listdir(tmp_path / "prm")) == [f for f in FILES if "generation" not in f]
    _, texts = expected("prm")
    again = models.load_prm(tmp_path / "prm")
    scores = [m.score(texts["question"], texts["steps"]) for m in (prm, again)]
    np.testing.assert_array_equal(*scores)


def test_a_prm_with_a_language_head_is_written_without_it(checkpoint, tmp_path):
    """A PRM trained beside the language-model loss carries a head that nothing scores with."""
    prm = models.load_prm(checkpoint("prm"))
    untied = replace(prm.config, num_layers=1, tie_embeddings=False)
    trained = models.PRM(models.ProcessRewardModel(untied, rngs=nnx.Rngs(0)), prm.tokenizer)
    models.export(trained, tmp_path / "prm", dtype="float32")
    again = models.load_prm(tmp_path / "prm")
    np.testing.assert_array_equal(again.score("Why?", ["a"]), trained.score("Why?", ["a"]))
    raw = json.loads((tmp_path / "prm" / "config.json").read_text())
    assert raw["architectures"] == ["Qwen2ForProcessRewardModel"]


def test_rounding_to_bfloat16_is_the_only_change(checkpoint, tmp_path):
    policy = models.load_policy(checkpoint("tied"))
    decoder = nnx.clone(policy.decoder)
    nnx.update(decoder, jax.tree.map(lambda x: x * jnp.float32(1.001), nnx.state(decoder)))
    models.export(replace(policy, decoder=decoder), tmp_path / "half")
    again = models.load_policy(tmp_path / "half")
    for old, new in zip(leaves(decoder), leaves(again.decoder), strict=True):
        np.testing.assert_array_equal(old.astype(jnp.bfloat16).astype(np.float32), new)
    raw = json.loads((tmp_path / "half" / "config.json").read_text())
    assert raw["dtype"] == raw["torch_dtype"] == "bfloat16"


def test_an_export_is_replaced_and_anything_else_refused(checkpoint, tmp_path):
    policy = models.load_policy(checkpoint("tied"))
    models.export(policy, tmp_path / "out")
    models.export(policy, tmp_path / "out", dtype="float32")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["dtype"] == "float32" and os.listdir(tmp_path) == ["out"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(models.CheckpointError, match="holds notes.txt, which export did not write"):
        models.export(policy, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    with pytest.raises(models.CheckpointError, match="is a file; export to a folder"):
        models.export(policy, tmp_path / "out" / "notes.txt")


@pytest.mark.parametrize("name", ["tied", "sharded", "prm"])
def test_a_downloaded_folder_is_replaced(name, copied, expected):
    """Its chat_template.jinja, shards and slow tokenizer too; what people wrote stays."""
    folder = copied(name)
    for more in ("expected.npz", "expected.json"):
        (folder / more).unlink()
    for more in ("vocab.json", "merges.txt", "special_tokens_map.json", "README.md", "LICENSE"):
        (folder / more).write_text(more)
    load = models.load_prm if name == "prm" else models.load_policy
    model = load(folder)
    models.export(model, folder, dtype=jnp.float32)
    files = [f for f in FILES if name != "prm" or "generation" not in f]
    assert sorted(os.listdir(folder)) == sorted([*files, "README.md", "LICENSE"])
    assert (folder / "README.md").read_text() == "README.md"
    _, texts = expected(name)
    assert load(folder).tokenizer.chat(texts["messages"]) == texts["prompt"]


def test_the_hubs_own_copy_is_left_alone(checkpoint, tmp_path):
    """Its files are links to blobs; another program would take the export for the download."""
    for path in checkpoint("tied").iterdir():
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(models.CheckpointError, match="is the hub's own copy, .* is a link"):
        models.export(models.load_policy(checkpoint("tied")), tmp_path)


@pytest.mark.parametrize("name", ["tied", "prm"])
def test_config_keeps_what_the_decoder_does_not_know(name, copied, tmp_path):
    """Ids of special tokens above all; a policy's own ends win."""
    folder = copied(name)
    path = folder / "config.json"
    own = dict(
        bos_token_id=1, pad_token_id=0, eos_token_id=3, initializer_range=0.5, use_cache=False
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | own | {"quantization_config": {}}))
    models.export(
        (models.load_prm if name == "prm" else models.load_policy)(folder), tmp_path / "out"
    )
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    ends = {"eos_token_id": 3 if name == "prm" else [2, 0]}
    assert {key: raw[key] for key in own} == own | ends and "quantization_config" not in raw


def test_weights_that_are_not_finite_leave_the_old_export(checkpoint, tmp_path):
    policy = models.load_policy(checkpoint("tied"))
    models.export(policy, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    decoder = nnx.clone(policy.decoder)
    decoder.norm.scale[...] = jnp.full((32,), jnp.nan)
    with pytest.raises(models.CheckpointError, match="model.norm.weight holds NaN"):
        models.export(replace(policy, decoder=decoder), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_write_leaves_the_old_export(checkpoint, tmp_path):
    policy = models.load_policy(checkpoint("tied"))
    models.export(policy, tmp_path / "out")
    broken = replace(policy, generation={"temperature": object()})  # not JSON: fails half-way
    with pytest.raises(TypeError):
        models.export(broken, tmp_path / "out")
    assert models.load_policy(tmp_path / "out").generation["temperature"] == 0.7
    assert os.listdir(tmp_path) == ["out"]


def test_files_are_as_readable_as_the_others(checkpoint, tmp_path):
    models.export(models.load_policy(checkpoint("tied")), tmp_path / "out")
    assert len({p.stat().st_mode for p in (tmp_path / "out").iterdir()}) == 1
