"""Reading safetensors: headers are checked before any tensor is allocated.

A file is `u64 length | JSON header | data`, the header {name: {dtype, shape, data_offsets}} with
offsets into the data that follow one another without gap or overlap
(https://github.com/huggingface/safetensors, section Format). A folder has one file,
model.safetensors, or shards listed by model.safetensors.index.json. Knows nothing of
models: names and shapes are compared with a model in `_fill.py`, data are read in `_tensors.py`.
"""

from math import prod
from pathlib import Path
from typing import NamedTuple

from pfjax.models._files import parse_object, read_shards
from pfjax.models.config import CheckpointError

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_HEADER_LIMIT = 100_000_000
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class TensorInfo(NamedTuple):
    """Where a tensor lies, row-major from byte `offset` of a file, and what it is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file; CheckpointError unless they fill it without gap or overlap."""
    header, data_size = _header_bytes(path)
    data_start = 8 + len(header)
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
        infos[name] = TensorInfo(path, dtype, shape, data_start + begin)
        spans.append((begin, end, name))
    _check_layout(path, spans, data_size)
    return infos


def find_tensors(folder: Path) -> dict[str, TensorInfo] | None:
    """The tensors of a checkpoint folder, single file or sharded; None if it has no safetensors."""
    if (folder / _SINGLE).is_file():
        return read_header(folder / _SINGLE)
    return (
        read_shards(folder / _INDEX, ".safetensors", read_header)
        if (folder / _INDEX).is_file()
        else None
    )


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
