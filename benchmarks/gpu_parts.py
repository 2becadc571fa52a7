"""The parts that gpu.py measures, run in a process of their own: `python gpu.py --child ...`.

A part returns a row for the report: medians are taken there. Every call is finished before its time
is read, after one that is not timed. Programs are compiled ahead, so that compilation is a figure of its own.
"""

import gc
import gzip
import json
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import gpu_engine as bench
import gpu_models
from results import machine

from pfjax.bench import copies, matmul, timed


class Part(NamedTuple):
    """`seconds` is what it takes on an H100, a guess with compilation."""

    measure: Callable[[Namespace, str], dict]
    seconds: int


def run_child(options: Namespace) -> None:
    """The parts asked for, one line of JSON each into the log, until the time is up."""
    _record(options, {"machine": machine()})
    for name in options.parts.split(";"):
        part = PARTS[name]
        needed = 0 if options.small else part.seconds
        if time.time() + needed > options.until:
            return
        try:
            row = part.measure(options, name)
        except Exception as error:
            traceback.print_exc(limit=-2)
            row = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        _record(options, {"part": name, "variant": options.child, **row})
        gc.collect()


def _record(options: Namespace, row: dict) -> None:
    with options.log.open("a") as log:
        log.write(json.dumps(row) + "\n")
    shown = {k: _short(v) for k, v in row.items()}
    print(f"{time.time() - options.began:6.1f} s  {shown}", flush=True)


def _short(value):
    if isinstance(value, list):
        return [float(f"{x:.3g}") for x in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def compiled(options: Namespace, name: str, lowered_arguments) -> tuple[Callable, dict]:
    """(the program on its arguments, what the compiler says of it)."""
    lowered, arguments = lowered_arguments
    began = time.perf_counter()
    program = lowered.compile()
    row = {"compile_seconds": time.perf_counter() - began}
    memory = program.memory_analysis()
    if memory is not None:
        row["temporaries"] = memory.temp_size_in_bytes
    if options.hlo:
        words = f"{name} {options.child}".replace(",", "").split()
        options.hlo.mkdir(parents=True, exist_ok=True)
        with gzip.open(options.hlo / f"{'-'.join(words)}.hlo.gz", "wt") as file:
            file.write(program.as_text() or "")
    return lambda: program(*arguments), row


def ceilings(options: Namespace, name: str) -> dict:
    """Bytes a second of a copy and of a sum, operations a second of a bf16 product."""
    count, size = (10**6, 256) if options.small else (10**9, 8192)
    rates = copies(count, ("copied", "incremented", "read"))
    kinds = {kind: {"seconds": r.seconds, "bytes": r.amount} for kind, r in rates.items()}
    product = matmul(size, "bfloat16")
    kinds["product"] = {"seconds": product.seconds, "operations": product.amount}
    return {"ceilings": kinds}


def decode(rows: int, weight_format: str | None, patch: str | None, options, name: str) -> dict:
    """The token loop of one step of `rows` particles."""
    policy = gpu_models.module(gpu_models.policy_model(options.small))
    case = bench.case(options.small, gpu_models.in_format(policy, weight_format), None, rows)
    run, row = compiled(options, name, bench.decode(case, bench.PATCHES[patch]))
    iterations = bench.iterations(run())
    return row | {
        "rows": rows,
        "iterations": iterations,
        "seconds": timed(run),
        "bytes": gpu_models.streamed_bytes(options.small, weight_format) + bench.read_bytes(case),
    }


def score(rows: int, options: Namespace, name: str) -> dict:
    """The PRM on one step of every particle: its tokens and the probe."""
    policy = gpu_models.abstract(gpu_models.policy_model(options.small))
    prm = gpu_models.module(gpu_models.prm_model(options.small))
    case = bench.case(options.small, policy, prm, rows)
    run, row = compiled(options, name, bench.score(case))
    tokens = int(run()[2].sum())
    seconds = timed(run)
    operations = gpu_models.scoring_operations(options.small, tokens)
    return row | {"rows": rows, "tokens": tokens, "seconds": seconds, "operations": operations}


def gather(rows: int, options: Namespace, name: str) -> dict:
    """Both caches of the particles, by ancestors of the engine's resampler."""
    models = gpu_models.policy_model(options.small), gpu_models.prm_model(options.small)
    case = bench.case(options.small, *map(gpu_models.abstract, models), rows)
    run, row = compiled(options, name, bench.gather(case))
    return row | {"rows": rows, "seconds": timed(run), "bytes": 2 * bench.particle_bytes(case)}


def step(rows: int, with_prm: bool, options: Namespace, name: str) -> dict:
    """One generation: resample, propose, score, weigh; the state is made anew for every call."""
    policy = gpu_models.module(gpu_models.policy_model(options.small))
    prm = gpu_models.module(gpu_models.prm_model(options.small)) if with_prm else None
    search = bench.engine(bench.case(options.small, policy, prm, rows))
    fresh = partial(bench.case, options.small, policy, prm, rows)
    began = time.perf_counter()
    new = int(bench.step(search, fresh()).sum())
    first = time.perf_counter() - began
    seconds = timed(partial(bench.step, search), fresh)
    return {"rows": rows, "first_seconds": first, "tokens": new, "seconds": seconds}


PARTS = {
    "ceilings": Part(ceilings, 20),
    "decode bf16 x 32": Part(partial(decode, 32, None, None), 60),
    "decode int8 x 32": Part(partial(decode, 32, "int8", None), 50),
    "score x 32": Part(partial(score, 32), 50),
    "decode bf16 x 32, greedy": Part(partial(decode, 32, None, "greedy"), 40),
    "decode bf16 x 32, no attention": Part(partial(decode, 32, None, "no attention"), 25),
    "gather x 32": Part(partial(gather, 32), 10),
    "decode bf16 x 128": Part(partial(decode, 128, None, None), 45),
    "decode bf16 x 256": Part(partial(decode, 256, None, None), 45),
    "step x 32": Part(partial(step, 32, True), 70),
    "decode fp8 x 32": Part(partial(decode, 32, "fp8", None), 50),
    "score x 128": Part(partial(score, 128), 45),
    "step x 32, no PRM": Part(partial(step, 32, False), 50),
    "gather x 128": Part(partial(gather, 128), 10),
}
