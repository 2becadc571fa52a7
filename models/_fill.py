"""Weights of a checkpoint into an abstract module, each device's slice read straight into its place."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from pfjax.models import sharding
from pfjax.models._names import PRM_ARCHITECTURE, Source, is_scale, source
from pfjax.models._place import place, rounded
from pfjax.models._tensors import TensorInfo, find_tensors, read_slice
from pfjax.models.config import CheckpointError, DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.models.dtypes import floating
from pfjax.models.quantize import STORED, quantized_module, require_format

Module = TypeVar("Module", bound=nnx.Module)
_THREADS = min(8, os.cpu_count() or 1)
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class _OneKey:
    """Stands in for nnx.Rngs when only shapes are wanted; counting streams costs seconds."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def abstract(build: Callable[..., Module], config: DecoderConfig) -> Module:
    """A module of shapes without arrays.

    The layers of a decoder are equal, so one is traced and the others are copies of it.
    """
    one = replace(config, num_layers=1, sliding_layers=())
    module = nnx.eval_shape(lambda: build(one, rngs=_OneKey()))
    decoder = cast(Decoder, getattr(module, "decoder", module))
    graph, state = nnx.split(decoder.layers[0])
    layers = [nnx.merge(graph, state, copy=True) for _ in range(config.num_layers)]
    decoder.layers = nnx.List(layers)
    decoder.config = module.config = config  # pyright: ignore[reportAttributeAccessIssue]
    return module


def fill(
    build: Callable[..., Module],
    config: DecoderConfig,
    folder: Path,
    *,
    dtype: DTypeLike,
    weight_format: str | None,
    mesh: Mesh | None,
) -> Module:
    """A module with a checkpoint's weights, never initialised at random, in 8 bits as they are read."""
    dtype = floating(dtype)
    tensors = find_tensors(folder)
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"config.json asks for {config.num_layers} layers, {folder} has {len(tensors)} "
            "tensors; config.json and weights are of different models."
        )
    module = abstract(_in_format(build, weight_format), config)
    params = {path: x for path, x in nnx.iter_graph(module) if isinstance(x, nnx.Param)}
    stored = [path for path in params if not is_scale(path, params)]
    sources = {path: source(path, config) for path in stored}
    wanted = _stored_shapes([(params[path].shape, sources[path]) for path in stored], config)
    _compare(folder, wanted, tensors)

    def at(path: tuple) -> Sharding | None:
        return None if mesh is None else sharding.weight_sharding(path, config, mesh)

    def read(path: tuple) -> None:
        where, scale = sources[path], (*path[:-1], "scale")
        info, shape = tensors[where.name], params[path].shape
        if weight_format is None or scale == path or scale not in params or path[-1] == "bias":
            params[path].set_value(place(shape, where, info, dtype, at(path)))
            return
        both = at(path), at(scale)
        form = next(name for name, kept in STORED.items() if kept == params[path].dtype)
        rows, scales = rounded(shape, where, info, form, both)
        params[path].set_value(rows)
        params[scale].set_value(scales)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(read, stored))
    if _HEAD in tensors and _HEAD not in wanted and config.architecture != PRM_ARCHITECTURE:
        if "v_head.summary.weight" not in tensors:
            _check_tied(folder, tensors)
    return module


def _stored_shapes(
    parameters: list[tuple[tuple[int, ...], Source]], config: DecoderConfig
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the file; parts of a fused one are added up."""
    shapes: dict[str, tuple[int, ...]] = {}
    for shape, where in parameters:
        if where.name in (_TABLE, _HEAD):
            shape = (config.vocab_size, *shape[1:])
        if where.rows:
            shape = (max(where.rows[1], shapes.get(where.name, (0,))[0]), *shape[1:])
        shapes[where.name] = shape
    return shapes


def _in_format(build: Callable[..., Module], weight_format: str | None) -> Callable[..., Module]:
    if weight_format is None:
        return build
    require_format(weight_format)
    return lambda config, rngs: quantized_module(build(config, rngs=rngs), weight_format)


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
            read_slice(name, tensors[name], rows, np.dtype(np.float32)) for name in (_HEAD, _TABLE)
        ]
        same = same and np.array_equal(parts[0], parts[1])
    if not same:
        raise CheckpointError(
            f"{folder}: config.json ties lm_head.weight to the embedding, but they differ; set "
            "tie_word_embeddings to false."
        )
