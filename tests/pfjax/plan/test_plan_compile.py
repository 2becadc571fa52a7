"""Programs compiled for real TPUs, read for what they allocate, exchange and copy."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import pfjax
from pfjax.plan import Request, compile, hlo, make_plan

# Policy, PRM, device, mesh, problems: what a user would try first on each slice.
TARGETS = {
    "v5e-1x4": ("Qwen2.5-7B", "Qwen2.5-Math-PRM-7B", "v5e", "1x4", 1),
    "v5e-2x4": ("Qwen2.5-7B", "Qwen2.5-Math-PRM-7B", "v5e", "2x4", 2),
    "v5p-1x8": ("Qwen2.5-32B", "Qwen2.5-Math-PRM-72B", "v5p", "1x8", 8),
}


@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.parametrize("name", TARGETS)
def test_a_step_fits_and_copies_nothing(name):
    """In a process of its own: a plan, compiled, from the command line.

    The token loop of the policy and the block loop of the PRM add up each layer's attention and MLP
    and the embedding over the axis, and the logits are gathered: nothing else is exchanged. No array
    of a cache's shape is copied in a loop.
    """
    pytest.importorskip("libtpu")
    policy, prm, device, mesh, problems = TARGETS[name]
    command = [sys.executable, "-m", "pfjax", "plan", "--policy", policy, "--prm", prm]
    command += ["--device", device, "--mesh", mesh, "--particles", "32"]
    command += ["--problems", str(problems), "--max-tokens", "1024", "--compile", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    compiled = found["compiled"]
    assert compiled["total"] <= found["memory"]["capacity"]
    assert compiled["cache_copies"] == 0
    request = Request(policy=policy, prm=prm)
    setup = make_plan(request).setup
    assert setup.prm is not None
    layers = (setup.policy.config.num_layers, setup.prm.config.num_layers)
    assert compiled["in_loop"] == {"all-reduce": sum(2 * n + 1 for n in layers), "all-gather": 1}
    assert abs(found["memory"]["total"] / compiled["total"] - 1) <= 0.05
    parts = ("policy_weights", "prm_weights", "tables", "prompts", "particles")
    held = sum(found["memory"][part] for part in parts)
    assert abs(held / compiled["arguments"] - 1) < 0.005


def test_collectives_and_copies_are_found_in_loops():
    """One sum over devices in a loop, one outside; a transposed cache copied in the loop."""
    mesh = pfjax.models.make_mesh(1, 8)

    def work(x):
        def body(carry):
            i, y = carry
            return i + 1, jax.lax.psum(y, "model") * 0.1

        total = jax.lax.psum(x, "model")
        return jax.lax.while_loop(lambda c: c[0] < 3, body, (0, total))[1]

    fn = jax.shard_map(work, mesh=mesh, in_specs=P(None, "model"), out_specs=P(), check_vma=False)
    text = jax.jit(fn).lower(jnp.zeros((4, 8))).compile().as_text()
    assert text is not None
    assert hlo.collectives_in_loops(hlo.parse(text)) == {"all-reduce": 1}
    assert text.count(" all-reduce(") == 2


PROGRAM = """HloModule toy

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: bf16[2,3,5]) -> bf16[2,3,5] {
  ROOT %copy.9 = bf16[2,3,5]{2,1,0:T(8,128)(2,1)} copy(%p)
}

%body (arg: (s32[], /*index=1*/bf16[2,3,5])) -> (s32[], bf16[2,3,5]) {
  %swap = bf16[5,3,2]{2,1,0} transpose(%x), dimensions={2,1,0}
  %other = bf16[2,15]{1,0} copy(%x)
  %ahead = (bf16[2,3,5]{2,1,0:T(8,128)(2,1)S(1)}, bf16[2,3,5]{2,1,0}, u32[]{:S(2)}) copy-start(%x)
  %kept = bf16[2,3,5]{2,1,0} fusion(%x), kind=kLoop, calls=%inner
  %sum.1 = (f32[4]{0}, f32[4]{0}) all-reduce-start(%y), to_apply=%add
  ROOT %out = (s32[], bf16[2,3,5]) tuple(%i, %kept)
}

%condition (arg: (s32[], bf16[2,3,5])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[2,3,5]) -> bf16[2,3,5] {
  %copy.1 = bf16[2,3,5]{2,1,0} copy(%x)
  %sum.2 = f32[4]{0} all-reduce(%y), to_apply=%add
  %loop = (s32[], bf16[2,3,5]) while(%start), condition=%condition, body=%body
  ROOT %last = bf16[2,3,5]{2,1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_program_is_read_by_its_loops():
    """Copies count in loop bodies and what they call, also transposed; not outside, reshaped, prefetched."""
    found = hlo.parse(PROGRAM)
    assert list(found) == ["add", "inner", "body", "condition", "main"]
    assert hlo.copies_in_loops(found, {(2, 3, 5)}) == 2
    assert hlo.copies_in_loops(found, {(4, 4)}) == 0
    assert hlo.collectives_in_loops(found) == {"all-reduce": 1}
    other = PROGRAM.replace(
        "calls=%inner", "output_to_operand_aliasing={{0}: (0, {})}, calls=%inner"
    )
    shared = PROGRAM.replace(
        "calls=%inner", "output_to_operand_aliasing={{}: (0, {})}, calls=%inner"
    )
    assert hlo.copies_in_loops(hlo.parse(other), {(2, 3, 5)}) == 2
    assert hlo.copies_in_loops(hlo.parse(shared), {(2, 3, 5)}) == 1


def test_slices_that_do_not_exist_are_refused():
    assert compile.topology_name("v5e", 8) == "v5e:2x4"
    with pytest.raises(ValueError, match="H200 is no TPU; --compile takes v5e, v6e, v4, v5p"):
        compile.topology_name("H200", 8)
    with pytest.raises(ValueError, match="a v5p slice has 4, 8, 16, 32, 64 chips, the mesh 6"):
        compile.topology_name("v5p", 6)
