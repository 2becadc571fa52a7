"""`pfjax bench`: operations as the compiler counts them, ceilings, parts, the table, bad input."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from rich.console import Console
from typer.testing import CliRunner

from pfjax.bench import Options, Report, ceilings, measure, parts, report
from pfjax.bench.case import Case, load
from pfjax.bench.ceilings import Rate
from pfjax.bench.fill import random_module
from pfjax.bench.operations import operations, prefill_operations
from pfjax.bench.parts import Part
from pfjax.bench.timing import timed
from pfjax.cli import app
from pfjax.models import DecoderConfig, cache
from pfjax.plan.weights import Model
from pfjax.reasoning import Budget

FIXTURES = Path(__file__).parent.parent / "models" / "fixtures"
TINY = ("--random", "--policy", FIXTURES / "tied", "--prm", FIXTURES / "prm")
TINY += ("--max-tokens", "24", "--step-tokens", "8")


def call(*args):
    return CliRunner().invoke(app, ["bench", *(str(a) for a in args)])


def model(tied: bool, head: str | None = None) -> Model:
    """Large enough that products are nearly all of the operations."""
    sizes = {"vocab_size": 1536, "hidden_size": 256, "intermediate_size": 704, "num_layers": 2}
    sizes |= {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "max_positions": 512}
    return Model("here", DecoderConfig(**sizes, tie_embeddings=tied), head)


def random_case(particles: int | None) -> Case:
    policy, prm = str(FIXTURES / "tied"), str(FIXTURES / "prm")
    lengths = {"max_tokens": 24, "step_tokens": 8}
    return load(Options(policy, prm, particles, random=True, small=True, **lengths).checked())


@pytest.fixture(scope="module")
def tiny() -> Case:
    return random_case(None)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", [None, "classes"])
def test_operations_of_a_token_are_the_compilers(tied, head):
    """Without the head, or with it once too often, they would be off by a sixth."""
    counted, rows, widths = model(tied, head), (2, 8), (32, 48, 16)
    module = random_module(counted, "float32")
    graph, weights = nnx.split(module)
    prefix, own, buffer = (
        cache.empty(counted.config, shape, width)
        for shape, width in zip(((2,), rows, rows), widths, strict=True)
    )

    def token(weights, prefix, own, buffer):
        merged = nnx.merge(graph, weights)
        decoder = merged.decoder if head else merged
        full = jnp.full(2, widths[0], jnp.int32)
        ids, length = jnp.zeros((*rows, 1), jnp.int32), jnp.full(rows, widths[1], jnp.int32)
        start = cache.Prefix(prefix, full, full + 64)
        hidden, buffer = cache.extend(decoder, ids, start, own, length, buffer, jnp.int32(0))
        return hidden if head else decoder.logits(hidden), buffer

    compiled = jax.jit(token).lower(weights, prefix, own, buffer).compile()
    counts = compiled.cost_analysis()
    assert counts["flops"] == pytest.approx(operations(counted, 16, sum(widths)), rel=0.03)


def test_operations_of_a_prefill_are_the_compilers():
    """Counting the last layer whole would add a third."""
    counted, width = model(True), 64
    graph, weights = nnx.split(random_module(counted, "float32"))

    def prefill(weights, tokens, length):
        return cache.prefill(nnx.merge(graph, weights), tokens, length)

    tokens, length = jnp.zeros((3, width), jnp.int32), jnp.full(3, width, jnp.int32)
    flops = jax.jit(prefill).lower(weights, tokens, length).compile().cost_analysis()["flops"]
    assert flops == pytest.approx(prefill_operations(counted, [width] * 3, width), rel=0.03)
    one = counted.config.num_heads * counted.config.head_dim
    fewer = prefill_operations(counted, [64], 64) - prefill_operations(counted, [64])
    assert fewer == 4 * one * (64 * 64 - (1 + 64) * 32)


def test_operations_are_those_of_plan(tiny):
    """One formula for a forecast and for a measurement."""
    roof = parts.ceiling(tiny, 1.0, 1.0)
    context, pool = jax.eval_shape(lambda: parts._arrays(tiny))
    columns = context.policy.kv.k[0].shape[-1] + pool.policy_cache.k[0].shape[-1]
    columns += tiny.budget.block
    assert roof.decode.operations == operations(tiny.policy, tiny.rows, columns)


def test_timed_calls_and_setups():
    calls, made = [], []
    seconds = timed(calls.append, lambda: made.append(0) or len(made), repeats=3)
    assert len(seconds) == 3 and min(seconds) > 0
    assert calls == [1, 2, 3, 4] and len(made) == 4
    assert len(timed(lambda: jnp.zeros(1), repeats=4)) == 4


def test_ceilings_count_bytes_and_operations():
    rates = ceilings.copies(2000, ("copied", "in place", "read"), repeats=2)
    assert [rate.amount for rate in rates.values()] == [16_000, 16_000, 8_000]
    assert ceilings.best_copy(rates).per_second == max(
        rates[kind].per_second for kind in ("copied", "in place")
    )
    assert ceilings.matmul(32, rows=4, repeats=2).amount == 2 * 4 * 32 * 32
    assert Rate("", 12, [1.0, 9.0, 3.0]).per_second == 4


def test_the_copy_in_place_writes_where_it_reads():
    kind = ceilings._KINDS["in place"]
    x = jnp.ones(4000)
    before = x.unsafe_buffer_pointer()
    y = jax.jit(kind.fn, donate_argnums=0).lower(x).compile()(x)
    assert y.unsafe_buffer_pointer() == before and float(y[0]) == 2


@pytest.mark.slow
def test_parts_count_what_every_row_does(tiny):
    decode, score, move = (part(tiny, 1) for part in (parts.decode, parts.score, parts.move))
    assert decode.tokens == tiny.rows == 8 and "of 8" in decode.what
    assert score.tokens == 8 * (8 + 1)
    assert move is not None
    changed = int(move.what.split()[0])
    row = sum(x.nbytes for x in jax.tree.leaves(parts._arrays(tiny)[1])) // 8
    assert 0 < changed < 8 and move.bytes_moved == 2 * changed * row
    prefill = parts.prefill(tiny, "policy", 1), parts.prefill(tiny, "prm", 1)
    assert [part.tokens for part in prefill] == [2 * 127, 2 * 128]
    for part in (decode, score, move, *prefill):
        assert 0 < part.seconds < 10


def test_parts_donate_their_caches_and_hand_them_on():
    held = jnp.ones(8)
    call = parts._donating(lambda held, more: (held + more, ()), held, jnp.ones(8))
    call()
    assert held.is_deleted() and float(call()[0]) == 3


def test_no_row_of_a_single_particle_moves():
    assert parts.move(random_case(1), 1) is None


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
    shares = {name: (p["of_copy"], p["of_matmul"]) for name, p in found["parts"].items()}
    assert list(shares) == ["prefill_policy", "prefill_prm", "decode", "scoring", "move"]
    assert all(0 < share < 2 for pair in shares.values() for share in pair if share is not None)
    assert found["parts"]["decode"]["bound"] in ("memory", "compute")
    solve = found["solve"]
    assert not positive({k: v for k, v in solve.items() if k != "compilations"})
    assert solve["problems"] == 2 and solve["compilations"] >= 2
    assert 1 < solve["ratio"] and solve["first_seconds"] > solve["seconds"]
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
    policy, prm = model(True), model(True, "classes")
    engine = SimpleNamespace(n=16)
    budget = Budget(12, 96, 10)
    case = Case(policy, prm, "float32", engine, budget, [([1, 2], [1, 2])] * 32, 32, None)
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
