"""Search results as training data: the weighted final particles of the filter.

    sum_i W_i delta(x_i)  approximates the filter's target, so   E_W[-log p(x)]   is its cross-entropy to the policy.

Weights are those before any last resampling, particles with the same tokens are merged, solutions
that did not finish are dropped and their weight is lost, not shared out. Chunks are written as they
come, atomically, each with what it depends on; a killed run continues, and never with other settings.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pfjax.distill import identity, interruption
from pfjax.distill.endings import closer
from pfjax.distill.run_folder import FolderError, require_same, write
from pfjax.search import methods
from pfjax.search.methods import Method, Name
from pfjax.search.result import Result
from pfjax.search.solver import Solver
from pfjax.settings import asked
from pfjax.settings.numbers import Range, require


class Example(NamedTuple):
    """One distinct solution of problem number `problem`, and its share of that problem's weight."""

    problem: int
    prompt: list[int]
    solution: list[int]
    weight: float


def weighted_solutions(
    result: Result, close: Callable[[Sequence[int]], list[int]]
) -> list[tuple[list[int], float]]:
    """Distinct finished solutions of a result with their total weights, heaviest first.

    `close` ends each (`endings.closer`).
    """
    total: dict[tuple[int, ...], float] = {}
    for solution in result.solutions:
        if solution.finished and solution.weight > 0:
            tokens = tuple(close(solution.tokens))
            total[tokens] = total.get(tokens, 0.0) + solution.weight
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return [(list(tokens), weight) for tokens, weight in ordered]


def collect(
    solver: Solver,
    questions: Sequence[str],
    folder: Path,
    *,
    particles: int,
    key: int,
    method: Name | Method = "pf",
    chunk: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Example]:
    """Searches every question, or reads what an earlier run left in `folder`.

    FolderError if that run had other questions, models or settings. Ctrl-C under `interruption.watched`
    ends it after whole chunks.
    """
    questions, particles = asked.listed(questions), asked.particles(particles)
    chunk = require("chunk", chunk, Range(1, 1 << 20, whole=True))
    settings = _settings(solver, particles, asked.seed(key), method)
    batch = solver.batch(min(chunk, len(questions)), particles)
    close, uses_prm = closer(solver.policy, solver.task), methods.find(method).uses_prm
    # All at once: a question that is too long is told before hours of search.
    prompts = [solver.encode(question, uses_prm)[0] for question in questions]
    examples: list[Example] = []
    for start in range(0, len(questions), chunk):
        where = f"after searching {start} of {len(questions)} problems"
        interruption.check(where)
        path, part = folder / f"{start:08d}.json", questions[start : start + chunk]
        mine = settings | {"questions": identity.text(json.dumps(part))}
        if not path.exists():
            results = solver.solve(
                part,
                particles,
                key,
                method=method,
                batch=batch,
                # A chunk that is not over is searched again.
                progress=lambda done, total, where=where: interruption.check(where),
            )
            rows = [weighted_solutions(r, close) for r in results]
            folder.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps({"settings": mine, "solutions": rows}))
        for i, found in enumerate(_read(path, mine)):
            prompt = prompts[start + i]
            examples += [Example(start + i, prompt, ids, weight) for ids, weight in found]
        progress(start + len(part), len(questions))
    return examples


def _settings(solver: Solver, particles: int, key: int, method: Name | Method) -> dict[str, object]:
    """What the solutions depend on beside the questions, in plain values."""
    found, task = methods.find(method), solver.task
    prompt = task.prompt
    assert prompt is not None
    named = methods.METHODS.get(found.name) is found
    return {
        "particles": particles,
        "key": key,
        "method": found.name if named else f"{found.name} {_digest(found)}",
        "sampling": dict(solver.sampling._asdict()),
        "budget": dict(solver.budget._asdict()),
        "tau": solver.tau,
        "prompt": identity.text(repr((prompt, solver.policy.tokenizer.template))),
        "ends": [list(task.delimiters), list(task.stops), task.stop_at_box],
        "policy": identity.policy(solver.policy),
        "PRM": identity.reward(solver.prm) if found.uses_prm else "none",
    }


def _digest(method: Method) -> str:
    return identity.function((method.resampler, method.potential, method.select))


def _read(path: Path, mine: dict[str, object]) -> list:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        settings, rows = stored["settings"], stored["solutions"]
    except (ValueError, TypeError, KeyError):
        raise FolderError(
            f"{path} is no collection of this version of pfjax; give another folder, or remove it."
        ) from None
    require_same(path.parent, settings, mine)
    return rows
