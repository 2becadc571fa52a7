"""The tensors of a checkpoint folder, safetensors or torch's zip files, read slice by slice.

Bytes are read block by block, so that no more than a block per thread is in memory beside the
result, and straight into the result where nothing is to be converted.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np

from pfjax.models import pickle_file, safetensors_file
from pfjax.models.config import CheckpointError
from pfjax.models.safetensors_file import TensorInfo as TensorInfo

_LOCAL = threading.local()
_BLOCK_BYTES = 1 << 20
_STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a folder; safetensors are preferred to pickles."""
    found = safetensors_file.find_tensors(folder)
    return _unpickled(folder) if found is None else found


def _unpickled(folder: Path) -> dict[str, TensorInfo]:
    """Tensors of pytorch_model.bin, which are stored row-major as a model saves them."""
    if not any(folder.glob("pytorch_model.bin*")):
        raise CheckpointError(
            f"{folder} has no model.safetensors; copy the whole Hugging Face folder."
        )
    tensors = {}
    for name, info in pickle_file.find_tensors(folder).items():
        step, row_major = 1, []
        for size in reversed(info.shape):
            row_major.append(step if size > 1 else 0)
            step *= size
        if 0 not in info.shape and info.strides != tuple(reversed(row_major)):
            raise CheckpointError(
                f"{info.file}: {name} is a transposed or partial view; save it again with "
                "tensor.contiguous()."
            )
        tensors[name] = TensorInfo(info.file, info.dtype, info.shape, info.offset)
    return tensors


def read_slice(
    name: str, info: TensorInfo, bounds: Sequence[tuple[int, int]], dtype: np.dtype
) -> np.ndarray:
    """The part `bounds` [(start, stop), …] of a tensor as `dtype`.

    Rows past the tensor's end are zero. CheckpointError if a value is not finite.
    """
    if info.dtype not in _STORED:
        raise CheckpointError(
            f"{info.file}: {name} is {info.dtype}, which pfjax does not load; "
            "convert it to BF16 or F32."
        )
    if not bounds:
        bounds, info = [(0, 1)], info._replace(shape=(1,))
        return read_slice(name, info, bounds, dtype).reshape(())
    out = aligned(tuple(stop - start for start, stop in bounds), dtype)
    first, last = bounds[0][0], min(bounds[0][1], info.shape[0])
    out[max(last - first, 0) :] = 0
    rest = tuple(slice(start, stop) for start, stop in bounds[1:])
    stored, row = np.dtype(_STORED[info.dtype]), info.shape[1:]
    straight = stored == dtype and out.shape[1:] == row
    row_bytes = stored.itemsize * prod(row)
    step = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    with _opened(info.file) as file:
        for start in range(first, last, step):
            stop = min(start + step, last)
            place = out[start - first : stop - first]
            block = place if straight else _reused((stop - start, *row), stored)
            _read(file, info, info.offset + start * row_bytes, block)
            with np.errstate(over="ignore", invalid="ignore"):
                block = block[(slice(None), *rest)].astype(dtype, copy=False)
            if not _finite(block):
                raise CheckpointError(
                    f"{info.file}: {name} holds NaN or infinite values as {out.dtype}; "
                    "use an intact checkpoint or a wider dtype."
                )
            if not straight:
                place[:] = block
    return out


def _read(file: io.FileIO, info: TensorInfo, offset: int, block: np.ndarray) -> None:
    """Into memory that is already there: faster than mapping the file, page by page."""
    file.seek(offset)
    got = file.readinto(block.reshape(-1).view(np.uint8).data) if block.size else 0
    if got != block.nbytes:
        raise CheckpointError(f"{info.file} ended while it was read; download it again.")


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from None


def _reused(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory of this thread, the same at every call."""
    size = prod(shape) * dtype.itemsize
    memory = getattr(_LOCAL, "memory", None)
    if memory is None or len(memory) < size:
        memory = _LOCAL.memory = np.empty(max(size, _BLOCK_BYTES), np.uint8)
    return memory[:size].view(dtype).reshape(shape)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory that jax on a CPU takes over without a copy."""
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _finite(x: np.ndarray) -> bool:
    """Whether all values are finite.

    As integers infinity and NaN of sign + are the largest signed numbers, those of sign - the
    largest unsigned ones: two maxima, no array in between.
    """
    info, bits = ml_dtypes.finfo(x.dtype), 8 * x.dtype.itemsize
    inf = ((1 << info.nexp) - 1) << info.nmant
    signed, unsigned = x.view(f"i{bits // 8}"), x.view(f"u{bits // 8}")
    return not x.size or bool(signed.max() < inf and unsigned.max() < inf + (1 << (bits - 1)))
