"""Checkpoints in and out: Hugging Face folders to nnx modules and back.

A folder has config.json, generation_config.json, model.safetensors (or shards), tokenizer.json and
tokenizer_config.json. Linear weights are stored [out, in] and held [in, out]. Everything that can
be wrong is checked before weights are read: names and shapes against an abstract module, then
values for NaN and infinity.
"""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from pfjax.models._files import read_object, write_object
from pfjax.models.config import CheckpointError, DecoderConfig, config_from_dict, config_to_dict
from pfjax.models.decoder import Decoder
from pfjax.models.policy import PRM, PROBE, Policy
from pfjax.models.prm import ProcessRewardModel
from pfjax.models.safetensors_file import TensorInfo, find_tensors, read_tensor
from pfjax.models.tokenizer import Tokenizer

POLICY_ARCHITECTURE, PRM_ARCHITECTURE = "Qwen2ForCausalLM", "Qwen2ForProcessRewardModel"
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
_FILES += ("tokenizer_config.json",)
_HEADS = {"lm_head": "lm_head", "score_in": "score.0", "score_out": "score.2"}
_DTYPES = ("float32", "bfloat16", "float16")
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


def export(model: Policy | PRM, folder: str | Path, *, dtype: DTypeLike = jnp.bfloat16) -> None:
    """Writes a Hugging Face folder that transformers loads; a PRM has no generation_config.json.

    Files go to a temporary folder beside it, which is then renamed. A folder that exists is
    replaced if every file in it is one that export writes; CheckpointError otherwise, and for
    weights that are not finite.
    """
    target = Path(folder).expanduser().resolve()
    _check_target(target)
    dtype = _dtype(dtype)
    module, architecture = _module(model)
    tensors = {}
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        name, transpose = _name(path)
        if isinstance(model, PRM) and name == "lm_head.weight":
            continue
        value = np.asarray(jax.device_get(leaf[...])).astype(dtype)
        if not np.isfinite(value.astype(np.float32)).all():
            raise CheckpointError(f"{name} holds NaN or infinite values as {dtype}; not exported.")
        tensors[name] = np.ascontiguousarray(value.T if transpose else value)
    tied = model.config.tie_embeddings or isinstance(model, PRM)
    config = replace(model.config, architecture=architecture, tie_embeddings=tied)
    fields = config_to_dict(config, str(dtype))
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        model.tokenizer.save(temporary)
        if isinstance(model, Policy):
            eos = {"eos_token_id": list(model.eos_ids)}
            fields |= eos
            write_object(temporary / "generation_config.json", model.generation | eos)
        write_object(temporary / "config.json", fields)
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    dtype = _dtype(dtype)
    tensors = find_tensors(folder)
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"config.json asks for {config.num_layers} layers, {folder} has {len(tensors)} "
            "tensors; config.json and weights are of different models."
        )
    graph, state = nnx.split(nnx.eval_shape(lambda: build(cast(nnx.Rngs, _OneKey()))))
    leaves = [(path, leaf, *_name(path)) for path, leaf in nnx.to_flat_state(state)]
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


def _name(path: tuple) -> tuple[str, bool]:
    """(Hugging Face name, whether it is stored transposed) of a module's parameter."""
    parts = [str(part) for part in path if part != "decoder"]
    stem = _HEADS.get(parts[0]) or ".".join(["model", *parts[:-1]])
    return f"{stem}.{'bias' if parts[-1] == 'bias' else 'weight'}", parts[-1] == "kernel"


def _module(model: Policy | PRM) -> tuple[nnx.Module, str]:
    if isinstance(model, Policy):
        return model.decoder, POLICY_ARCHITECTURE
    return model.module, PRM_ARCHITECTURE


def _dtype(dtype: DTypeLike) -> np.dtype:
    if str(jnp.dtype(dtype)) not in _DTYPES:
        raise ValueError(f"dtype is {jnp.dtype(dtype)}, wanted one of {', '.join(_DTYPES)}.")
    return jnp.dtype(dtype)


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; export to a folder.")
    if target.is_dir():
        foreign = sorted(p.name for p in target.iterdir() if p.name not in _FILES)
        if foreign:
            raise CheckpointError(
                f"{target} holds {foreign[0]}, which export did not write; choose an empty folder."
            )


def _swap(temporary: Path, target: Path) -> None:
    """Renames, the old folder aside first; a reader finds a whole folder or none."""
    if not target.exists():
        temporary.rename(target)
        return
    old = target.parent / f"{temporary.name}.old"
    target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old)
