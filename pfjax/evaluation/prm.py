"""A PRM as the search sees it: among samples of one problem at one step, and from one step to the next.

    sibling AUC      P(value of a right step > value of a wrong one), same problem, same number of steps
    Bellman error    e_t = log E[exp(v_t+1) | x_0:t] - v_t      0 for the value that SMC wants
    Brier, ECE       of sigmoid(v) against "all steps so far are right"

Resampling compares siblings; an AUC pooled over problems and positions says little about that. The Bellman
error governs what SMC costs (Zhu and Lu 2026, PMLR v306).
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from pfjax.evaluation.checked import Checked, Scored
from pfjax.evaluation.intervals import Z95
from pfjax.search import answers
from pfjax.search.methods import Method
from pfjax.search.solver import Progress, Solver

ALL = "all"
BINS = 15


def siblings(rows: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Sibling AUC with its 95 % interval over problems and the number of pairs, by kind of slip and for `ALL`.

    Ties count half. The interval is that of a ratio of sums over problems (delta method). Kinds without a pair are
    left out.
    """
    groups: dict[tuple[int, int], tuple[list[float], dict[str, list[float]]]] = {}
    for row in rows:
        right, wrong = groups.setdefault((row.problem, row.step), ([], {}))
        if row.right:
            right.append(row.value)
        else:
            wrong.setdefault(row.kind, []).append(row.value)
    won: dict[str, dict[int, np.ndarray]] = {}
    for (problem, _), (right, wrong) in groups.items():
        for kind, values in wrong.items() if right else ():
            above = np.subtract.outer(right, values)
            pair = np.array([(above > 0).sum() + (above == 0).sum() / 2, above.size])
            for name in (ALL, kind):
                of = won.setdefault(name, {})
                of[problem] = of.get(problem, 0) + pair
    return {kind: _ratio(np.stack(list(of.values()))) for kind, of in sorted(won.items())}


def _ratio(sums: np.ndarray) -> dict[str, float]:
    """sum a / sum b with its interval over the rows (a, b)."""
    a, b = sums.T
    found, count = float(a.sum() / b.sum()), len(sums)
    spread = (a - found * b).std(ddof=1) if count > 1 else math.nan
    half = Z95 * float(spread) * math.sqrt(count) / float(b.sum())
    return {"AUC": found, "low": found - half, "high": found + half, "pairs": int(b.sum())}


def calibration(rows: Sequence[Scored]) -> dict[str, float]:
    """Brier score and expected calibration error (15 bins of equal width) of sigmoid(value)."""
    values, right = np.array([row.value for row in rows]), np.array([row.right for row in rows])
    p = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    off = [abs((p[bins == b] - right[bins == b]).sum()) for b in range(BINS)]
    return {
        "Brier": float(np.mean((p - right) ** 2)),
        "ECE": float(sum(off) / len(rows)),
        "base rate": float(right.mean()),
    }


def bellman(
    solver: Solver,
    problems: Sequence[Checked],
    *,
    roll_outs: int = 64,
    key: int = 0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Bellman errors at the prefixes of one solution of the policy a problem.

    From each prefix the next step is sampled `roll_outs` times, so the estimate is biased by about minus
    half the relative variance of exp(v_t+1) over `roll_outs`. Returns the root mean square over all
    prefixes, and by t the mean, the root mean square and how many there were (t = -1: before any step).
    """
    star = Method(_first_for_all, select=answers.best_of_n, name="roll-outs")
    questions = [problem.question for problem in problems]
    results = solver.solve(questions, roll_outs, key, method=star, progress=progress)
    errors: dict[int, list[float]] = {}
    for result in results:
        value = 0.0
        for t in range(max(node.generation for node in result.tree.nodes) + 1):
            steps = [node for node in result.tree.nodes if node.generation == t]
            own = next((node for node in steps if node.slot == 0), None)
            if own is None:
                break
            v = np.array([node.value for node in steps]) / solver.tau
            top = v.max()
            if np.isfinite(top):
                found = top + math.log(np.exp(v - top).mean()) - value / solver.tau
                errors.setdefault(t - 1, []).append(found)
            value = own.value
    by_step = {
        t: {"mean": float(np.mean(e)), "rms": float(np.sqrt(np.mean(np.square(e)))), "n": len(e)}
        for t, e in sorted(errors.items())
    }
    every = np.concatenate([np.array(e) for e in errors.values()])
    return {"rms": float(np.sqrt(np.mean(every**2))), "roll-outs": roll_outs, "by step": by_step}


def _first_for_all(key, log_w, t):
    """Every slot goes on from slot 0, which so stays one sample of the policy."""
    del key
    ancestors = jnp.zeros(log_w.shape, jnp.int32)
    return ancestors, jnp.full(log_w.shape, -jnp.log(jnp.float32(log_w.shape[-1]))), t >= 0
