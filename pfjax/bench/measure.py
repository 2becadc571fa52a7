"""Ceilings, parts and whole searches, one after the other."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import jax

from pfjax.bench import ceilings, parts
from pfjax.bench.case import Case, Options, load
from pfjax.bench.ceilings import Rate
from pfjax.bench.machine import machine
from pfjax.bench.operations import matrix_weights, search_operations
from pfjax.bench.parts import Part

Progress = Callable[[int, int, dict], None]


class Search(NamedTuple):
    """Whole searches of `problems`: medians, and `bound_seconds` of the same tokens at the matmul rate.

    `ratio` is the median of measured seconds over that bound; `first_seconds` are those of the first
    call, in which `compilations` programs were compiled or read from a cache.
    """

    problems: int
    seconds: float
    policy_tokens: float
    prm_tokens: float
    bound_seconds: float
    ratio: float
    first_seconds: float
    compilations: int


class Report(NamedTuple):
    """What `pfjax bench` shows; `parts` by name, in order."""

    options: Options
    machine: dict
    case: Case
    copy: Rate
    matmul: Rate
    decode_matmul: Rate
    parts: dict[str, Part]
    search: Search


def run(options: Options, progress: Progress = lambda done, total, said: None) -> Report:
    """Loads and measures; `progress(done, total, {"now": …})` before every stage and at the end."""
    options = options.checked()
    repeats = options.repeats
    assert repeats is not None
    here, case = machine(), load(options)
    accelerator = jax.default_backend() != "cpu"
    count, size = (25 * 10**7, 8192) if accelerator else (64 * 10**6, 2048)
    count, size = (10**6, 256) if options.small else (count, size)
    stages: dict[str, Callable] = {
        "copy": lambda: ceilings.best_copy(ceilings.copies(count, repeats=repeats)),
        "matmul": partial(ceilings.matmul, size, case.dtype, repeats=repeats),
        "matmul at decoding": partial(
            ceilings.matmul, size, case.dtype, rows=case.rows, repeats=repeats
        ),
        "prefill_policy": partial(parts.prefill, case, "policy", repeats),
        "prefill_prm": partial(parts.prefill, case, "prm", repeats),
        "decode": partial(parts.decode, case, repeats),
        "scoring": partial(parts.score, case, repeats),
        "move": partial(parts.move, case, repeats),
    }
    found, total = {}, len(stages) + 1 + repeats
    for done, (name, stage) in enumerate(stages.items()):
        progress(done, total, {"now": name})
        found[name] = stage()
    copy, matmul, at_rows = (found.pop(name) for name in ("copy", "matmul", "matmul at decoding"))
    say = lambda i, said: progress(len(stages) + i, total, {"now": said})  # noqa: E731
    search = _search(case, matmul.per_second, repeats, say)
    progress(total, total, {"now": "done"})
    kept = {name: part for name, part in found.items() if part is not None}
    return Report(options, here, case, copy, matmul, at_rows, kept, search)


def _search(case: Case, rate: float, repeats: int, say: Callable[[int, str], None]) -> Search:
    say(0, "solve, first call")
    before, began = case.engine.compilations(), time.perf_counter()
    case.search(0)
    first, compiled = time.perf_counter() - began, case.engine.compilations() - before
    weights = matrix_weights(case.policy), matrix_weights(case.prm)
    seconds, tokens = [], []
    for i in range(repeats):
        say(1 + i, f"solve, {i + 1} of {repeats}")
        began = time.perf_counter()
        tokens.append(case.search(i))
        seconds.append(time.perf_counter() - began)
    bounds = [search_operations(t.policy, t.prm, *weights) / rate for t in tokens]
    return Search(
        problems=len(case.prompts),
        seconds=median(seconds),
        policy_tokens=median(t.policy for t in tokens),
        prm_tokens=median(t.prm for t in tokens),
        bound_seconds=median(bounds),
        ratio=median(s / b for s, b in zip(seconds, bounds, strict=True)),
        first_seconds=first,
        compilations=compiled,
    )
