"""Loading Hugging Face folders into nnx modules; `_export.py` writes them.

A folder has config.json, generation_config.json, model.safetensors (or shards), tokenizer.json and
tokenizer_config.json. Linear weights are stored [out, in] and held [in, out]. Everything that can
be wrong is checked before weights are read: names and shapes against an abstract module, then
values for NaN and infinity. On a mesh every device reads its own slice of each tensor.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax.models import sharding
from pfjax.models._asked import existing, require_mesh, shown
from pfjax.models._export import export as export
from pfjax.models._families import config_from_dict
from pfjax.models._family_fields import noted
from pfjax.models._files import read_object
from pfjax.models._fill import fill
from pfjax.models._names import PRM_ARCHITECTURE
from pfjax.models._single import alone
from pfjax.models._tensors import find_tensors
from pfjax.models.config import CheckpointError, DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.models.dtypes import floating
from pfjax.models.formats import PRM_KINDS, QWEN, SKYWORK, PRMKind
from pfjax.models.policy import PRM, Policy
from pfjax.models.prm import ProcessRewardModel, TokenModel, ValueModel
from pfjax.models.tokenizer import Tokenizer

_KINDS = ("QWEN", "QWEN_ONCE", "SKYWORK", "RLHFLOW", "MATH_SHEPHERD")


def load_policy(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    weight_format: str | None = None,
    mesh: Mesh | None = None,
) -> Policy:
    """A policy from a Hugging Face folder; CheckpointError if it cannot be used.

    `weight_format` "int8" or "fp8" stores matrices and embeddings in 8 bits, rounded as they are read. With a `mesh`
    weights are split over its "model" axis, see `pfjax.models.sharding`.
    """
    require_mesh(mesh)
    dtype = floating(dtype)
    folder, raw, config = _open(path)
    if config.architecture == PRM_ARCHITECTURE:
        raise CheckpointError(
            f"{folder} holds a {config.architecture}, wanted a policy; load it with load_prm."
        )
    tokenizer = _tokenizer(folder, config)
    settings = generation_of(folder)
    eos_ids = _eos_ids(folder, settings, raw, tokenizer, config)
    config = _padded(config, mesh)
    decoder = fill(Decoder, config, folder, dtype=dtype, weight_format=weight_format, mesh=mesh)
    return Policy(decoder, tokenizer, eos_ids, settings, noted(raw))


def generation_of(folder: Path) -> dict:
    """What generation_config.json says; nothing if there is none."""
    path = folder / "generation_config.json"
    return read_object(path) if path.exists() else {}


def load_prm(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    kind: PRMKind | None = None,
    weight_format: str | None = None,
    mesh: Mesh | None = None,
) -> PRM:
    """A process reward model from a Hugging Face folder, such as `models.RLHFLOW`.

    Without `kind` the checkpoint tells: a `Qwen2ForProcessRewardModel`, a value head, or what
    `export` noted. CheckpointError for a plain language model: which tokens it was trained to say
    stands in no file. See `load_policy` for the rest.
    """
    require_mesh(mesh)
    dtype = floating(dtype)
    if kind is not None and not isinstance(kind, PRMKind):
        names = ", ".join(f"models.{name}" for name in _KINDS)
        raise ValueError(f"kind is {shown(kind)}, wanted a PRMKind such as {names}.")
    folder, raw, config = _open(path)
    tensors = find_tensors(folder)
    kind = kind or _kind(folder, raw, config, tensors)
    tokenizer = _tokenizer(folder, config)
    kind.format(tokenizer)  # refuses a tokenizer without the probe
    config = _padded(config, mesh)
    if kind.head == "tokens":
        minus, plus = (alone(tokenizer, text) for text in kind.tokens)
        build = partial(TokenModel, minus=minus, plus=plus)
    else:
        config = replace(config, tie_embeddings=True)  # an lm_head, if any, is left out
        build = ProcessRewardModel if kind.head == "classes" else ValueModel
    module = fill(build, config, folder, dtype=dtype, weight_format=weight_format, mesh=mesh)
    return PRM(module, tokenizer, kind, noted(raw))


def _kind(folder: Path, raw: dict, config: DecoderConfig, tensors: dict) -> PRMKind:
    noted = raw.get("pfjax_prm")
    if isinstance(noted, str) and noted in PRM_KINDS:
        return PRM_KINDS[noted]
    if config.architecture == PRM_ARCHITECTURE:
        return QWEN
    if "v_head.summary.weight" in tensors:
        return SKYWORK
    raise CheckpointError(
        f"{folder} holds a {config.architecture} without a reward head; load it with load_policy, or "
        "say how it reads solutions, as in load_prm(path, kind=models.RLHFLOW)."
    )


def _padded(config: DecoderConfig, mesh: Mesh | None) -> DecoderConfig:
    padding = sharding.vocab_padding(config.vocab_size, sharding.model_size(mesh))
    return replace(config, vocab_padding=padding) if padding else config


def _open(path: str | Path) -> tuple[Path, dict, DecoderConfig]:
    folder = existing(path)
    raw = read_object(folder / "config.json")
    return folder, raw, config_from_dict(raw)


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
