"""From final particles to one answer. Each rule maps (answers, log-weights, values) to the index of
the chosen particle.

Answers are normal forms, None where a solution has none or was killed by the reward (log-weight -inf);
such solutions never win while another has an answer.
"""

from collections.abc import Callable, Sequence

import numpy as np

Select = Callable[[Sequence[str | None], np.ndarray, np.ndarray], int]


def weighted_vote(
    answers: Sequence[str | None], log_weights: np.ndarray, values: np.ndarray
) -> int:
    """The answer with the largest total particle weight; its heaviest particle stands for it."""
    return _vote(answers, np.exp(log_weights - _top(log_weights)), log_weights)


def majority(answers: Sequence[str | None], log_weights: np.ndarray, values: np.ndarray) -> int:
    """The most frequent answer (self-consistency, Wang et al.

    2022); ties go to the earlier particle.
    """
    ones = np.ones(len(answers))
    return _vote(answers, ones, -np.arange(len(answers), dtype=float))


def best_of_n(answers: Sequence[str | None], log_weights: np.ndarray, values: np.ndarray) -> int:
    """The particle with the highest reward-model value."""
    has = np.array([a is not None for a in answers])
    return int(np.argmax(np.where(has | ~has.any(), values, -np.inf)))


def weighted_best_of_n(
    answers: Sequence[str | None], log_weights: np.ndarray, values: np.ndarray
) -> int:
    """The answer with the largest total reward-model probability (Li et al.

    2022, voting verifier).
    """
    return _vote(answers, 1 / (1 + np.exp(-np.clip(values, -60, 60))), values)


def _vote(answers: Sequence[str | None], shares: np.ndarray, order: np.ndarray) -> int:
    totals: dict[str | None, float] = {}
    for answer, share in zip(answers, shares, strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(share)
    if len(totals) > 1:
        totals.pop(None, None)
    best = max(totals.values())
    tied = [i for i, a in enumerate(answers) if totals.get(a, -1.0) >= best * (1 - 1e-9)]
    return max(tied, key=lambda i: (order[i], -i))


def _top(log_weights: np.ndarray) -> float:
    top = float(np.max(log_weights))
    return top if np.isfinite(top) else 0.0
