"""Reading safetensors: headers are checked before any tensor is allocated.

A file is `u64 length | JSON header | data`, the header {name: {dtype, shape, data_offsets}} with
offsets into the data that follow one another without gap or overlap
(https://github.com/huggingface/safetensors, section Format). A folder has one file,
model.safetensors, or shards listed by model.safetensors.index.json. Pickles are never opened. Knows
nothing of models: names and shapes are compared with a model in `checkpoint.py`.
"""

from math import prod
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from pfjax.models._files import parse_object, read_object
from pfjax.models.config import CheckpointError

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_WEIGHTS = ("F64", "F32", "F16", "BF16")
_HEADER_LIMIT = 100_000_000
_BLOCK_BYTES = 1 << 26
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class TensorInfo(NamedTuple):
    """Where a tensor lies and what it is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file; CheckpointError unless they fill it without gap or overlap."""
    header, data_size = _header_bytes(path)
    entries = parse_object(header, f"the header of {path}")
    entries.pop("__metadata__", None)
    infos, spans = {}, []
    for name, entry in entries.items():
        dtype, shape, (begin, end) = _entry(path, name, entry)
        if end > data_size:
            raise CheckpointError(
                f"{path} is truncated: {name} ends at byte {end} of {data_size}; download it again."
            )
        if end - begin != _BYTES[dtype] * prod(shape):
            raise CheckpointError(
                f"{path}: {name} has {end - begin} bytes, but {dtype}{list(shape)} takes "
                f"{_BYTES[dtype] * prod(shape)}; the file is damaged, download it again."
            )
        infos[name] = TensorInfo(path, dtype, shape)
        spans.append((begin, end, name))
    _check_layout(path, spans, data_size)
    return infos


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint folder, single file or sharded."""
    if (folder / _SINGLE).is_file():
        return read_header(folder / _SINGLE)
    if (folder / _INDEX).is_file():
        return _sharded(folder)
    pickles = [
        p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".pkl")
    ]
    if pickles:
        raise CheckpointError(
            f"{folder} holds only pickles ({pickles[0]}), which pfjax never loads; convert them to "
            "safetensors with transformers' save_pretrained."
        )
    raise CheckpointError(f"{folder} has no {_SINGLE}; copy the whole Hugging Face folder.")


def read_tensor(name: str, info: TensorInfo, dtype: DTypeLike, *, transpose: bool) -> np.ndarray:
    """A weight as `dtype`, converted block by block; CheckpointError if it is not finite."""
    if info.dtype not in _WEIGHTS:
        raise CheckpointError(
            f"{info.file}: {name} is {info.dtype}, which pfjax does not load; "
            "convert it to BF16 or F32."
        )
    out = np.empty(info.shape[::-1] if transpose else info.shape, dtype)
    view = out.T if transpose else out
    rows = max(1, _BLOCK_BYTES // (_BYTES[info.dtype] * prod(info.shape[1:])))
    try:
        with safe_open(str(info.file), framework="np") as handle:
            stored = handle.get_slice(name)
            for start in range(0, info.shape[0], rows):
                stop = min(start + rows, info.shape[0])
                block = stored[start:stop]
                with np.errstate(over="ignore", invalid="ignore"):
                    block = block.astype(out.dtype)
                if not np.isfinite(block.astype(np.float32)).all():
                    raise CheckpointError(
                        f"{info.file}: {name} holds NaN or infinite values as {out.dtype}; "
                        "use an intact checkpoint or a wider dtype."
                    )
                view[start:stop] = block
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{info.file} cannot be read ({error}); download it again.") from None
    return out


def _header_bytes(path: Path) -> tuple[bytes, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if first == b"version ":
                raise CheckpointError(f"{path} is a Git LFS pointer; run `git lfs pull`.")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise CheckpointError(
                    f"{path} ({size} bytes) is truncated or not safetensors: its header claims "
                    f"{length} bytes; download it again."
                )
            return file.read(length), size - 8 - length
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from None


def _check_layout(path: Path, spans: list[tuple[int, int, str]], data_size: int) -> None:
    """CheckpointError unless the (begin, end, name) follow one another and fill the data."""
    last = 0
    for begin, end, name in sorted(spans):
        if begin != last:
            raise CheckpointError(
                f"{path}: {name} starts at byte {begin}, wanted {last}: tensors overlap or leave a "
                "gap; the file is damaged, download it again."
            )
        last = end
    if last != data_size:
        raise CheckpointError(
            f"{path} holds {data_size} bytes of data, its header describes {last}; "
            "download it again."
        )


def _entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """(dtype, shape, offsets) of one header entry, all of the right type."""
    if isinstance(entry, dict):
        dtype, shape, offsets = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
        if isinstance(dtype, str) and dtype not in _BYTES:
            raise CheckpointError(
                f"{path}: {name} has the unknown dtype {dtype!r}; convert it to BF16 or F32."
            )
        if isinstance(dtype, str) and _counts(shape) and _counts(offsets) and len(offsets) == 2:
            if offsets[0] <= offsets[1]:
                return dtype, tuple(shape), (offsets[0], offsets[1])
    raise CheckpointError(
        f"{path}: the header entry of {name} is malformed; the file is damaged, download it again."
    )


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _sharded(folder: Path) -> dict[str, TensorInfo]:
    path = folder / _INDEX
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; download it again.")
    for file in weight_map.values():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise CheckpointError(
                f"{path} names the shard {file!r}, wanted a .safetensors file in the same folder; "
                "download it again."
            )
    headers = {}
    for file in sorted(set(weight_map.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} lacks the shard {file}; download it again.")
        headers[file] = read_header(folder / file)
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise CheckpointError(
                f"{path} places {name} in {file}, which lacks it; download it again."
            )
    return {name: headers[file][name] for name, file in weight_map.items()}
