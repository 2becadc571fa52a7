"""Reading pytorch_model.bin without running it: descriptions of its tensors, then views of the file.

torch.save writes an uncompressed zip archive: NAME/data.pkl describes the tensors, NAME/data/KEY
holds the bytes of each storage, NAME/byteorder the order of the bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html). A tensor is
storage[offset + sum_d i_d stride_d]. Everything is checked against the sizes in the archive before
any tensor is allocated. The checksums of the archive are not compared. Knows nothing of models:
names and shapes are compared with a model in `checkpoint.py`.
"""

from math import prod
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from pfjax.models._files import read_shards
from pfjax.models._state_pickle import Tensor, state_dict
from pfjax.models._stored_zip import CONVERT, Member, damaged, read_member, stored_members
from pfjax.models.config import CheckpointError

_NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_NUMPY |= {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8}
_NUMPY |= {"U8": np.uint8, "BOOL": np.bool_}
_PICKLE_LIMIT = 1 << 26
_MAX_DIMS = 32
_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class PickledTensor(NamedTuple):
    """Where a tensor lies and what it is; `offset` in bytes, `strides` in elements."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]


def read_header(path: Path) -> dict[str, PickledTensor]:
    """The tensors of one file; CheckpointError unless each lies inside its storage."""
    members = stored_members(path)
    root = _root(path, members)
    order = members.get(f"{root}/byteorder")
    if order is not None and (order.size > 16 or read_member(path, order) != b"little"):
        raise CheckpointError(
            f"{path} is not in little-endian byte order; save it again on a little-endian machine."
        )
    pickle = members[f"{root}/data.pkl"]
    if pickle.size > _PICKLE_LIMIT:
        raise CheckpointError(
            f"{path}: its data.pkl takes {pickle.size} bytes, wanted at most {_PICKLE_LIMIT}; "
            f"{CONVERT}."
        )
    return {
        name: _placed(path, name, tensor, members.get(f"{root}/data/{tensor.storage.key}"))
        for name, tensor in state_dict(read_member(path, pickle), path).items()
    }


def find_tensors(folder: Path) -> dict[str, PickledTensor]:
    """The tensors of a checkpoint folder, pytorch_model.bin or shards."""
    if (folder / _SINGLE).is_file():
        return read_header(folder / _SINGLE)
    if (folder / _INDEX).is_file():
        return read_shards(folder / _INDEX, ".bin", read_header)
    raise CheckpointError(f"{folder} has no {_SINGLE}; copy the whole Hugging Face folder.")


def stored_view(info: PickledTensor) -> np.ndarray:
    """The tensor as a read-only view of the file, of which only what is used is read."""
    dtype = np.dtype(_NUMPY[info.dtype])
    span = 1 + sum((n - 1) * stride for n, stride in zip(info.shape, info.strides, strict=True))
    try:
        flat = np.memmap(info.file, dtype, "r", offset=info.offset, shape=(span,))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{info.file} cannot be read ({error}); download it again.") from None
    strides = [stride * dtype.itemsize for stride in info.strides]
    return np.lib.stride_tricks.as_strided(flat, info.shape, strides, writeable=False)


def _root(path: Path, members: dict[str, Member]) -> str:
    """The folder inside the archive that holds everything, data.pkl among it."""
    roots = sorted({name.partition("/")[0] for name in members})
    if len(roots) > 1:
        raise damaged(path, f"the zip archive holds the folders {roots[0]} and {roots[1]}")
    if not roots or f"{roots[0]}/data.pkl" not in members:
        raise CheckpointError(
            f"{path} is a zip archive without data.pkl, so not of torch.save; download it again."
        )
    return roots[0]


def _placed(path: Path, name: str, tensor: Tensor, member: Member | None) -> PickledTensor:
    """The place of a tensor in the file; CheckpointError unless its storage holds all of it."""
    storage, offset, shape, strides = tensor
    width = np.dtype(_NUMPY[storage.dtype]).itemsize
    if len(shape) != len(strides) or len(shape) > _MAX_DIMS:
        raise damaged(path, f"{name} has {len(shape)} sizes and {len(strides)} strides")
    numbers = (storage.numel, offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        raise damaged(path, f"{name} has a size, stride or offset that is not a count")
    if member is None:
        raise damaged(path, f"{name} lies in data/{storage.key}, which the file lacks")
    if member.size != storage.numel * width:
        raise damaged(
            path,
            f"{name} lies in data/{storage.key} of {member.size} bytes, but {storage.numel} values "
            f"of {storage.dtype} take {storage.numel * width}",
        )
    # The stride of an axis of one element means nothing, and torch leaves any number there.
    strides = tuple(s if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    if 0 in shape:
        fits = width * prod(n for n in shape if n) < 1 << 63
        offset, strides = 0, (0,) * len(shape)  # one value of the archive behind it is mapped
    else:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        fits = last < storage.numel and prod(shape) <= storage.numel
    if not fits:
        raise damaged(
            path,
            f"{name} of shape {list(shape)}, strides {list(strides)} and offset {offset} "
            f"needs more than the {storage.numel} values of data/{storage.key}",
        )
    return PickledTensor(path, storage.dtype, shape, member.offset + offset * width, strides)
