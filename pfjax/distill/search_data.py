"""Search results as training data: the weighted final particles of the filter.

    sum_i W_i delta(x_i)  approximates the filter's target, so   E_W[-log p(x)]   is its cross-entropy to the policy.

Weights are those before any last resampling, particles with the same tokens are merged, solutions
that did not finish are dropped and their weight is lost, not shared out. Chunks are written as they
come, atomically; a killed run continues.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pfjax.search.result import Result
from pfjax.search.solver import Solver


class Example(NamedTuple):
    """One distinct solution of problem number `problem`, and its share of that problem's weight."""

    problem: int
    prompt: list[int]
    solution: list[int]
    weight: float


def weighted_solutions(result: Result, end: list[int]) -> list[tuple[list[int], float]]:
    """Distinct finished solutions of a result with their total weights, heaviest first.

    `end` closes each.
    """
    total: dict[tuple[int, ...], float] = {}
    for solution in result.solutions:
        if solution.finished and solution.weight > 0:
            tokens = tuple(solution.tokens)
            total[tokens] = total.get(tokens, 0.0) + solution.weight
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return [([*tokens, *end], weight) for tokens, weight in ordered]


def collect(
    solver: Solver,
    questions: list[str],
    folder: Path,
    *,
    particles: int,
    key: int,
    chunk: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Example]:
    """Runs the filter on every question, or reads what an earlier run left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    eos = [solver.policy.eos_ids[0]]
    examples: list[Example] = []
    for start in range(0, len(questions), chunk):
        path = folder / f"{start:08d}.json"
        part = questions[start : start + chunk]
        if not path.exists():
            results = solver.solve(part, particles, key, batch=chunk)
            rows = [weighted_solutions(r, eos) for r in results]
            _write(path, rows)
        for i, found in enumerate(json.loads(path.read_text())):
            prompt = solver.encode(part[i], False)[0]
            examples += [Example(start + i, prompt, ids, weight) for ids, weight in found]
        progress(start + len(part), len(questions))
    return examples


def _write(path: Path, rows: list) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows))
    os.replace(part, path)
