"""Weights of a checkpoint into an abstract module, each device's slice read straight into its place."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax.models import sharding
from pfjax.models._names import PRM_ARCHITECTURE, Source, source, weight_dtype
from pfjax.models._tensors import TensorInfo, find_tensors, read_slice
from pfjax.models.config import CheckpointError, DecoderConfig

Module = TypeVar("Module", bound=nnx.Module)
_THREADS = 4
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class _OneKey:
    """Stands in for nnx.Rngs when only shapes are wanted; counting streams costs seconds."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def abstract(build: Callable[[nnx.Rngs], Module]) -> Module:
    """A module of shapes without arrays."""
    return nnx.eval_shape(lambda: build(cast(nnx.Rngs, _OneKey())))


def fill(
    build: Callable[[nnx.Rngs], Module],
    config: DecoderConfig,
    folder: Path,
    dtype: DTypeLike,
    mesh: Mesh | None,
) -> Module:
    """A module with a checkpoint's weights, never initialised at random."""
    dtype = weight_dtype(dtype)
    tensors = find_tensors(folder)
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"config.json asks for {config.num_layers} layers, {folder} has {len(tensors)} "
            "tensors; config.json and weights are of different models."
        )
    graph, state = nnx.split(abstract(build))
    leaves = [(path, leaf, source(path, config)) for path, leaf in nnx.to_flat_state(state)]
    wanted = _stored_shapes([(leaf.shape, where) for _, leaf, where in leaves], config)
    _compare(folder, wanted, tensors)

    def read(entry):
        path, leaf, where = entry
        at = None if mesh is None else sharding.weight_sharding(path, config, mesh)
        return path, leaf.replace(_place(leaf.shape, where, tensors[where.name], dtype, at))

    with ThreadPoolExecutor(_THREADS) as pool:
        filled = list(pool.map(read, leaves))
    if _HEAD in tensors and _HEAD not in wanted and config.architecture != PRM_ARCHITECTURE:
        if "v_head.summary.weight" not in tensors:
            _check_tied(folder, tensors)
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _stored_shapes(
    parameters: list[tuple[tuple[int, ...], Source]], config: DecoderConfig
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the file; parts of a fused one are added up."""
    shapes: dict[str, tuple[int, ...]] = {}
    for shape, where in parameters:
        shape = shape[::-1] if where.transpose else shape
        if where.name in (_TABLE, _HEAD):
            shape = (config.vocab_size, *shape[1:])
        if where.rows:
            shape = (max(where.rows[1], shapes.get(where.name, (0,))[0]), *shape[1:])
        shapes[where.name] = shape
    return shapes


def _place(
    shape: tuple[int, ...],
    where: Source,
    info: TensorInfo,
    dtype: np.dtype,
    at: jax.sharding.Sharding | None,
) -> jax.Array:
    """A parameter on its devices; every device's slice is read by itself."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
        if where.transpose:
            bounds = bounds[::-1]
        if where.rows:
            bounds[0] = (bounds[0][0] + where.rows[0], bounds[0][1] + where.rows[0])
        return read_slice(where.name, info, bounds, dtype, transpose=where.transpose)

    if at is None:
        return jax.device_put(read((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, at, read)


def _compare(folder: Path, wanted: dict[str, tuple], tensors: dict[str, TensorInfo]) -> None:
    """CheckpointError unless a checkpoint has exactly the wanted names and shapes."""
    for name, shape in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{folder} lacks the tensor {name}; download the model again.")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {list(tensors[name].shape)}, config.json wants "
                f"{list(shape)}; config.json and weights are of different models."
            )
    for name in tensors:
        if name not in wanted and name != _HEAD and not name.endswith(".inv_freq"):
            raise CheckpointError(
                f"{folder} holds the tensor {name}, which the port does not have; "
                "config.json and weights are of different models."
            )


def _check_tied(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    """A tied model may store its head, but only a copy of the embedding."""
    head, table = tensors[_HEAD], tensors[_TABLE]
    same = head.shape == table.shape
    for start in range(0, table.shape[0] if same else 0, 4096):
        rows = [(start, min(start + 4096, table.shape[0])), (0, table.shape[1])]
        parts = [
            read_slice(name, tensors[name], rows, np.dtype(np.float32), transpose=False)
            for name in (_HEAD, _TABLE)
        ]
        same = same and np.array_equal(*parts)
    if not same:
        raise CheckpointError(
            f"{folder}: config.json ties lm_head.weight to the embedding, but they differ; set "
            "tie_word_embeddings to false."
        )
