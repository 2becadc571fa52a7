"""Bad weights end in one sentence that names the cause and the fix."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pfjax import models

CASES = []


def case(message: str, base: str = "tied"):
    def register(damage):
        CASES.append(pytest.param(damage, base, message, id=damage.__name__))
        return damage

    return register


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "model.safetensors"
    )


@case("asks for 1000000000 layers")
def endless_layers(folder):
    edit(folder / "config.json", num_hidden_layers=10**9)


@case("lacks the tensor model.layers.2.input_layernorm.weight")
def one_layer_more(folder):
    edit(folder / "config.json", num_hidden_layers=3)


@case("holds the tensor model.layers.1.input_layernorm.weight, which the port does not have")
def one_layer_fewer(folder):
    edit(folder / "config.json", num_hidden_layers=1)


@case("model.layers.0.mlp.down_proj.weight has shape [32, 29], config.json wants [32, 30]")
def wrong_shape(folder):
    edit(folder / "config.json", intermediate_size=30)


@case("lacks the tensor model.norm.weight")
def missing_tensor(folder):
    tensors(folder, lambda w: w.pop("model.norm.weight"))


@case("model.norm.weight holds NaN or infinite values as float32")
def not_a_number(folder):
    def change(weights):
        weights["model.norm.weight"] = np.full(32, np.nan, np.float32)

    tensors(folder, change)


@case("model.embed_tokens.weight holds NaN or infinite values as float32")
def infinite_weight(folder):
    def change(weights):
        table = weights["model.embed_tokens.weight"].astype(np.float64)
        table[-1, -1] = 1e300
        weights["model.embed_tokens.weight"] = table

    tensors(folder, change)


@case("model.norm.weight is I32, which pfjax does not load; convert it")
def integer_weight(folder):
    def change(weights):
        weights["model.norm.weight"] = np.ones(32, np.int32)

    tensors(folder, change)


@case("ties lm_head.weight to the embedding, but they differ")
def untied_after_all(folder):
    def change(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * np.float32(2)

    tensors(folder, change)


@case("lacks the tensor lm_head.weight", base="grouped")
def no_head(folder):
    tensors(folder, lambda w: w.pop("lm_head.weight"))


@case("is truncated")
def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@case("is truncated or not safetensors")
def empty_file(folder):
    (folder / "model.safetensors").write_bytes(b"")


@case("Git LFS pointer; run `git lfs pull`")
def lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


@case("has no model.safetensors")
def no_weights(folder):
    (folder / "model.safetensors").unlink()


@case("pytorch_model.bin")
def not_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@case("lacks the shard model-00002-of-00002.safetensors", base="sharded")
def missing_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


@case("names the shard '../tied/model.safetensors', wanted", base="sharded")
def path_traversal(folder):
    index = folder / "model.safetensors.index.json"
    edit(index, weight_map={"model.norm.weight": "../tied/model.safetensors"})


@case("names the shard None, wanted", base="sharded")
def shard_not_a_name(folder):
    edit(folder / "model.safetensors.index.json", weight_map={"model.norm.weight": None})


@case("has no weight_map", base="sharded")
def no_weight_map(folder):
    edit(folder / "model.safetensors.index.json", weight_map=[])


@case("places model.norm.weight in model-00001-of-00002.safetensors, which lacks it", "sharded")
def misplaced_tensor(folder):
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    assert weight_map["model.norm.weight"] == "model-00002-of-00002.safetensors"
    edit(path, weight_map=weight_map | {"model.norm.weight": "model-00001-of-00002.safetensors"})


@case("score.0.bias", base="prm")
def no_score_bias(folder):
    tensors(folder, lambda w: w.pop("score.0.bias"))


@pytest.mark.parametrize("damage, base, message", CASES)
def test_one_sentence(damage, base, message, copied, refused):
    folder = copied(base)
    damage(folder)
    refused(folder, message)


def test_a_copy_of_the_embedding_as_head_is_accepted(copied):
    folder = copied("tied")

    def change(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]

    tensors(folder, change)
    assert models.load_policy(folder).config.tie_embeddings


def test_half_precision_overflow_is_reported(copied):
    folder = copied("tied")

    def change(weights):
        weights["model.norm.weight"] = np.full(32, 1e5, np.float32)

    tensors(folder, change)
    models.load_policy(folder)
    with pytest.raises(models.CheckpointError, match="as float16"):
        models.load_policy(folder, dtype="float16")


def test_only_floating_dtypes(checkpoint):
    with pytest.raises(ValueError, match="dtype is .*int32.*, wanted float32, bfloat16 or float16"):
        models.load_policy(checkpoint("tied"), dtype="int32")
