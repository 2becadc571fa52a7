"""Where a model's config.json comes from: a folder, a file, `embedded:NAME` or the built-in table."""

from difflib import get_close_matches
from pathlib import Path

from pfjax.models._families import config_from_dict
from pfjax.models._files import read_object
from pfjax.models._names import PRM_ARCHITECTURE
from pfjax.models.config import CheckpointError, DecoderConfig
from pfjax.models.formats import PRM_KINDS
from pfjax.plan import known
from pfjax.plan.weights import Model
from pfjax.search.loading import resolve

_LAYERS = 10_000
PLAIN = ("qwen", "skywork")
"""Kinds whose formats are `plain`, which PRMs of the policy's tokenizer read without text."""


def read_policy(name: str) -> tuple[Model, dict]:
    """(a policy, its generation_config.json or {}); CheckpointError for anything else."""
    raw, folder = _read(name)
    config = _config(name, raw)
    if config.architecture == PRM_ARCHITECTURE or "pfjax_prm" in raw:
        raise CheckpointError(
            f"{name} is a process reward model, wanted a policy; use it as --prm."
        )
    settings = folder and folder / "generation_config.json"
    return Model(name, config), read_object(settings) if settings and settings.exists() else {}


def read_prm(name: str, kind: str | None = None) -> Model:
    """A PRM; `kind` says how it reads solutions where its config.json does not.

    CheckpointError for a plain language model without a kind, ValueError for an unknown kind.
    """
    raw, _ = _read(name)
    config = _config(name, raw)
    noted = raw.get("pfjax_prm") if kind is None else kind
    if noted is None and config.architecture == PRM_ARCHITECTURE:
        noted = "qwen"
    if noted is None:
        raise CheckpointError(
            f"{name} is a {config.architecture} without a word on how it reads solutions; add "
            f"--prm-kind, one of {', '.join(PRM_KINDS)}."
        )
    if noted not in PRM_KINDS:
        raise ValueError(f"prm-kind is {noted!r}, wanted one of {', '.join(PRM_KINDS)}.")
    return Model(name, config, PRM_KINDS[noted].head, noted not in PLAIN)


def _config(name: str, raw: dict) -> DecoderConfig:
    config = config_from_dict(raw)
    if config.num_layers > _LAYERS:
        raise CheckpointError(
            f"{name}: config.json asks for {config.num_layers} layers, wanted at most {_LAYERS}; "
            "correct it."
        )
    return config


def _read(name: str) -> tuple[dict, Path | None]:
    """(config.json, the folder it lies in, if any)."""
    path = resolve(name)
    if path.is_dir():
        return read_object(path / "config.json"), path
    if path.is_file():
        return read_object(path), path.parent
    found = known.find(name)
    if found is None:
        near = get_close_matches(name, known.KNOWN, 4, 0.5) or known.KNOWN
        raise CheckpointError(
            f"{name!r} is neither a folder with config.json nor a model that pfjax knows by name, "
            f"such as {', '.join(near)}."
        )
    return known.KNOWN[found], None
