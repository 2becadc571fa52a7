"""Numbers in strict JSON and back: NaN and infinity, which JSON lacks, are texts."""

import math
from typing import Any

FLOATS = {"value", "weight", "log_prob", "log_weight", "log_evidence", "seconds"}


def as_json(value: Any) -> Any:
    """Dicts, lists, texts and numbers of Python.

    >>> as_json({"ess": [float("nan"), -math.inf, 1.5]})
    {'ess': ['NaN', '-Infinity', 1.5]}
    """
    if isinstance(value, dict):
        return {str(name): as_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def with_floats(fields: dict) -> dict:
    """The fields of a Result or of a part of it, texts that stand for numbers as numbers."""
    return {name: float(x) if name in FLOATS else x for name, x in fields.items()}
