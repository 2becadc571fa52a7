"""Quality of policies and PRMs on the orchard task, by its exact checker."""

import random
import time
from collections.abc import Sequence

import numpy as np

from pfjax import models
from pfjax.evaluation import checked
from pfjax.evaluation.checked import scored
from pfjax.evaluation.intervals import auc, clustered, wilson
from pfjax.evaluation.prm import calibration
from pfjax.search import methods
from pfjax.search.solver import Progress, Solver
from pfjax.settings.sampling import Sampling
from pfjax.tasks import orchard
from pfjax.tasks.grading import same_answer
from pfjax.tasks.orchard_checks import ARITHMETIC, LOOK_UP, with_slip


def measure_policy(
    policy: models.Policy,
    *,
    split: str = "test",
    problems: int = 500,
    samples: int = 16,
    temperature: float = 1.0,
    key: int = 0,
    progress: Progress | None = None,
) -> dict:
    """pass@1 (with its 95 % interval over problems), step accuracy up to the first error, tokens
    a solution.
    """
    chosen = checked.orchard(problems, split)
    solver = Solver(policy, None, Sampling(temperature))
    questions = [p.question for p in chosen]
    results = solver.solve(questions, samples, key, method="majority", progress=progress)
    right = [
        [same_answer(s.answer, p.truth) for s in r.solutions]
        for p, r in zip(chosen, results, strict=True)
    ]
    steps = [row.right for row in scored(results, chosen)]
    low, high = clustered([float(np.mean(r)) for r in right])
    return {
        "split": split,
        "problems": problems,
        "samples": samples,
        "temperature": temperature,
        "pass@1": float(np.mean(right)),
        "pass@1 95% low": low,
        "pass@1 95% high": high,
        f"pass@{samples}": float(np.mean([any(r) for r in right])),
        "step accuracy": float(np.mean(steps)),
        "truncated": float(np.mean([s.truncated for r in results for s in r.solutions])),
        "tokens per solution": sum(r.counts.policy_tokens for r in results) / problems / samples,
    }


def measure_search(
    solver: Solver,
    *,
    particles: int,
    method: str = "pf",
    split: str = "test",
    problems: int = 500,
    key: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Accuracy of a method's answers with its 95 % Wilson interval, tokens and seconds.

    `correct` lists 0 or 1 a problem.
    """
    return measure_methods(solver, (method,), particles, split, problems, key, progress)[0]


def measure_methods(
    solver: Solver,
    names: Sequence[str],
    particles: int,
    split: str = "test",
    problems: int = 500,
    key: int = 0,
    progress: Progress | None = None,
) -> list[dict]:
    """`measure_search` of methods that share their samples: the first is run, the others select anew.

    Sharing is right for best-of-n, weighted-best-of-n and majority, which differ in the choice of the
    answer alone; the tokens and seconds are those of the run.
    """
    chosen = checked.orchard(problems, split)
    began = time.perf_counter()
    results = solver.solve(
        [p.question for p in chosen],
        particles,
        key,
        method=methods.find(names[0]),
        progress=progress,
    )
    seconds = time.perf_counter() - began
    rows = []
    for name in names:
        answers = [r.revote(name).answer for r in results]
        correct = [int(same_answer(a, p.truth)) for p, a in zip(chosen, answers, strict=True)]
        low, high = wilson(sum(correct), problems)
        uses_prm = methods.find(name).uses_prm
        rows.append(
            {
                "method": name,
                "particles": particles,
                "problems": problems,
                "accuracy": sum(correct) / problems,
                "95% low": low,
                "95% high": high,
                "no answer": sum(a is None for a in answers) / problems,
                "policy tokens": sum(r.counts.policy_tokens for r in results),
                "prm tokens": sum(r.counts.prm_tokens for r in results) if uses_prm else 0,
                "seconds": seconds,
                "compilations": solver.compilations(),
                "correct": correct,
            }
        )
    return rows


def measure_prm(
    prm: models.PRM,
    policy: models.Policy,
    *,
    split: str = "test",
    problems: int = 500,
    samples: int = 4,
    key: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Step AUC on the policy's own samples.

    Log-odds against "all steps so far are right", up to the first error.
    """
    chosen = checked.orchard(problems, split)
    solver = Solver(policy, prm)
    questions = [p.question for p in chosen]
    results = solver.solve(questions, samples, key, method="best-of-n", progress=progress)
    rows = scored(results, chosen)
    values, labels = [row.value for row in rows], [row.right for row in rows]
    final = [s.value for r in results for s in r.solutions]
    correct = [
        same_answer(s.answer, p.truth)
        for p, r in zip(chosen, results, strict=True)
        for s in r.solutions
    ]
    found = calibration(rows)
    return {
        "split": split,
        "problems": problems,
        "samples": samples,
        "steps": len(rows),
        "base rate": found["base rate"],
        "step AUC": auc(values, labels),
        "solution AUC": auc(final, correct),
        "Brier score": found["Brier"],
    }


def told_apart(
    prm: models.PRM, *, split: str = "test", problems: int = 200, seed: int = 0
) -> dict[str, dict[str, float]]:
    """How often the PRM puts a right step of a reference solution above the same with a slip put in.

    Wrong results by operator, and wrong look-ups that are computed rightly: share (ties are no success), median
    margin of log-odds, and number of pairs. One step a problem and kind.
    """
    rng, margins = random.Random(seed), {}
    for i in range(problems):
        problem = orchard.generate(i, split)
        for kind in (ARITHMETIC, LOOK_UP):
            at = rng.randrange(len(problem.statements))
            wrong = with_slip(problem, at, kind, rng)
            if wrong is None:
                continue
            operator = problem.statements[at].operator
            name = f"{kind} {operator}" if kind == ARITHMETIC else kind
            scores = [
                float(prm.score(problem.question, steps)[-1])
                for steps in (problem.steps[: at + 1], wrong)
            ]
            margins.setdefault(name, []).append(scores[0] - scores[1])
    return {
        name: {
            "share": float(np.mean(np.array(found) > 0)),
            "median margin": float(np.median(found)),
            "pairs": len(found),
        }
        for name, found in sorted(margins.items())
    }
