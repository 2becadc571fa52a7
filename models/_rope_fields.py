"""Rotary parameters of a config.json: `rope_scaling` of transformers 4, `rope_parameters` of 5."""

from math import log, sqrt

from pfjax.models.config import CheckpointError
from pfjax.models.rope import Rope


def read_rope(raw: dict, scaling: object, theta: float = 10000.0) -> Rope:
    """One set of rotary parameters; `theta` where neither place gives it."""
    if not isinstance(scaling or {}, dict):
        raise CheckpointError(f"config.json: rope_parameters is {scaling!r}, wanted an object.")
    fields: dict = scaling or {}  # pyright: ignore[reportAssignmentType]
    kind = fields.get("rope_type", fields.get("type")) or "default"
    kind = "longrope" if kind == "su" else str(kind)
    fraction = fields.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    own = _READERS[kind](raw, fields) if kind in _READERS else {}
    return Rope(
        theta=float(fields.get("rope_theta", raw.get("rope_theta") or theta)),
        kind=kind,
        fraction=1.0 if fraction is None else float(fraction),
        **own,
    )


def positions(raw: dict, rope: Rope) -> int:
    """The longest sequence; YaRN's files may still name the length before it."""
    named = int(raw.get("max_position_embeddings", 32768))
    return max(named, int(rope.factor * rope.original_positions)) if rope.kind == "yarn" else named


def write_rope(rope: Rope) -> dict:
    """The object that `read_rope` reads."""
    fields: dict = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.fraction != 1.0:
        fields["partial_rotary_factor"] = rope.fraction
    if rope.kind in ("linear", "llama3", "yarn"):
        fields["factor"] = rope.factor
    if rope.kind == "llama3":
        fields |= {"low_freq_factor": rope.low_frequency, "high_freq_factor": rope.high_frequency}
    if rope.kind in ("llama3", "longrope", "yarn"):
        fields["original_max_position_embeddings"] = rope.original_positions
    if rope.kind == "longrope":
        fields |= {"short_factor": list(rope.short), "long_factor": list(rope.long)}
    if rope.kind == "yarn":
        fields |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        fields["truncate"] = rope.truncate
    if rope.kind in ("longrope", "yarn"):
        fields["attention_factor"] = rope.attention_factor
    return fields


def _original(raw: dict, fields: dict) -> int:
    """The length a model was trained with, outside of the object first, as transformers has it."""
    for found in (raw, fields):
        if found.get("original_max_position_embeddings") is not None:
            return int(found["original_max_position_embeddings"])
    return int(raw.get("max_position_embeddings", 4096))


def _linear(raw: dict, fields: dict) -> dict:
    return dict(factor=float(fields["factor"]))


def _llama3(raw: dict, fields: dict) -> dict:
    return dict(
        factor=float(fields["factor"]),
        low_frequency=float(fields["low_freq_factor"]),
        high_frequency=float(fields["high_freq_factor"]),
        original_positions=_original(raw, fields),
    )


def _longrope(raw: dict, fields: dict) -> dict:
    original, factor = _original(raw, fields), _factor(raw, fields)
    return dict(
        short=tuple(map(float, fields["short_factor"])),
        long=tuple(map(float, fields["long_factor"])),
        original_positions=original,
        attention_factor=_attention(fields, sqrt(1 + log(max(factor, 1.0)) / log(original))),
    )


def _yarn(raw: dict, fields: dict) -> dict:
    factor = _factor(raw, fields)
    here, everywhere = (float(fields.get(name) or 0) for name in ("mscale", "mscale_all_dim"))
    attention = _mscale(factor, 1.0)
    if here and everywhere:
        attention = _mscale(factor, here) / _mscale(factor, everywhere)
    return dict(
        factor=factor,
        original_positions=_original(raw, fields),
        beta_fast=float(fields.get("beta_fast") or 32),
        beta_slow=float(fields.get("beta_slow") or 1),
        truncate=bool(fields.get("truncate", True)),
        attention_factor=_attention(fields, attention),
    )


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * log(factor) + 1.0 if factor > 1 else 1.0


def _attention(fields: dict, default: float) -> float:
    value = fields.get("attention_factor")
    return default if value is None else float(value)


def _factor(raw: dict, fields: dict) -> float:
    """The given one, else how much longer than in training a sequence may be."""
    original = _original(raw, fields)
    if original < 2:
        raise CheckpointError(
            f"config.json: {fields.get('rope_type', fields.get('type'))} rope needs "
            "original_max_position_embeddings >= 2; correct it."
        )
    return float(fields.get("factor") or int(raw.get("max_position_embeddings", 4096)) / original)


_READERS = {"linear": _linear, "llama3": _llama3, "longrope": _longrope, "yarn": _yarn}
