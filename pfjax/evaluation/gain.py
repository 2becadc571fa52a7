"""What searching in sequence brings: against independent samples, against N, against the exact checker.

    resampling gain      share of problems with a right solution among pf's, minus that among independent samples
    over-optimisation    accuracy of the argmax and of the vote as N grows
    ceiling              the same search with the exact checker for a PRM, with and without noise

All comparisons are paired: the same problems, the same number of sampled solutions.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from pfjax.evaluation.checked import Checked
from pfjax.evaluation.intervals import paired_difference, wilson
from pfjax.search import rewards
from pfjax.search.solver import Progress, Solver
from pfjax.tasks.grading import Equal, same_answer

BASELINES = ("weighted-best-of-n", "best-of-n", "majority")
PF, ARGMAX, ANY = "pf", "argmax of pf", "any of pf"
ANY_OF_SAMPLES = "any of independent samples"


def compare(
    solver: Solver,
    problems: Sequence[Checked],
    counts: Sequence[int],
    *,
    key: int = 0,
    progress: Progress | None = None,
) -> list[dict]:
    """Rows of `accuracy` with its 95 % interval, by method and number of particles.

    The filter's particles answer by vote (`PF`), by the highest value (`ARGMAX`), and count as solved if any
    is right (`ANY`); independent samples by the rules of `BASELINES`, and if any is right. `correct` lists 0
    or 1 a problem, by the equality of the solver's task; `policy tokens` and `prm tokens` are those of the run.
    """
    rows, questions, equal = [], [problem.question for problem in problems], solver.task.equal
    for n in counts:
        pf = solver.solve(questions, n, key, method=PF, progress=progress)
        best = [r.revote("best-of-n", equal=equal) for r in pf]
        free = solver.solve(questions, n, key, method="best-of-n", progress=progress)
        voted = {name: [r.revote(name, equal=equal) for r in free] for name in BASELINES}
        answers = {name: [[r.answer] for r in of] for name, of in voted.items()}
        answers |= {PF: [[r.answer] for r in pf], ARGMAX: [[r.answer] for r in best]}
        answers |= {ANY: [[s.answer for s in r.solutions] for r in pf]}
        answers |= {ANY_OF_SAMPLES: [[s.answer for s in r.solutions] for r in free]}
        found = {name: _solved(given, problems, equal) for name, given in answers.items()}
        for name, correct in found.items():
            low, high = wilson(sum(correct), len(correct))
            of = pf if name in (PF, ARGMAX, ANY) else free
            rows.append(
                {
                    "method": name,
                    "particles": n,
                    "accuracy": float(np.mean(correct)),
                    "95% low": low,
                    "95% high": high,
                    "policy tokens": sum(r.counts.policy_tokens for r in of),
                    "prm tokens": sum(r.counts.prm_tokens for r in of),
                    "correct": correct,
                }
            )
    return rows


def differences(rows: Sequence[dict]) -> list[dict]:
    """PF minus each baseline at every N, paired, and the resampling gain, with 95 % intervals."""
    found = {(row["method"], row["particles"]): row["correct"] for row in rows}
    pairs = [(PF, name) for name in BASELINES] + [(ANY, ANY_OF_SAMPLES)]
    out = []
    for n in sorted({n for _, n in found}):
        for ours, theirs in pairs:
            mean, low, high = paired_difference(found[ours, n], found[theirs, n])
            row = {"particles": n, "of": ours, "minus": theirs, "difference": mean}
            out.append(row | {"95% low": low, "95% high": high})
    return out


def checker(problems: Sequence[Checked], noise: float = 0.0, margin: float = 3.0) -> rewards.Reward:
    """The exact checker as a reward: `margin` while every step is right, minus that from the first wrong one.

    With `noise` the verdict on a step is turned round with that probability, for good: the same prefix has the
    same verdict in every search.
    """
    known = {problem.question: problem for problem in problems}

    def value(question: str, steps: list[str]) -> float:
        right = known[question].check(steps)
        said = [ok != _turned(question, steps[: i + 1], noise) for i, ok in enumerate(right)]
        return margin if all(said) else -margin

    return rewards.of_batches(
        lambda questions, steps: [value(*pair) for pair in zip(questions, steps, strict=True)]
    )


def _turned(question: str, steps: list[str], noise: float) -> bool:
    text = "\n".join([question, *steps]).encode()
    word = int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")
    return word < noise * 2**48


def _solved(
    given: Sequence[Sequence[str | None]], problems: Sequence[Checked], equal: Equal | None
) -> list[int]:
    """Whether any of the answers that are given to a problem is its truth."""
    return [
        int(any(same_answer(answer, problem.truth, equal) for answer in set(answers)))
        for answers, problem in zip(given, problems, strict=True)
    ]
