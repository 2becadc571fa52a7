"""Writing a model as a Hugging Face folder, whole or not at all."""

import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from pfjax.models import _asked as asked
from pfjax.models._asked import shown
from pfjax.models._families import architecture
from pfjax.models._family_fields import config_to_dict
from pfjax.models._files import write_object
from pfjax.models._names import PRM_ARCHITECTURE, is_scale, source
from pfjax.models.config import CheckpointError, DecoderConfig
from pfjax.models.dtypes import floating
from pfjax.models.formats import QWEN
from pfjax.models.policy import PRM, Policy

_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
_FILES += ("tokenizer_config.json",)
_REPLACED = (*_FILES, "chat_template.jinja", "special_tokens_map.json", "added_tokens.json")
_REPLACED += ("vocab.json", "merges.txt", "tokenizer.model", "model.safetensors.index.json")
_SHARDS = "model-*-of-*.safetensors"
_KEPT = ("README*", "LICENSE*", "NOTICE*", "USE_POLICY*", ".gitattributes", ".gitignore")
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def export(model: Policy | PRM, folder: str | Path, *, dtype: DTypeLike = jnp.bfloat16) -> None:
    """Writes a Hugging Face folder that transformers loads; a PRM has no generation_config.json.

    Files go to a temporary folder beside it, which is then renamed. A checkpoint that is there already is
    replaced, its README and licence are kept; CheckpointError if the folder holds anything else or is
    the hub's own copy, and for weights that are not finite.
    """
    if not isinstance(model, (Policy, PRM)):
        raise ValueError(f"model is {shown(model)}, wanted a Policy or a PRM.")
    target = asked.folder(folder, "folder").resolve()
    _check_target(target)
    dtype = floating(dtype)
    tensors = _tensors(model.decoder if isinstance(model, Policy) else model.module, dtype)
    config = replace(model.config, architecture=architecture(model.config.family))
    if isinstance(model, PRM) and model.kind.head == "classes":
        tensors.pop("lm_head.weight", None)
        config = replace(config, architecture=PRM_ARCHITECTURE, tie_embeddings=True)
    fields = config_to_dict(config, str(dtype)) | dict(model.noted)
    if isinstance(model, PRM) and model.kind != QWEN:
        fields["pfjax_prm"] = model.kind.name
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        model.tokenizer.save(temporary)
        if isinstance(model, Policy):
            eos = {"eos_token_id": list(model.eos_ids)}
            fields |= eos
            write_object(temporary / "generation_config.json", model.generation | eos)
        write_object(temporary / "config.json", fields)
        weights = temporary / "model.safetensors"
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod((temporary / "config.json").stat().st_mode)  # save_file leaves 0600
        for path in _kept(target):
            shutil.copy2(path, temporary)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tensors(module: nnx.Module, dtype: np.dtype) -> dict[str, np.ndarray]:
    """A module's weights under their Hugging Face names; CheckpointError if one is not finite."""
    config: DecoderConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    state = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    for path, leaf in state.items():
        if is_scale(path, state):
            continue
        where = source(path, config)
        value = jax.device_get(leaf[...])
        if path[-1] in ("weight", "embedding") and (*path[:-1], "scale") in state:
            scale = jax.device_get(state[(*path[:-1], "scale")][...])
            value = value.astype(np.float32) * scale[:, None].astype(np.float32)
        if config.vocab_padding and where.name in (_TABLE, _HEAD):
            value = value[: config.vocab_size]
        with np.errstate(over="ignore"):
            value = np.asarray(value).astype(dtype)
        if not np.isfinite(value.astype(np.float32)).all():
            raise CheckpointError(
                f"{where.name} holds NaN or infinite values as {dtype}; export an earlier "
                "checkpoint or a wider dtype."
            )
        first = where.rows[0] if where.rows else 0
        pieces.setdefault(where.name, []).append((first, np.ascontiguousarray(value)))
    return {name: _joined(parts) for name, parts in pieces.items()}


def _joined(parts: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Rows of a fused tensor in order."""
    arrays = [array for _, array in sorted(parts, key=lambda part: part[0])]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; export to a folder.")
    for path in sorted(target.iterdir()) if target.is_dir() else ():
        if path.is_symlink():
            raise CheckpointError(
                f"{target} is the hub's own copy, {path.name} is a link; export to another folder."
            )
        replaced = path.name in _REPLACED or path.match(_SHARDS)
        if not path.is_file() or not (replaced or _is_kept(path)):
            raise CheckpointError(
                f"{target} holds {path.name}, which export did not write; choose an empty folder."
            )


def _kept(target: Path) -> list[Path]:
    return [p for p in target.iterdir() if _is_kept(p)] if target.is_dir() else []


def _is_kept(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _KEPT)


def _swap(temporary: Path, target: Path) -> None:
    """Renames, the old folder aside first; a reader finds a whole folder or none."""
    if not target.exists():
        temporary.rename(target)
        return
    old = target.parent / f"{temporary.name}.old"
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
