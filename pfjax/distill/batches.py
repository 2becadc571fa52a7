"""Token batches for training, from problems and solutions. Host side, numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pfjax.distill.trainer import Batch


def pad(rows: Sequence[Sequence[float]], width: int, dtype: npt.DTypeLike = np.int32) -> np.ndarray:
    """Rows padded with zeros on the right to `width`."""
    table = np.zeros((len(rows), width), dtype)
    for out, row in zip(table, rows, strict=True):
        out[: len(row)] = row
    return table


def bucket(rows: Sequence[Sequence[float]], size: int = 16) -> int:
    """The longest row, rounded up to a multiple of `size`."""
    return size * (-(-max(map(len, rows)) // size))


def solutions(
    prompts: Sequence[list[int]],
    targets: Sequence[list[int]],
    weights: Sequence[float] | None = None,
    width: int | None = None,
) -> Batch:
    """ids[b, t] and weight[b, t].

    A row's weight on its solution tokens, 0 on its prompt and padding.
    """
    rows = [p + s for p, s in zip(prompts, targets, strict=True)]
    weights = [1.0] * len(rows) if weights is None else weights
    masks = [
        [0.0] * len(p) + [w] * len(s) for p, s, w in zip(prompts, targets, weights, strict=True)
    ]
    width = width or bucket(rows)
    return {"ids": pad(rows, width), "weight": pad(masks, width, np.float32)}
