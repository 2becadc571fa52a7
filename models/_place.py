"""Stored tensors onto devices: each process reads its own part, matrices of 8 bits are rounded meanwhile."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from pfjax.models._names import Source
from pfjax.models._tensors import TensorInfo, aligned, read_slice
from pfjax.models.quantize import STORED, quantized_rows

Bounds = tuple[tuple[int, int], ...]
_BLOCK = 1 << 18


def place(
    shape: tuple[int, ...], where: Source, info: TensorInfo, dtype: np.dtype, at: Sharding | None
) -> jax.Array:
    """A parameter on its devices."""
    parts = _parts(shape, at)
    box = _box(parts)
    whole = read_slice(where.name, info, _in_file(box, where), dtype)
    return _spread(whole, shape, at, parts, box)


def rounded(
    shape: tuple[int, ...],
    where: Source,
    info: TensorInfo,
    weight_format: str,
    at: tuple[Sharding | None, Sharding | None],
) -> tuple[jax.Array, jax.Array]:
    """A matrix in 8 bits and the scale of each row, a quarter of a million numbers read at a time.

    Rows are read whole, because their scale is that of all columns. `at` is for both.
    """
    parts, own = _parts(shape, at[0]), _parts(shape[:1], at[1])
    box = _box(parts)
    (first, last), columns = box[0], shape[1]
    rows = aligned((last - first, columns), STORED[weight_format])
    scales = aligned((last - first,), np.dtype(np.float32))
    step = max(1, _BLOCK // columns)
    for start in range(first, last, step):
        stop = min(start + step, last)
        bounds = _in_file(((start, stop), (0, columns)), where)
        block = read_slice(where.name, info, bounds, np.dtype(np.float32))
        here = slice(start - first, stop - first)
        rows[here], scales[here] = quantized_rows(block, weight_format)
    wide = (box[0], (0, columns))
    return _spread(rows, shape, at[0], parts, wide), _spread(scales, shape[:1], at[1], own, box[:1])


def _parts(shape: tuple[int, ...], at: Sharding | None) -> dict[Any, Bounds]:
    """What every device of this process holds."""
    everything = (slice(None),) * len(shape)
    indices = {None: everything} if at is None else at.addressable_devices_indices_map(shape)
    return {
        device: tuple(s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True))
        for device, index in indices.items()
    }


def _box(parts: Mapping[Any, Bounds]) -> Bounds:
    return tuple((min(axis)[0], max(axis)[1]) for axis in zip(*parts.values(), strict=True))


def _in_file(box: Bounds, where: Source) -> Bounds:
    if not where.rows:
        return box
    (start, stop), *rest = box
    return ((start + where.rows[0], stop + where.rows[0]), *rest)


def _spread(
    whole: np.ndarray,
    shape: tuple[int, ...],
    at: Sharding | None,
    parts: Mapping[Any, Bounds],
    box: Bounds,
) -> jax.Array:
    arrays = [jax.device_put(whole[_within(box, part)], device) for device, part in parts.items()]
    return arrays[0] if at is None else jax.make_array_from_single_device_arrays(shape, at, arrays)


def _within(box: Bounds, part: Bounds) -> tuple[slice, ...]:
    pairs = zip(box, part, strict=True)
    return tuple(slice(start - first, stop - first) for (first, _), (start, stop) in pairs)
