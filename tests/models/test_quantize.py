"""Weights of 8 bits: the same bits however they are made, products with what they stand for, little memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import families
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from pfjax import models
from pfjax.models import _place
from pfjax.models.embedding import Embedding
from pfjax.models.linear import _BLOCK, _SMALL, FORMATS, multiply_stored, quantize
from pfjax.models.quantize import quantized_rows

TOKENS = np.random.default_rng(1).integers(0, 131, (2, 9))
NAMES = ("qwen2-grouped-7", "qwen3-biases", "phi3-partial", "gemma3", "granite-biases")


def saved(name: str, folder: Path, checkpoint) -> Path:
    source = models.load_policy(checkpoint("tied"))
    policy = models.Policy(families.decoder(families.config(name)), source.tokenizer, (0,), {})
    models.export(policy, folder, dtype=jnp.float32)
    return folder


def flat(module) -> dict:
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}


@pytest.mark.parametrize("weight_format", FORMATS)
def test_host_and_device_round_alike(weight_format):
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((50, 33)).astype(np.float32) * 10.0 ** draw.integers(
        -9, 9, (50, 1)
    )
    weight = weight.astype(np.float32)
    weight[3], weight[4, 5:], weight[5] = 0, 0, weight[5].astype(ml_dtypes.bfloat16)
    rows, scale = quantized_rows(weight.copy(), weight_format)
    wanted = quantize(jnp.asarray(weight), weight_format)
    assert rows.dtype == wanted[0].dtype and scale.dtype == wanted[1].dtype
    np.testing.assert_array_equal(rows.view(np.int8), np.asarray(wanted[0]).view(np.int8))
    np.testing.assert_array_equal(scale, wanted[1])


@pytest.mark.parametrize("mesh", (None, (1, 2), (2, 4)))
@pytest.mark.parametrize("name", NAMES)
def test_loading_rounds_as_the_module_is_rounded(name, mesh, tmp_path, checkpoint, monkeypatch):
    """Bit by bit, fused tensors and parts of a mesh too, a few rows at a time."""
    folder, weight_format = saved(name, tmp_path / "out", checkpoint), list(FORMATS)[len(name) % 2]
    monkeypatch.setattr(_place, "_BLOCK", 5 * 48)
    on = None if mesh is None else models.make_mesh(*mesh)
    found = models.load_policy(folder, weight_format=weight_format, mesh=on).decoder
    whole = models.load_policy(folder, mesh=on).decoder
    found, wanted = flat(found), flat(models.quantized_module(whole, weight_format))
    assert found.keys() == wanted.keys()
    for path, x in found.items():
        assert x.dtype == wanted[path].dtype, path
        np.testing.assert_array_equal(np.asarray(x), np.asarray(wanted[path]), err_msg=str(path))
    bits = {path[-2]: x.dtype for path, x in found.items() if x.ndim == 2}
    assert {x.itemsize for x in bits.values()} == {1}  # no matrix is left as it was
    heads = {bits[name] for name in ("embed_tokens", "lm_head") if name in bits}
    assert heads == {jnp.dtype("int8")} and bits["q_proj"] == FORMATS[weight_format][0]


def restored(module: nnx.Module) -> nnx.Module:
    """The float32 module that an 8-bit one stands for."""
    module = nnx.clone(module)
    for _, part in nnx.iter_graph(module):
        if isinstance(part, (models.Linear, Embedding)) and part.scale is not None:
            name = "embedding" if isinstance(part, Embedding) else "weight"
            weight = getattr(part, name)[...].astype(jnp.float32) * part.scale[...][:, None]
            setattr(part, name, nnx.Param(weight))
            part.scale = nnx.data(None)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_what_the_bits_stand_for(name, tmp_path, checkpoint):
    folder, weight_format = saved(name, tmp_path / "out", checkpoint), list(FORMATS)[len(name) % 2]
    policy = models.load_policy(folder, weight_format=weight_format)
    exact = replace(policy, decoder=restored(policy.decoder))
    np.testing.assert_allclose(policy.logits(TOKENS), exact.logits(TOKENS), rtol=0, atol=1e-4)
    prm, like = (models.token_prm(p, "+", "-", "<extra_0>") for p in (policy, exact))
    scores = [p.score("Why?", ["Ann has 3.", "So 7."]) for p in (prm, like)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)
    models.export(policy, tmp_path / "again", dtype=jnp.float32)
    again = models.load_policy(tmp_path / "again")
    np.testing.assert_allclose(again.logits(TOKENS), exact.logits(TOKENS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("few", (True, False))
@pytest.mark.parametrize("rows", (50, _SMALL // 32, _SMALL // 32 + 1, 2 * _BLOCK // 32 + 7))
def test_products_in_blocks(rows, few):
    """Of a table in one piece, in two, and in three and a few rows more; gradients too."""
    draw = np.random.default_rng(2)
    table = Embedding(8, 32, rngs=nnx.Rngs(0))
    bits, scale = draw.integers(-127, 128, (rows, 32)), draw.uniform(0.1, 2, rows)
    table.embedding = nnx.Param(jnp.asarray(bits, jnp.int8))
    table.scale = nnx.Param(jnp.asarray(scale, jnp.float32))
    x = draw.standard_normal((2, 3 if few else 50, 32))
    whole = bits * scale[:, None]
    found, back = jax.vjp(jax.jit(table.products), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, x @ whole.T, rtol=0, atol=1e-2)
    up = draw.standard_normal(found.shape)
    np.testing.assert_allclose(back(jnp.asarray(up, jnp.float32))[0], up @ whole, rtol=1e-4, atol=1)
    last = table(jnp.array([rows - 1]), jnp.float32)[0]
    np.testing.assert_allclose(last, whole[-1], rtol=1e-6)


def test_a_program_converts_a_block_at_a_time():
    """Eight matrices of 4 MB as float32: temporaries of one, not of all."""

    def run(weights, x):
        for w in weights:
            x = multiply_stored(x, w, dtype=jnp.float32)
        return x

    weights = [jax.ShapeDtypeStruct((1024, 1024), jnp.int8)] * 8
    compiled = jax.jit(run).lower(weights, jax.ShapeDtypeStruct((1, 1024), jnp.float32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8e6


def test_what_is_computed_keeps_its_dtype(checkpoint):
    policy = models.load_policy(checkpoint("tied"), dtype="bfloat16", weight_format="int8")
    hidden = models.forward(policy.decoder, jnp.asarray(TOKENS % 115, jnp.int32))
    assert hidden.dtype == jnp.bfloat16 and policy.logits(TOKENS % 115).dtype == jnp.float32


def test_unknown_formats_are_refused_before_weights_are_read(checkpoint):
    with pytest.raises(ValueError, match="weight_format is 'int4', wanted one of int8, fp8"):
        models.load_policy(checkpoint("tied"), weight_format="int4")


PEAK = """
import sys, json, pathlib
import jax, jax.numpy as jnp
from pfjax import models
models.load_policy({small!r}, weight_format="int8")
def memory(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
policy = models.load_policy({folder!r}, dtype="bfloat16", weight_format={form!r})
held = sum(x.nbytes for x in jax.tree.leaves(policy.split[1]))
print(json.dumps([memory("VmHWM") - before, held]))
"""


def wide(folder: Path, checkpoint) -> Path:
    """A random checkpoint of 130 MB in bfloat16, half of it a table of 60 000 tokens."""
    e, f, rows, layers = 512, 2048, 60000, 8
    models.load_policy(checkpoint("tied")).tokenizer.save(folder)
    raw = json.loads((checkpoint("tied") / "config.json").read_text())
    raw |= dict(hidden_size=e, intermediate_size=f, vocab_size=rows, num_hidden_layers=layers)
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": 2}))
    shapes: dict[str, tuple] = {"embed_tokens.weight": (rows, e), "norm.weight": (e,)}
    for i in range(layers):
        at = f"layers.{i}."
        for name in "qkvo":
            shapes[f"{at}self_attn.{name}_proj.weight"] = (e, e)
        shapes |= {f"{at}self_attn.{name}_proj.bias": (e,) for name in "qkv"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (f, e) for name in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (e, f)
        for name in ("input", "post_attention"):
            shapes[f"{at}{name}_layernorm.weight"] = (e,)
    draw = np.random.default_rng(0)
    weights = {
        f"model.{name}": draw.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_the_8_bit_model(tmp_path, checkpoint):
    """Read in blocks and rounded at once: never the model, or a tensor, in floating point."""
    folder = wide(tmp_path / "wide", checkpoint)

    def peak(form: str | None) -> tuple[int, int]:
        code = PEAK.format(small=str(checkpoint("tied")), folder=str(folder), form=form)
        out = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        print(form, out.stdout)
        return tuple(json.loads(out.stdout))

    (eight, held), (half, full) = peak("int8"), peak(None)
    assert held < 0.51 * full and 120e6 < full < 140e6
    assert eight < held + 24e6 and eight < half
