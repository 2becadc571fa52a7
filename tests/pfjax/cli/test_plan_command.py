"""`pfjax plan`: speeds against a hand calculation, advice that is true, exit codes and JSON keys."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pfjax
from pfjax.cli import app
from pfjax.plan import Request, devices, make_plan
from pfjax.plan.planner import parse_mesh
from pfjax.plan.shapes import kv_bytes
from pfjax.search.loading import resolve


def call(*args):
    return CliRunner().invoke(app, ["plan", *map(str, args)])


def test_qwen_7b_on_an_h200_by_hand():
    plan = make_plan(Request(mesh="1x1"))
    table = 152064 * 3584
    roof, rows = plan.roofline, 8 * 32
    assert kv_bytes(plan.setup.policy, "bfloat16") == 57_344 == 2 * 28 * 4 * 128 * 2
    assert roof.weight_bytes_streamed == 2 * (7_615_616_512 - table)
    assert round(roof.weight_bytes_streamed / 1e9, 2) == 14.14
    columns = 1024 + 256 + 16
    caches = 57_344 * (8 * 256 + rows * columns)
    assert roof.decode.bytes_read == roof.weight_bytes_streamed + caches
    assert roof.decode.seconds == pytest.approx((14.1412e9 + 19.1428e9) / 4.8e12, rel=1e-5)
    assert roof.decode.bound == "memory" and roof.scoring.bound == "compute"
    assert roof.tokens_per_second == pytest.approx(36_919, rel=1e-4)
    matrices = 28 * (3584 * 3584 * 2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    attention = 4 * 28 * 28 * 128 * (256 + columns)
    assert roof.decode.operations == rows * (2 * (matrices + table) + attention)
    scored = 256 + 1024 + 40 + 260 + 260
    tokens = rows * 260
    prm = tokens * (2 * matrices + 4 * 28 * 28 * 128 * scored)
    assert roof.scoring.operations == prm
    assert roof.scoring.seconds == pytest.approx(prm / 989e12)
    moved = 2 * 57_344 * rows * (1024 + 256 + 1024 + 40 + 260) / 4.8e12
    assert roof.move_seconds == pytest.approx(moved)
    total = 256 * roof.decode.seconds + roof.scoring.seconds + moved
    assert roof.tokens_per_second_with_scoring == pytest.approx(rows * 256 / total)


def test_what_a_model_axis_sends_by_hand():
    roof = make_plan(Request(mesh="2x4", device="v5e", weight_format="int8")).roofline
    rows = 4 * 32
    reduced = 2 * 28 * rows * 3584 * 2 * 2 * 3 // 4
    assert roof.decode.bytes_sent == reduced + rows * 152064 * 4 * 3 // 4
    assert roof.decode.link_seconds == pytest.approx(roof.decode.bytes_sent / 200e9)
    assert roof.tokens_per_second == pytest.approx(2 * rows / roof.decode.seconds)


def test_the_largest_batch_fits_and_one_more_does_not():
    setup = make_plan(Request(device="v5e", mesh="2x4")).setup
    found = make_plan(Request(device="v5e", mesh="2x4")).largest
    assert found.problems % 2 == 0 and found.rows == found.problems * 32
    assert setup._replace(problems=found.problems).in_memory
    assert not setup._replace(problems=found.problems + 1).in_memory
    assert setup._replace(particles=found.particles).in_memory
    assert not setup._replace(particles=found.particles + 1).in_memory


BIG = dict(policy="Qwen2.5-32B", prm="Qwen2.5-Math-PRM-72B")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(device="v5e", mesh="1x4"), "--problems 2"),
        (Request(device="v5e", mesh="1x2", problems=1, particles=4), "--weight-format int8"),
        (Request(device="H100", mesh="1x1", problems=1, particles=265), "--particles"),
        (Request(**BIG, device="v5p", mesh="1x1"), "--mesh 1x8"),
        (Request(**BIG, device="v5e", mesh="1x1"), "--weight-format int8 --particles"),
        (Request(max_tokens=4000), "--max-tokens 3800"),
        (
            Request(device="v5e", mesh="1x1", policy="Qwen2.5-72B"),
            "Not even one particle|--mesh 1x",
        ),
        (Request(prompt_tokens=5000), "shorten the prompts"),
    ],
)
def test_the_advice_fits(request_, words):
    """Its options, put into the request, make it fit."""
    plan = make_plan(request_)
    assert not plan.fits and re.search(words, plan.advice) and plan.advice.count(".") >= 1
    options = dict(re.findall(r"--([a-z-]+) (\S+?)\.?(?= |$)", plan.advice))
    assert options or "shorten the prompts" in plan.advice
    if options:
        changes = {
            name.replace("-", "_"): int(value) if value.isdigit() else value
            for name, value in options.items()
        }
        assert make_plan(replace(request_, **changes)).fits, plan.advice


def test_the_smallest_model_axis_is_chosen():
    plan = make_plan(Request(**BIG, device="v5p"))
    assert plan.fits and plan.chosen and (plan.setup.problem, plan.setup.model) == (1, 8)
    assert plan.notes[0] == "No mesh was given: 1x8 is the smallest with the memory."
    assert not make_plan(Request(**BIG, device="v5p", mesh="1x4")).fits


def test_what_is_replicated_is_said():
    plan = make_plan(Request(policy="Phi-4", prm=None, mesh="1x4", device="H100"))
    (note,) = plan.notes
    assert "k_proj, v_proj and the cache are whole" in note and "10 key-value heads" in note
    assert plan.setup.policy.config.num_kv_heads == 10 and plan.memory.prm_weights == 0
    assert kv_bytes(plan.setup.policy, "bfloat16", 4) == 204_800


def test_devices():
    assert devices.find("tpu v5p").hbm_bytes == 95 * 10**9
    for device in devices.DEVICES.values():
        assert device.reserve == pytest.approx(0.06 * device.hbm_bytes)
        assert device.peak_int8 >= device.peak_bf16 > 1e14 and device.bandwidth > 5e11
    assert parse_mesh("2x16") == (2, 16)


def test_embedded_budget_is_the_policys():
    setup = make_plan(Request("embedded:small", "embedded:prm", "v5e", dtype="float32")).setup
    solver = pfjax.load("embedded:small", "embedded:prm")
    assert setup.budget == solver.budget
    assert setup.room == 512 - 96 - 10


KEYS = {
    "": "fits advice notes device mesh dtype weight_format kv_format particles problems prompt_tokens budget "
    "policy prm memory largest roofline compiled",
    "device": "name hbm_bytes bandwidth peak_bf16 peak_int8 link group reserve",
    "mesh": "problem model chosen",
    "budget": "step_tokens max_tokens max_steps",
    "policy": "name architecture head parameters weight_bytes_per_device kv_bytes_per_token "
    "kv_bytes_per_token_per_device replicated",
    "memory": "policy_weights prm_weights tables prompts particles moved buffers activations total capacity",
    "largest": "problems particles rows",
    "roofline": "weight_bytes_streamed decode scoring move_seconds generation_seconds tokens_per_second "
    "tokens_per_second_with_scoring",
}


def test_json():
    options = "--device v5e --mesh 1x4 --weight-format int8 --max-tokens 2048 --json".split()
    result = call(*options)
    assert result.exit_code == 1 and result.stderr == ""
    found = json.loads(result.stdout)
    for name, keys in KEYS.items():
        assert set(found[name] if name else found) == set(keys.split()), name
    assert set(found["prm"]) == set(found["policy"])
    parts = (
        "bytes_read operations bytes_sent memory_seconds compute_seconds link_seconds seconds bound"
    )
    assert set(found["roofline"]["decode"]) == set(parts.split())
    assert found["fits"] is False and found["advice"].endswith("--problems 2.")
    assert found["policy"]["parameters"] == 7_615_616_512
    memory = found["memory"]
    parts = [memory[name] for name in KEYS["memory"].split()[:-2]]
    assert memory["total"] == sum(parts) > memory["capacity"] == 16e9 - 0.96e9


@pytest.mark.parametrize("args", [
    [], ["--policy", "embedded:small", "--prm", "embedded:prm", "--mesh", "2x8"], ["--prm", "none"],
    ["--policy", "DeepSeek-R1-Distill-Qwen-1.5B", "--prm", "Skywork-o1-Open-PRM-Qwen-2.5-1.5B"],
    ["--policy", "Qwen2.5-32B", "--prm", "Qwen2.5-Math-PRM-72B", "--device", "v5p"],
])  # fmt: skip
def test_it_fits_a_terminal(args, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call(*args)
    assert result.exit_code == 0, result.stderr
    assert "It fits." in result.stdout and max(map(len, result.stdout.splitlines())) <= 80
    assert "bound, " in result.stdout and "\x1b" not in result.stdout


def test_a_config_file_and_its_folder(tmp_path):
    config = resolve("embedded:prm") / "config.json"
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads(config.read_text()) | {"architectures": ["Qwen2ForCausalLM"]})
    )
    for path in (tmp_path, tmp_path / "config.json"):
        policy = json.loads(call("--policy", path, "--prm", "embedded:prm", "--json").stdout)[
            "policy"
        ]
        assert policy["architecture"] == "Qwen2ForCausalLM"
        prm = json.loads(call("--prm", path, "--prm-kind", "skywork", "--json").stdout)["prm"]
        assert prm["head"] == "value" and prm["parameters"] == policy["parameters"] + 129


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--device v9", "wanted one of H100, H200, A100-40GB, A100-80GB, v4, v5e, v5p, v6e."),
        ("--mesh 4", "wanted PROBLEMxMODEL devices such as 1x4"),
        ("--mesh 0x4", "mesh is '0x4'"),
        ("--policy Qwen2.5-7b-math", "such as Qwen2.5-Math-7B,"),
        ("--policy embedded:huge", "embedded:large"),
        ("--policy Qwen2.5-Math-PRM-7B", "use it as --prm"),
        ("--prm Qwen2.5-7B", "add --prm-kind, one of qwen,"),
        ("--prm Qwen2.5-7B --prm-kind magic", "prm-kind is 'magic'"),
        ("--dtype int4", "wanted one of bfloat16, float16, float32"),
        ("--weight-format int4", "wanted one of int8, fp8"),
        ("--kv-format int4", "kv-format is 'int4', wanted int8;"),
        ("--particles 0", "particles is 0"),
        ("--prompt-tokens -3", "prompt-tokens is -3"),
    ],
)
def test_bad_input_exits_2(args, words):
    result = call(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("pfjax: ") and result.stderr.count("\n") == 1
    assert words in result.stderr and result.stderr.endswith(".\n")


def test_a_damaged_config_is_refused(tmp_path):
    def refused(text, words):
        (tmp_path / "config.json").write_text(text)
        result = call("--policy", tmp_path)
        assert result.exit_code == 2 and words in result.stderr, result.stderr

    raw = json.loads((resolve("embedded:small") / "config.json").read_text())
    refused("{", "is not JSON")
    refused(json.dumps(raw | {"architectures": ["GPT2LMHeadModel"]}), "'GPT2LMHeadModel'")
    refused(json.dumps(raw | {"num_hidden_layers": 10**9}), "wanted at most 10000")


def test_the_largest_models_take_seconds_and_no_device():
    """A fresh process; JAX has not looked for devices, and no array was made."""
    code = """
import sys, time
from pfjax.cli import main
began = time.monotonic()
sys.argv = "pfjax plan --json --device v5p --policy Qwen2.5-32B --prm Qwen2.5-Math-PRM-72B".split()
sys.argv += ["--weight-format", "int8"]
try:
    main()
finally:
    from jax._src import xla_bridge
    print(len(xla_bridge._backends), time.monotonic() - began, file=sys.stderr)
"""
    root = Path(pfjax.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    backends, seconds = done.stderr.split()
    assert done.returncode == 0 and json.loads(done.stdout)["fits"]
    assert backends == "0" and float(seconds) < 20
