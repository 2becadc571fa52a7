"""The tensors of a checkpoint folder, safetensors or torch's zip files, read slice by slice.

Bytes are read block by block, so that no more than a block per thread is in memory beside the
result.
"""

import threading
from math import prod
from pathlib import Path

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np
from numpy.typing import DTypeLike

from pfjax.models import pickle_file, safetensors_file
from pfjax.models.config import CheckpointError
from pfjax.models.safetensors_file import TensorInfo as TensorInfo

_LOCAL = threading.local()
_BLOCK_BYTES = 1 << 20
_STRIP = 64
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


def read_tensor(name: str, info: TensorInfo, dtype: DTypeLike, *, transpose: bool) -> np.ndarray:
    """All of a tensor; see `read_slice`."""
    bounds = [(0, size) for size in info.shape]
    return read_slice(name, info, bounds, np.dtype(dtype), transpose=transpose)


def read_slice(
    name: str,
    info: TensorInfo,
    bounds: list[tuple[int, int]],
    dtype: np.dtype,
    *,
    transpose: bool,
) -> np.ndarray:
    """The part `bounds` [(start, stop), …] of a tensor as `dtype`, transposed if asked.

    Rows past the tensor's end are zero. CheckpointError if a value is not finite.
    """
    if info.dtype not in _STORED:
        raise CheckpointError(
            f"{info.file}: {name} is {info.dtype}, which pfjax does not load; "
            "convert it to BF16 or F32."
        )
    if not bounds:
        bounds, info = [(0, 1)], info._replace(shape=(1,))
        return read_slice(name, info, bounds, dtype, transpose=False).reshape(())
    shape = tuple(stop - start for start, stop in bounds)
    out = _aligned(shape[::-1] if transpose else shape, dtype)
    view = out.T if transpose else out
    first, last = bounds[0][0], min(bounds[0][1], info.shape[0])
    view[max(last - first, 0) :] = 0
    rest = tuple(slice(start, stop) for start, stop in bounds[1:])
    stored = np.dtype(_STORED[info.dtype])
    row_bytes = stored.itemsize * prod(info.shape[1:])
    step = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for start in range(first, last, step):
        stop = min(start + step, last)
        block = _read(info, stored, start, stop, row_bytes)[(slice(None), *rest)]
        with np.errstate(over="ignore", invalid="ignore"):
            block = block.astype(dtype, copy=False)
        if not _finite(np.ascontiguousarray(block)):
            raise CheckpointError(
                f"{info.file}: {name} holds NaN or infinite values as {out.dtype}; "
                "use an intact checkpoint or a wider dtype."
            )
        # A strip of rows at a time: ten times faster than numpy's copy of a transposed array.
        strip = _STRIP if transpose else max(len(block), 1)
        for row in range(0, len(block), strip):
            rows = block[row : row + strip]
            at = start - first + row
            view[at : at + len(rows)] = rows
    return out


def _read(info: TensorInfo, stored: np.dtype, start: int, stop: int, row_bytes: int) -> np.ndarray:
    """Rows start to stop of a tensor; the array is overwritten by this thread's next read.

    Reading into memory that is already there is faster than mapping the file, page by page.
    """
    size = (stop - start) * row_bytes
    buffer = getattr(_LOCAL, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _LOCAL.buffer = np.empty(max(size, _BLOCK_BYTES), np.uint8)
    try:
        with info.file.open("rb", buffering=0) as file:
            file.seek(info.offset + start * row_bytes)
            got = file.readinto(memoryview(buffer)[:size]) if size else 0
    except OSError as error:
        raise CheckpointError(f"{info.file} cannot be read ({error}); download it again.") from None
    if got != size:
        raise CheckpointError(f"{info.file} ended while it was read; download it again.")
    return buffer[:size].view(stored).reshape(stop - start, *info.shape[1:])


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory that jax on a CPU takes over without a copy."""
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _finite(x: np.ndarray) -> bool:
    """Whether all values are finite, by their exponent bits."""
    info = ml_dtypes.finfo(x.dtype)
    bits = x.view(np.uint16 if x.dtype.itemsize == 2 else np.uint32)
    mask = bits.dtype.type(((1 << info.nexp) - 1) << info.nmant)
    return not bits.size or bool(np.bitwise_and(bits, mask).max() < mask)
