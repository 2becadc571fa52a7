"""Intervals for accuracies, and paired comparisons on the same problems."""

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927).

    >>> [round(x, 3) for x in wilson(13, 30)]
    [0.274, 0.608]
    """
    if n < 1:
        raise ValueError(f"n is {n}, wanted at least one problem.")
    p, z2 = successes / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % normal interval of a mean over problems, each score a problem's own mean (Miller
    2024, arXiv 2411.00640).
    """
    x = np.asarray(scores, float)
    half = Z95 * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """(mean of a - b, its 95 % normal interval) over the same problems."""
    d = np.asarray(a, float) - np.asarray(b, float)
    low, high = clustered(d.tolist())
    return float(d.mean()), low, high


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties half.

    >>> auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    s, y = np.asarray(scores, float), np.asarray(labels, bool)
    if y.all() or not y.any():
        raise ValueError("auc needs both right and wrong examples.")
    values, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = int(y.sum()), int((~y).sum())
    return float((ranks[y].sum() - positives * (positives + 1) / 2) / (positives * negatives))
