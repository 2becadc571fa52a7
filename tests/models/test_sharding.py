"""Weights split over devices: each holds its slice, and logits and scores stay the same."""

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pfjax import models
from pfjax.models.sharding import weight_spec

SPLIT = ("qwen2-grouped-7", "qwen3-tied", "llama3", "granite", "phi4", "mistral-window", "gemma2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(name): an exported checkpoint of a family."""
    from pathlib import Path

    source = models.load_policy(Path(__file__).parent / "fixtures" / "tied")
    root = tmp_path_factory.mktemp("families")

    def make(name: str) -> Path:
        if not (root / name).exists():
            policy = models.Policy(
                families.decoder(families.config(name)), source.tokenizer, (0,), {}
            )
            models.export(policy, root / name, dtype=jnp.float32)
        return root / name

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLIT)
def test_logits_do_not_depend_on_the_mesh(name, folder):
    """131 ids are padded to 132; heads that 4 does not divide are kept whole."""
    mesh = models.make_mesh(2, 4)
    one = models.load_policy(folder(name))
    split = models.load_policy(folder(name), mesh=mesh)
    assert split.config.vocab_padding == 1
    tokens = np.random.default_rng(1).integers(0, 131, (2, 19))
    wanted, found = one.logits(tokens), split.logits(tokens)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    table = split.decoder.embed_tokens.embedding[...]
    assert table.sharding.shard_shape(table.shape) == (33, table.shape[1])


def test_devices_hold_only_their_slices(folder):
    mesh = models.make_mesh(1, 8)
    policy = models.load_policy(folder("phi4"), mesh=mesh)
    layer = policy.decoder.layers[0]
    whole = models.load_policy(folder("phi4")).decoder.layers[0]
    for name, shape in {"q_proj": (6, 48), "o_proj": (48, 6)}.items():
        weight = getattr(layer.self_attn, name).weight[...]
        assert weight.addressable_shards[3].data.shape == shape
        wanted = getattr(whole.self_attn, name).weight[...]
        for shard in weight.addressable_shards:
            np.testing.assert_array_equal(shard.data, wanted[shard.index])
    k = layer.self_attn.k_proj.weight[...]  # two key-value heads on eight devices
    assert k.addressable_shards[0].data.shape == k.shape


def test_rules():
    config = models.DecoderConfig(
        vocab_size=100352, hidden_size=5120, intermediate_size=17920, num_layers=1, num_heads=40,
        num_kv_heads=10, head_dim=128, max_positions=16384, family="phi3",
    )  # fmt: skip
    path = ("layers", 0, "self_attn", "k_proj", "weight")
    assert weight_spec(path, config, 4) == P()
    assert weight_spec(path, config, 5) == P("model", None)
    assert weight_spec((*path[:3], "q_proj", "weight"), config, 4) == P("model", None)
    assert weight_spec((*path[:3], "q_proj", "bias"), config, 4) == P("model")
    assert weight_spec((*path[:3], "o_proj", "weight"), config, 4) == P(None, "model")
    assert weight_spec((*path[:3], "o_proj", "bias"), config, 4) == P()
    assert weight_spec(("layers", 0, "mlp", "down_proj", "weight"), config, 4) == P(None, "model")
    assert weight_spec(("layers", 0, "mlp", "down_proj", "scale"), config, 4) == P()
    assert weight_spec(("layers", 0, "mlp", "up_proj", "scale"), config, 4) == P("model")
    assert weight_spec(("embed_tokens", "embedding"), config, 4) == P("model", None)
    assert weight_spec(("norm", "scale"), config, 4) == P()
    assert weight_spec(("norm", "scale"), config, 1) == P()


@pytest.mark.parametrize("weight_format", ["int8", "fp8"])
def test_eight_bits_on_a_mesh(weight_format, folder):
    one = models.load_policy(folder("qwen2-ungrouped"), weight_format=weight_format)
    mesh = models.make_mesh(1, 2)
    split = models.load_policy(folder("qwen2-ungrouped"), weight_format=weight_format, mesh=mesh)
    tokens = np.random.default_rng(1).integers(0, 131, (2, 9))
    np.testing.assert_allclose(split.logits(tokens), one.logits(tokens), rtol=0, atol=1e-4)


def test_export_of_split_weights_is_the_checkpoint(folder, tmp_path):
    split = models.load_policy(folder("granite"), mesh=models.make_mesh(1, 8))
    models.export(split, tmp_path / "out", dtype=jnp.float32)
    ours = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert ours == (folder("granite") / "model.safetensors").read_bytes()


def test_meshes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a mesh of 3 x 4 needs 12 devices, there are 8"):
        models.make_mesh(3, 4)


def test_orbax_restores_onto_another_mesh(folder, tmp_path):
    """Weights saved from a 1 x 8 mesh, restored onto 4 x 2: the same numbers, the new places."""
    from flax import nnx

    split = models.load_policy(folder("llama3"), mesh=models.make_mesh(1, 8))
    params = nnx.to_pure_dict(split.split[1])
    mesh = models.make_mesh(4, 2)
    models.save_weights(split, tmp_path / "weights")
    other = models.restore_weights(split, tmp_path / "weights", mesh=mesh)
    for _, leaf in nnx.to_flat_state(other.split[1]):
        value = leaf[...]
        assert isinstance(value.sharding, NamedSharding) and value.sharding.mesh.shape == mesh.shape
    new = nnx.to_pure_dict(other.split[1])
    jax.tree.map(np.testing.assert_array_equal, params, new)
    with pytest.raises(models.CheckpointError, match="does not hold the weights of this model"):
        models.restore_weights(models.load_policy(folder("granite")), tmp_path / "weights")
