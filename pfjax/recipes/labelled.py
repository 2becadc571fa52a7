"""Solutions with a label on every token and every step, for the embedded PRM."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pfjax import models
from pfjax.distill import batches, identity, run_folder
from pfjax.embedded.tokenizer import PROBE
from pfjax.recipes.recipe import Progress, told
from pfjax.search.solver import Solver
from pfjax.tasks import orchard
from pfjax.tasks.orchard_checks import check_steps

SAMPLES, FIRST, WIDTH = 4, 10_000_000, 160


def encode(
    tokenizer: models.Tokenizer, problem: orchard.Problem, steps: list[str]
) -> dict[str, list[float]]:
    """One labelled row: ids, probe, token, label, weight; see losses.prm_loss."""
    prompt, probe = models.Prompt().ids(tokenizer, problem.question), tokenizer.token_id(PROBE)
    blank = [0.0] * len(prompt)
    row = {"ids": [float(i) for i in prompt]} | {
        k: list(blank) for k in ("probe", "token", "label", "weight")
    }
    right = True
    for step, good in zip(steps, check_steps(problem, steps), strict=True):
        tokens = tokenizer.encode(step)
        slip = 0
        if right and not good:
            slip = _first_difference(tokens, tokenizer.encode(_reference(problem, step)))
        clean = [float(right and (good or j < slip)) for j in range(len(tokens))]
        right = right and good
        row["ids"] += [*tokens, probe]
        row["probe"] += [0.0] * len(tokens) + [1.0]
        row["token"] += [1.0] * len(tokens) + [0.0]
        row["label"] += [*clean, float(right)]
        row["weight"] += [*clean, 0.0]
    return row


def _reference(problem: orchard.Problem, step: str) -> str:
    if "\\boxed" in step:
        return problem.steps[-1]
    name = step.split(" ", 1)[0]
    return next((s.step for s in problem.statements if s.name == name), "")


def _first_difference(ours: list[int], reference: list[int]) -> int:
    pairs = zip(ours, reference, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(reference)))


def samples(path: Path, sampler: models.Policy, count: int, progress: Progress) -> batches.Batch:
    """Labelled rows of the sampler's solutions of train problems.

    Kept in `path` for a resumed run; FolderError if those are of another sampler or number of problems.
    """
    settings = {"problems": count, "sampler": identity.policy(sampler)}
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            data = dict(stored)
        run_folder.require_same(path, json.loads(str(data.pop("settings", "{}"))), settings)
        return data

    problems = [orchard.generate(FIRST + i, depth=(3, 7)) for i in range(count)]
    solver = Solver(sampler, None)
    results = solver.solve(
        [p.question for p in problems],
        SAMPLES,
        key=0,
        method="majority",
        progress=told(progress, 1, "sampling"),
    )
    rows = [
        encode(sampler.tokenizer, p, s.steps)
        for p, r in zip(problems, results, strict=True)
        for s in r.solutions
    ]
    rows = [r for r in rows if len(r["ids"]) <= WIDTH]
    order = np.random.default_rng(0).permutation(len(rows))
    rows = [rows[i] for i in order]
    data = {k: batches.pad([r[k] for r in rows], WIDTH, np.float32) for k in rows[0]}
    data["ids"] = data["ids"].astype(np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    arrays: dict[str, Any] = {"settings": np.array(json.dumps(settings)), **data}
    np.savez(part, **arrays)
    part.rename(path)
    return data
