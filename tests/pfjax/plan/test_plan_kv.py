"""Caches of 8 bits in a plan: bytes by hand, what a model axis holds, speeds and advice."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from pfjax import models
from pfjax.cli import app
from pfjax.models import DecoderConfig, cache
from pfjax.models.sharding import over_problems
from pfjax.plan import Request, compile, make_plan
from pfjax.plan.memory import memory
from pfjax.plan.shapes import Workload, caches, kv_bytes
from pfjax.plan.weights import Model, replicated
from pfjax.settings.budget import Budget

POLICY = DecoderConfig(
    vocab_size=70, hidden_size=24, intermediate_size=40, num_layers=2, num_heads=4,
    num_kv_heads=2, head_dim=6, max_positions=4096,
)  # fmt: skip
PRM = replace(POLICY, hidden_size=36, num_heads=6, num_kv_heads=3, num_layers=3)
WORK = Workload(
    policy=Model("policy", POLICY), prm=Model("prm", PRM, "classes"), dtype="bfloat16",
    weight_format=None, model=1, budget=Budget(7, 50, 9), prompt_tokens=97, particles=5, problems=3,
    kv_format="int8",
)  # fmt: skip


def test_a_token_takes_a_byte_an_entry_and_a_scale_a_head():
    """Keys and values of two layers of two heads of six entries; prompts and step buffers stay."""
    assert kv_bytes(WORK.policy, "bfloat16", kv_format="int8") == 2 * 2 * 2 * (6 + 4)
    assert caches(WORK) == (2 * 2 * 2 * 10 * (50 + 7), 2 * 3 * 3 * 10 * (50 + 9 + 8))
    wide = memory(WORK._replace(kv_format=None))
    narrow = memory(WORK)
    saved = (8 * 57 + 18 * 67) * (6 * 2 - 10) * WORK.rows
    assert wide.particles - narrow.particles == wide.moved - narrow.moved == saved
    assert wide._replace(particles=0, moved=0) == narrow._replace(particles=0, moved=0)


def test_caches_are_divided_where_heads_are():
    """Three key-value heads of the PRM, two of the policy."""
    work = WORK._replace(dtype="float32", kv_format=None)
    one, two, three = (memory(work._replace(model=size)) for size in (1, 2, 3))
    policy = kv_bytes(WORK.policy, "float32") * (50 + 7) * WORK.rows
    assert one.particles - two.particles == policy // 2
    prm = kv_bytes(WORK.prm, "float32") * (50 + 9 + 8) * WORK.rows
    assert one.particles - three.particles == prm * 2 // 3
    assert kv_bytes(WORK.prm, "bfloat16", 3) * 6 == kv_bytes(WORK.prm, "float32")
    assert replicated(WORK.prm, 2) == ["k_proj", "v_proj"]
    assert replicated(WORK.policy, 3) == [f"{n}_proj" for n in "q o k v gate up down".split()]


@pytest.mark.parametrize("size", [2, 3])
def test_a_device_holds_its_heads_and_their_scales(size):
    """Caches made on a mesh: two heads of the policy, three of the PRM, over two or three devices."""
    mesh = models.make_mesh(1, size)
    for model, columns, planned in zip(
        (WORK.policy, WORK.prm), (57, 67), caches(WORK._replace(model=size)), strict=True
    ):
        assert model is not None
        config = model.config

        def empty(_, row, config=config, columns=columns):
            return cache.empty(config, (row.shape[0], WORK.particles), columns, jnp.int8)

        made = jax.jit(over_problems(empty, mesh, 1))((), jnp.zeros(WORK.problems))
        leaves = [s for leaf in jax.tree.leaves(made) for s in leaf.addressable_shards]
        for device in mesh.devices.flat:
            held = sum(s.data.nbytes for s in leaves if s.device == device)
            assert held == planned * WORK.rows
        whole = planned * WORK.rows * (size if config.num_kv_heads % size == 0 else 1)
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(made)) == whole


@pytest.mark.parametrize("kv_format", [None, "int8"])
def test_the_compiled_step_gets_the_planned_caches(kv_format):
    """Its abstract arguments, as they lie on a mesh."""
    request = Request(
        "embedded:small", "embedded:prm", "v5e", "2x2", problems=3, particles=5, kv_format=kv_format
    )
    setup = make_plan(request).setup
    mesh = models.make_mesh(2, 2)
    _, *held = compile._arguments(compile._engine(setup, mesh), setup, mesh)
    found = 0
    for leaf in jax.tree.leaves(held):
        shape = leaf.sharding.shard_shape(leaf.shape)
        found += jax.ShapeDtypeStruct(shape, leaf.dtype).size * leaf.dtype.itemsize
    planned = memory(setup.workload)
    assert found == planned.prompts + planned.particles
    kept = held[1].state.particles.policy_cache.k[0].dtype
    assert kept == (jnp.int8 if kv_format else jnp.bfloat16)


def test_an_iteration_reads_bytes_and_scales():
    """Qwen2.5-7B on an H200 by hand: 28 layers of four heads of 128 entries, keys and values."""
    token = 2 * 28 * 4 * (128 + 4)
    roof = make_plan(Request(mesh="1x1", kv_format="int8")).roofline
    prompts_and_steps = 57_344 * (8 * 256 + 8 * 32 * 16)
    solutions = token * 8 * 32 * (1024 + 256)
    assert roof.decode.bytes_read == roof.weight_bytes_streamed + prompts_and_steps + solutions
    moved = 2 * token * 256 * (1024 + 256 + 1024 + 40 + 260)
    assert roof.move_seconds == pytest.approx(moved / 4.8e12)
    wide = make_plan(Request(mesh="1x1")).roofline
    assert roof.decode.operations == wide.decode.operations
    assert roof.tokens_per_second > 1.3 * wide.tokens_per_second


@pytest.mark.parametrize(
    ("request_", "words", "changes"),
    [
        (
            Request(device="H100", mesh="1x1", problems=1, particles=200),
            "--kv-format int8.",
            {"kv_format": "int8"},
        ),
        (
            Request(
                "Llama-3.1-8B-Instruct", "Llama3.1-8B-PRM-Deepseek-Data", "v5e", "1x1", "float32",
                particles=3, problems=1, max_tokens=125_000,
            ),
            "--mesh 1x8 --weight-format int8 --kv-format int8 --particles 2 --problems 1.",
            {"mesh": "1x8", "weight_format": "int8", "kv_format": "int8", "particles": 2},
        ),
    ],
)  # fmt: skip
def test_advice_on_caches_fits(request_, words, changes):
    """The second fits in no other way."""
    plan = make_plan(request_)
    assert plan.advice and plan.advice.endswith(words)
    assert make_plan(replace(request_, **changes)).fits
    assert not make_plan(replace(request_, **changes | {"kv_format": None})).fits


def test_the_command_shows_it():
    options = ["plan", "--kv-format", "int8", "--mesh", "1x2"]
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0 and "bfloat16, KV int8\n" in shown.stdout.replace(" \n", "\n")
    assert "29,568 B" in shown.stdout and "14,784 B" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert found["kv_format"] == "int8" and found["weight_format"] is None
    for model in ("policy", "prm"):
        assert found[model]["kv_bytes_per_token"] == 29_568 == 2 * 28 * 4 * 132
        assert found[model]["kv_bytes_per_token_per_device"] == 14_784
