"""Abstract modules beside traced ones, tensors on their devices beside the stored arrays."""

from functools import partial

import families
import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from pfjax import models
from pfjax.models import _fill
from pfjax.models._names import Source
from pfjax.models._place import place
from pfjax.models._tensors import _finite, find_tensors
from pfjax.models.prm import ProcessRewardModel, TokenModel

BUILDS = {
    "policy": models.Decoder,
    "two classes": ProcessRewardModel,
    "two tokens": partial(TokenModel, minus=1, plus=2),
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ["qwen2-grouped-7", "qwen3-tied", "gemma3-ungrouped"])
def test_copies_of_a_layer_are_the_traced_module(name, build):
    """Layers, windows and heads as flax traces them, every parameter an object of its own."""
    config = families.config(name)
    wanted = nnx.split(nnx.eval_shape(lambda: BUILDS[build](config, rngs=nnx.Rngs(0))))
    found = nnx.split(_fill.abstract(BUILDS[build], config))
    assert found[0] == wanted[0]
    assert dict(nnx.to_flat_state(found[1])).keys() == dict(nnx.to_flat_state(wanted[1])).keys()
    assert jax.tree.leaves(found[1]) == jax.tree.leaves(wanted[1])


@pytest.mark.parametrize("spec", [None, P(), P("model", None), P(None, "model")], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_every_device_gets_its_part(tmp_path, spec, dtype):
    """Read one after another in one thread, so that none may lie in the memory of the next."""
    draw = np.random.default_rng(3)
    shapes = {"matrix": (24, 8), "row": (4, 16), "fused": (32, 12)}
    if spec is None:
        shapes |= {"one output": (1, 40), "one input": (40, 1), "wide": (3, 5)}
    stored = {n: draw.standard_normal(s).astype(ml_dtypes.bfloat16) for n, s in shapes.items()}
    save_file(stored, tmp_path / "model.safetensors")
    tensors = find_tensors(tmp_path)
    at = spec if spec is None else NamedSharding(models.make_mesh(2, 4), spec)
    found = {}
    for name, x in stored.items():
        where = Source(name, (8, 24) if name == "fused" else None)
        shape = (16, 12) if name == "fused" else x.shape
        found[name] = place(shape, where, tensors[name], np.dtype(dtype), at)
    for name, x in stored.items():
        wanted = (x[8:24] if name == "fused" else x).astype(dtype)
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], wanted)
        for shard in found[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, wanted[shard.index])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_finite_by_bits(dtype):
    """Every value of 16 bits, every upper half of 32, alone and in the last column of a slice."""
    if dtype is np.float32:
        halves = np.arange(1 << 16, dtype=np.uint32) << 16
        values = np.concatenate([halves, halves | 1]).view(dtype)
    else:
        values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    wanted = np.isfinite(values.astype(np.float32))
    assert _finite(values[wanted])
    assert not any(_finite(x) for x in values[~wanted].reshape(-1, 1))
    table = np.ones((3, 6), dtype)
    table[1, 4] = np.inf
    assert _finite(table[:, :4]) and not _finite(table[:, 2:5]) and _finite(table[:0])
