"""Loading Hugging Face folders into nnx modules; `_export.py` writes them.

A folder has config.json, generation_config.json, model.safetensors (or shards), tokenizer.json and
tokenizer_config.json. Linear weights are stored [out, in] and held [in, out]. Everything that can
be wrong is checked before weights are read: names and shapes against an abstract module, then
values for NaN and infinity.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from pfjax.models._export import export as export
from pfjax.models._files import read_object
from pfjax.models._names import POLICY_ARCHITECTURE, PRM_ARCHITECTURE, tensor_name, weight_dtype
from pfjax.models.config import CheckpointError, DecoderConfig, config_from_dict
from pfjax.models.decoder import Decoder
from pfjax.models.policy import PRM, PROBE, Policy
from pfjax.models.prm import ProcessRewardModel
from pfjax.models.safetensors_file import TensorInfo, find_tensors, read_tensor
from pfjax.models.tokenizer import Tokenizer

Module = TypeVar("Module", bound=nnx.Module)


def load_policy(path: str | Path, *, dtype: DTypeLike = jnp.float32) -> Policy:
    """A policy from a Hugging Face folder; CheckpointError if it cannot be used."""
    folder, raw, config = _open(path, POLICY_ARCHITECTURE, "load_prm")
    tokenizer = _tokenizer(folder, config)
    generation = folder / "generation_config.json"
    settings = read_object(generation) if generation.exists() else {}
    eos_ids = _eos_ids(folder, settings, raw, tokenizer, config)
    decoder = _fill(lambda rngs: Decoder(config, rngs=rngs), config, folder, dtype)
    return Policy(decoder, tokenizer, eos_ids, settings)


def load_prm(path: str | Path, *, dtype: DTypeLike = jnp.float32) -> PRM:
    """A process reward model from a Hugging Face folder; an lm_head, if any, is left out."""
    folder, _, config = _open(path, PRM_ARCHITECTURE, "load_policy")
    tokenizer = _tokenizer(folder, config)
    probe_id = tokenizer.token_id(PROBE)
    if probe_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer lacks {PROBE}; use the PRM's own tokenizer."
        )
    config = replace(config, tie_embeddings=True)
    module = _fill(lambda rngs: ProcessRewardModel(config, rngs=rngs), config, folder, dtype)
    return PRM(module, tokenizer, probe_id)


def _open(path: str | Path, architecture: str, other: str) -> tuple[Path, dict, DecoderConfig]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; download the model first, for example with `hf download`."
        )
    raw = read_object(folder / "config.json")
    config = config_from_dict(raw)
    if config.architecture != architecture:
        raise CheckpointError(
            f"{folder} holds a {config.architecture}, wanted {architecture}; load it with {other}."
        )
    return folder, raw, config


def _tokenizer(folder: Path, config: DecoderConfig) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the embedding "
            f"{config.vocab_size}; use the tokenizer of this model."
        )
    return tokenizer


def _eos_ids(folder, generation: dict, raw: dict, tokenizer: Tokenizer, config) -> tuple[int, ...]:
    """From generation_config.json, else config.json, else the tokenizer's eos_token."""
    named = tokenizer.token_id(tokenizer.special_tokens.get("eos_token", ""))
    for value in (generation.get("eos_token_id"), raw.get("eos_token_id"), named):
        if value is None or value == []:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < config.vocab_size for i in ids):
            raise CheckpointError(
                f"{folder}: eos_token_id is {value!r}, wanted ids below "
                f"{config.vocab_size}; correct it."
            )
        return tuple(ids)
    raise CheckpointError(
        f"{folder} names no end of sequence; set eos_token_id in generation_config.json."
    )


class _OneKey:
    """Stands in for nnx.Rngs when only shapes are wanted; counting streams costs seconds."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def _fill(
    build: Callable[[nnx.Rngs], Module], config: DecoderConfig, folder: Path, dtype: DTypeLike
) -> Module:
    """A module with a checkpoint's weights, never initialised at random."""
    dtype = weight_dtype(dtype)
    tensors = find_tensors(folder)
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"config.json asks for {config.num_layers} layers, {folder} has {len(tensors)} "
            "tensors; config.json and weights are of different models."
        )
    graph, state = nnx.split(nnx.eval_shape(lambda: build(cast(nnx.Rngs, _OneKey()))))
    leaves = [(path, leaf, *tensor_name(path)) for path, leaf in nnx.to_flat_state(state)]
    wanted = {name: leaf.shape[::-1] if flip else leaf.shape for _, leaf, name, flip in leaves}
    _compare(folder, wanted, tensors)
    filled = [
        (path, leaf.replace(jnp.asarray(read_tensor(name, tensors[name], dtype, transpose=flip))))
        for path, leaf, name, flip in leaves
    ]
    if "lm_head.weight" in tensors and "lm_head.weight" not in wanted:
        _check_tied(folder, config, tensors)
    return nnx.merge(graph, nnx.from_flat_state(filled))


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
        if name not in wanted and name != "lm_head.weight" and not name.endswith(".inv_freq"):
            raise CheckpointError(
                f"{folder} holds the tensor {name}, which the port does not have; "
                "config.json and weights are of different models."
            )


def _check_tied(folder: Path, config: DecoderConfig, tensors: dict[str, TensorInfo]) -> None:
    """A tied model may store its head, but only a copy of the embedding."""
    if config.architecture == PRM_ARCHITECTURE:
        return
    names = ("lm_head.weight", "model.embed_tokens.weight")
    head, table = (read_tensor(n, tensors[n], np.float32, transpose=False) for n in names)
    if not np.array_equal(head, table):
        raise CheckpointError(
            f"{folder}: config.json ties lm_head.weight to the embedding, but they differ; set "
            "tie_word_embeddings to false."
        )
