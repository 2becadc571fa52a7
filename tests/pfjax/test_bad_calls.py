"""Calls that cannot be: each is refused in one sentence, in the API and on the command line, and nothing is written."""

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import enumerable_lm
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import pfjax
from pfjax import search, smc
from pfjax.cli import app
from pfjax.search import Method, Result

inf, nan = math.inf, math.nan
SOLVER = cache(enumerable_lm.solver)
CALLS: list[tuple[str, Callable[[], object]]] = []


def add(name: str, values: tuple, call: Callable[[object], object]) -> None:
    """One case a value."""
    for value in values:
        CALLS.append((f"{name}={type(value).__name__}", partial(call, value)))


def solve(**options) -> object:
    return SOLVER().solve(**{"question": "a?", "particles": 2} | options)


def prompted(template: str) -> object:
    task = pfjax.Task(prompt=pfjax.Prompt(template=template))
    return pfjax.load(task=task).solve("a?", 1, method="majority")


def solved_by(**task) -> object:
    return replace(SOLVER(), task=pfjax.Task(**task)).solve("a?", 8)


NUMBERS = (-1, 1.5, "a", True, nan, [1])
add(
    "particles",
    (True, 2.5, "4", None, 0, -1, 1 << 20, nan, inf, [4], b"4", np.float32(2.5)),
    lambda v: solve(particles=v),
)
add("key", (-1, 1.5, nan, None, "0", b"0", [0], 1 << 64, np.zeros(2), 1.0), lambda v: solve(key=v))
add("key", ("two keys",), lambda v: solve(key=jax.random.split(jax.random.key(0))))
add(
    "question",
    (None, b"a?", 5, {}, {"q": "x"}, {"a", "b"}, [], [""], "", " ", ["a", None]),
    lambda v: solve(question=v),
)
add(
    "question",
    (["a", 5], "\ud800", ["a\udfff"], object(), np.zeros(3), True, 1.5, [["a"]]),
    lambda v: solve(question=v),
)
add("question", ("generator",), lambda v: solve(question=(x for x in "ab")))
add(
    "ids",
    ([1.5], "a", [None], [-1], [1, 2], [], 5, {"a"}, [1 << 64], [True], [b"a"], [[1]]),
    lambda v: solve(question=["a?"], ids=v),
)
add("batch", (0, *NUMBERS, {}, "8"), lambda v: solve(batch=v))
add("progress", (5, "x", [print]), lambda v: solve(progress=v))
add("method", ("nope", None, 5, "", b"pf", ["pf"], {}, smc.systematic), lambda v: solve(method=v))
add(
    "temperature",
    (-1, 101, 1e300, nan, inf, "a", True, [1], b"1"),
    lambda v: pfjax.load(sampling=pfjax.Sampling(v)),
)
add(
    "top_p",
    (0, -0.1, 1.1, nan, "a", True, inf),
    lambda v: pfjax.load(sampling=pfjax.Sampling(top_p=v)),
)
add("top_k", (*NUMBERS, inf), lambda v: pfjax.load(sampling=pfjax.Sampling(top_k=v)))
add("min_p", NUMBERS, lambda v: pfjax.load(sampling=pfjax.Sampling(min_p=v)))
for name in pfjax.Budget._fields:
    add(
        name,
        (*NUMBERS, None, 1 << 40),
        lambda v, name=name: pfjax.load(budget=pfjax.Budget(**{name: v})),
    )
for name in ("rows", "together", "slots"):
    add(
        name, (0, *NUMBERS), lambda v, name=name: pfjax.load(execution=pfjax.Execution(**{name: v}))
    )
for name in ("kv_format", "weight_format"):
    add(
        name,
        ("int4", 8, "", True, ["int8"]),
        lambda v, name=name: pfjax.load(execution=pfjax.Execution(**{name: v})),
    )
add("ahead", (3, None, "yes"), lambda v: pfjax.load(execution=pfjax.Execution(ahead=v)))
add("tau", (0, -1, nan, inf, 1e-40, "a", None, True, [1]), lambda v: pfjax.load(tau=v))
add("dtype", ("foo", "int32", None, 5, int, object(), "complex64"), lambda v: pfjax.load(dtype=v))
add("mesh", ("2x1", (2, 1), 5, True), lambda v: pfjax.load(mesh=v))
FOLDERS = ("embedded:huge", "", "/no/such", "a" * 5000, 5, b"x", [], "\x00")
add("policy", (*FOLDERS, None, object()), lambda v: pfjax.load(v))
add("prm", (*FOLDERS, "embedded:small", int, 3.5), lambda v: pfjax.load(prm=v))
for name in ("sampling", "budget", "execution", "task"):
    add(name, (None, 5, {}, "x"), lambda v, name=name: pfjax.load(**{name: v}))
TASK = {
    "prompt": ("x", 5, {}),
    "delimiter": ("", 5, None, [], [""], [5], "\ud800"),
    "stop": ("", 5, [""], [None], ["\udcff"]),
    "stop_at_box": (1, None, "yes"),
    "extract": (None, 5, "x"),
    "equal": (5, "x"),
}
PROMPT = {
    "user": ("x", "", None, 5, "{question}\ud800"),
    "system": (5, b"x", "\ud800"),
    "shots": ("x", [1], [("a",)], [("a", 5)], None, [("a", "\ud800")]),
    "arguments": (5, [1], {1: 2}, None),
    "date": ("today", None, 5),
    "template": (5, b"x"),
}
for name, values in TASK.items():
    add(f"task.{name}", values, lambda v, name=name: pfjax.load(task=pfjax.Task(**{name: v})))
for name, values in PROMPT.items():
    add(f"prompt.{name}", values, lambda v, name=name: pfjax.Prompt(**{name: v}))
add("template", ("{% for %}", "{{ 1/0 }}", "{{ messages[9].content }}", "{{ x.y.z }}"), prompted)
add("template", ("", "no question", "{{ messages[0].role }}"), prompted)
LEFT_OUT = (
    {"system": "Be brief."},
    {"arguments": {"messages": []}},
)  # of embedded:small's template
add("left out", LEFT_OUT, lambda v: pfjax.load(task=pfjax.Task(prompt=pfjax.Prompt(**v))))
add("extract", (lambda t: 1 / 0, lambda t: 5, lambda t: b"x"), lambda v: solved_by(extract=v))
add("equal", (lambda a, b: 1 / 0,), lambda v: solved_by(extract=lambda t: t[:3] + "x", equal=v))
add("Solver", ("embedded:small", None, 5), lambda v: pfjax.Solver(v))
add("Solver prm", ("embedded:prm", 5), lambda v: pfjax.Solver(SOLVER().policy, v))
add("with_prm", (5, "x", object()), lambda v: SOLVER().with_prm(v))
add("with_prm", ("x",), lambda v: SOLVER().with_prm(search.rewards.mean(v)))
add("solutions", (5, None), lambda v: SOLVER().solutions(v))
WEIGHTS = ([0.0, 0.0], 5, None, np.zeros(0, np.float32), np.zeros(3, int), "x", np.float32(1))
add("log_w", WEIGHTS, lambda v: smc.systematic(jax.random.key(0), v, 0))  # pyright: ignore[reportArgumentType]
add("revote", (5, None, "nope", b"x"), lambda v: solve().revote(v))  # pyright: ignore[reportAttributeAccessIssue]
add("revote extract", (5, lambda t: 1 / 0, lambda t: 5), lambda v: solve().revote("pf", extract=v))  # pyright: ignore[reportAttributeAccessIssue]
add(
    "revote equal",
    (5, "x", lambda a, b: 1 / 0),
    lambda v: solve(particles=8).revote("pf", equal=v, extract=lambda t: t[:3] + "x"),
)  # pyright: ignore[reportAttributeAccessIssue]
add("from_dict", (None, {}, 5, []), lambda v: Result.from_dict(v))  # pyright: ignore[reportArgumentType]
STORED = {
    "counts": (None, 5, []),
    "solutions": ([None], "x", [], [{}]),
    "chosen": (99, -1, "x"),
    "question": (None, 5),
    "answer": (5,),
    "tree": (None, {"nodes": [], "leaves": [0, 0], "weights": [1.0, 1.0]}),
    "asked": (None, {"particles": 2, "colour": 1}),
    "ess": (None, "x"),
}
for name, values in STORED.items():
    add(
        f"stored {name}",
        values,
        lambda v, name=name: Result.from_dict(solve().to_dict() | {name: v}),  # pyright: ignore[reportAttributeAccessIssue]
    )
add("ess_below", (nan, -1, 2, "a", None, True), lambda v: smc.ess_below(v))
add("when", (5, None, "x"), lambda v: smc.when(v, smc.systematic))
add("when _, ", (5, None, "systematic"), lambda v: smc.when(smc.never, v))
add("resampler", (5, None, "systematic"), lambda v: solve(method=Method(v)))
add("potential", (5, None, "mean"), lambda v: solve(method=Method(smc.systematic, v)))
add("select", (5, None, "mean"), lambda v: solve(method=Method(smc.systematic, select=v)))
for name in ("mean", "minimum"):
    add(name, (5, None, object()), lambda v, name=name: getattr(search.rewards, name)("a", v))
add("of_texts", (5, None, "x", int), lambda v: search.rewards.of_texts(v))


@pytest.mark.parametrize(
    "call", [c for _, c in CALLS], ids=[f"{i}-{n}" for i, (n, _) in enumerate(CALLS)]
)
def test_a_call_that_cannot_be_is_one_sentence(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    with pytest.raises(ValueError) as error:
        call()
    said = str(error.value)
    assert 10 < len(said) < 420 and "\n" not in said and "Traceback" not in said
    assert not list(tmp_path.iterdir()) and time.perf_counter() - began < 20


def test_there_are_two_hundred():
    assert len(CALLS) >= 200 and len(LINES) >= 200


NOT_WHOLE = ("-1", "0", "1.5", "a", "", "1e9", "nan")
NOT_SHARES = ("-1", "1.5", "a", "nan", "inf", "")
SOLVE = {
    "--particles": (*NOT_WHOLE, "1000000"),
    "--num-problems": (*NOT_WHOLE, "100000"),
    "--seed": ("-1", "1.5", "a", "", "4294967296"),
    "--temperature": ("-1", "101", "1e300", "nan", "inf", "a", ""),
    "--top-p": (*NOT_SHARES, "0"),
    "--top-k": ("-1", "1.5", "a", ""),
    "--min-p": NOT_SHARES,
    "--max-tokens": NOT_WHOLE,
    "--step-tokens": NOT_WHOLE,
    "--tau": ("0", "-1", "nan", "inf", "a", "1e-40"),
    "--method": ("magic", "", "PF", "pf,paper"),
    "--policy": ("embedded:huge", "/no/such", "", "a" * 5000, "OWNER/NAME"),
    "--prm": ("embedded:huge", "/no/such", "", "embedded:small"),
    "--prm-kind": ("magic", "", "qwen"),
    "--dtype": ("int8", "", "float8", "double"),
    "--weight-format": ("int4", "", "8"),
    "--mesh": ("2", "0x1", "axb", "", "1x1x1", "-1x1", "9x9"),
    "--user": ("no place", ""),
    "--template": ("{% for %}", "{{ 1/0 }}", "x"),
    "--system": ("Be brief.",),  # of embedded:small, whose template has no place for it
    "--template-arg": ("x", "=1", "1a=2", ""),
    "--delimiter": ("", "\udcff"),
    "--stop": ("",),
    "--file": (
        "/no/such",
        ".",
        "empty.jsonl",
        "torn.jsonl",
        "list.jsonl",
        "blank.jsonl",
        "bytes.jsonl",
        "list-answer.jsonl",
        "true-answer.jsonl",
        "no-answer.jsonl",
    ),
}
PLAN = {
    "--particles": NOT_WHOLE,
    "--problems": NOT_WHOLE,
    "--prompt-tokens": NOT_WHOLE,
    "--max-tokens": NOT_WHOLE,
    "--step-tokens": NOT_WHOLE,
    "--max-steps": NOT_WHOLE,
    "--mesh": ("2", "0x1", "axb", ""),
    "--device": ("H900", ""),
    "--dtype": ("int8", ""),
    "--weight-format": ("int4", ""),
    "--kv-format": ("int4", ""),
    "--policy": ("nope", ""),
    "--prm": ("nope", ""),
    "--prm-kind": ("nope", ""),
}
BENCH = {
    "--particles": NOT_WHOLE,
    "--num-problems": NOT_WHOLE,
    "--repeats": NOT_WHOLE,
    "--max-tokens": NOT_WHOLE,
    "--step-tokens": NOT_WHOLE,
    "--dtype": ("int8", ""),
    "--policy": ("nope", ""),
    "--prm": ("nope", ""),
}
LINES = [
    *(["solve", name, value] for name, values in SOLVE.items() for value in values),
    *(["plan", name, value] for name, values in PLAN.items() for value in values),
    *(["bench", "--small", name, value] for name, values in BENCH.items() for value in values),
    *(["train", "distil", "--held-out", value] for value in ("-1", "1.5", "a", "")),
    *(["train", name] for name in ("magic", "", "embedded", "--out")),
    *([command, "--no-such-option"] for command in ("solve", "plan", "bench", "train", "models")),
    *(["solve", text] for text in ("", "  \n", "Ann " * 600, "\ud800")),
    *itertools.chain(
        [["conquer"], ["solve", "a", "b"], ["solve", "a", "--file", "x"], ["models", "x"]]
    ),
    ["solve", "--method", "sample", "--particles", "2"],
    ["solve", "--prm", "none", "--method", "pf"],
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_that_cannot_be_is_one_sentence(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "empty.jsonl": b"",
        "torn.jsonl": b'{"question": "x"',
        "list.jsonl": b"[1]",
        "blank.jsonl": json.dumps({"question": " "}).encode(),
        "bytes.jsonl": b"\xff\xfe",
        "list-answer.jsonl": b'{"question": "x", "answer": [34]}',
        "true-answer.jsonl": b'{"question": "x", "answer": true}',
        "no-answer.jsonl": b'{"question": "x", "answer": ""}',
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    began = time.perf_counter()
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2 and result.stdout == "", (result.exit_code, result.output)
    assert "Traceback" not in result.stderr and 10 < len(result.stderr) < 2500
    if result.stderr.startswith("pfjax: "):  # typer's own errors say how the command is used
        assert result.stderr.count("\n") == 1 and len(result.stderr) < 800
    assert {p.name for p in tmp_path.iterdir()} == set(files) and time.perf_counter() - began < 20
