"""`pfjax bench` on the command line: JSON, the table, bad input."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console
from typer.testing import CliRunner

from pfjax.bench import Options, Report, measure, report
from pfjax.bench.case import Case
from pfjax.bench.ceilings import Rate
from pfjax.bench.parts import Part
from pfjax.cli import app
from pfjax.reasoning import Budget

FIXTURES = Path(__file__).parents[2] / "models" / "fixtures"
TINY = ("--random", "--policy", FIXTURES / "tied", "--prm", FIXTURES / "prm")
TINY += ("--max-tokens", "24", "--step-tokens", "8")


def call(*args):
    return CliRunner().invoke(app, ["bench", *(str(a) for a in args)])


def positive(node) -> list[str]:
    """Numbers of a document that are not finite and positive."""
    if isinstance(node, dict):
        return [f"{k} {bad}" for k, v in node.items() for bad in positive(v)]
    fine = not isinstance(node, (int, float)) or (math.isfinite(node) and node > 0)
    return [] if fine else [str(node)]


@pytest.mark.slow
def test_json_of_the_embedded_pair():
    done = call("--small", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert not [positive(found[key]) for key in ("ceilings", "parts") if positive(found[key])]
    assert list(found["parts"]) == ["prefill_policy", "prefill_prm", "decode", "scoring", "move"]
    copy, matmul = (found["ceilings"][kind]["per_second"] for kind in ("copy", "matmul"))
    shares = {name: (p["of_copy"], p["of_matmul"]) for name, p in found["parts"].items()}
    assert [None not in pair for pair in shares.values()] == [False, False, True, True, False]
    decode = found["parts"]["decode"]
    assert shares["decode"][0] * copy * decode["seconds"] == pytest.approx(decode["bytes_moved"])
    assert shares["decode"][1] * matmul * decode["seconds"] == pytest.approx(decode["operations"])
    assert decode["bound"] == (
        "memory" if shares["decode"][0] >= shares["decode"][1] else "compute"
    )
    solve = found["solve"]
    assert not positive({k: v for k, v in solve.items() if k != "compilations"})
    assert solve["problems"] == 2 and solve["compilations"] >= 2
    assert found["machine"]["jax"] == jax.__version__


@pytest.mark.slow
def test_random_weights_need_no_checkpoint(tmp_path):
    """A bare config.json, and stdout of JSON alone."""
    source = FIXTURES / "tied" / "config.json"
    (tmp_path / "config.json").write_text(source.read_text())
    policy = ("--policy", tmp_path / "config.json")
    done = call("--small", "--json", *TINY, *policy, "--repeats", "1")
    assert done.exit_code == 0, done.stderr
    solve = json.loads(done.stdout)["solve"]
    # 24 tokens of each of 2 x 4 particles, in 3 steps of 8 with a probe each.
    assert (solve["policy_tokens"], solve["prm_tokens"]) == (192, 216)


def by_hand() -> Report:
    """Half of the copy bandwidth, a fifth of the matmul rate."""
    engine = SimpleNamespace(n=16)
    budget = Budget(12, 96, 10)
    case = Case(None, None, "float32", engine, budget, [([1, 2], [1, 2])] * 32, 32, None)
    decode = Part("a token of each of 512 rows", 0.5, 512, 10**9, 10**9)
    score = Part("a step", 2.0, 6656, 16 * 10**9, 10**8)
    move = Part("230 of 512 rows change", 0.25, None, None, 10**8)
    search = measure.Search(32, 4.0, 32_000, 36_000, 0.5, 8.0, 30.0, 6)
    return Report(
        Options().checked(),
        {"device": "X", "platform": "cpu", "devices": 8, "cores": 2, "load": 1.5}
        | {"python": "3.11.7", "jax": "0.10.2", "date": "2026-01-31"},
        case,
        Rate("256 MB in place", 10**9, [0.25]),
        Rate("[2048, 2048] @ [2048, 2048], float32", 10**10, [1.0]),
        Rate("[512, 2048] @ [2048, 2048], float32", 10**9, [0.2]),
        {"decode": decode, "scoring": score, "move": move},
        search,
    )


@pytest.mark.parametrize("width", [80, 120])
def test_table(width):
    out = io.StringIO()
    report.show(by_hand(), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    lines = [" ".join(line.split()) for line in lines]

    def shown(start):
        return next(line for line in lines if line.startswith(start))

    assert shown("X (cpu), one of 8 devices") and shown("32 problems x 16 particles, 512 rows")
    assert shown("copy bandwidth").startswith("copy bandwidth 250.00 ms 4.0 GB/s 100%")
    assert shown("rows of decoding").startswith("rows of decoding 200.00 ms 5 GFLOP/s 50%")
    assert shown("decoding a token").startswith(
        "decoding a token 500.00 ms 1,024 tokens/s 50% 20% memory"
    )
    assert "2.00 s 3,328 tokens/s 1.2% 80% compute" in shown("scoring a step")
    assert "0.4 GB/s 10% memory" in shown("moving caches")
    assert "4.00 s 8 problems/s" in shown("whole solve")
    assert "8,000 tokens/s" in shown("policy") and "9,000 tokens/s" in shown("PRM")
    assert "500.00 ms 8.0x slower 12% compute" in shown("lower bound")
    assert "30.00 s 6 programs" in shown("first call")
    assert any("256 MB in place" in line for line in lines)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--policy", "nowhere"], "is not a folder"),
        (["--prm", "embedded:small"], "without a reward head"),
        (["--particles", "0"], "particles is 0"),
        (["--num-problems", "10001"], "num-problems is 10001"),
        (["--repeats", "0"], "repeats is 0"),
        (["--step-tokens", "-1"], "step-tokens is -1"),
        (["--dtype", "int4"], "bfloat16"),
        (["--max-tokens", "100000"], "shorten the question"),
        (["--random", "--policy", "GPT-2"], "knows by name"),
        (["--random", "--prm", "Math-Shepherd-Mistral-7B-PRM"], "'qwen' or 'skywork'"),
        (["--random", "--policy", "Qwen2.5-0.5B"], "choose two of one family"),
    ],
)
def test_bad_input(args, words):
    done = call("--small", *args)
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("pfjax: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
