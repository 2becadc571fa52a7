"""Numbers in strict JSON and back: NaN and infinity, which JSON lacks, are texts."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pfjax.search.result import Result

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


def require_whole(result: "Result") -> None:
    """ValueError for a stored Result whose parts do not fit together."""
    tree, count = result.tree, len(result.solutions)
    texts = [result.question, result.method, result.status, *(s.text for s in result.solutions)]
    texts += [result.answer or "", *(s.answer or "" for s in result.solutions)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("what has to be a text is none")
    if not (isinstance(result.chosen, int) and 0 <= result.chosen < count):
        raise ValueError(f"chosen is {result.chosen!r} of {count} solutions")
    if not len(tree.leaves) == len(tree.weights) == count:
        raise ValueError(f"the tree has {len(tree.leaves)} leaves for {count} solutions")
    parents = [(node.parent, i) for i, node in enumerate(tree.nodes)]
    if not all(
        -1 <= parent < i for parent, i in [*parents, *((a, len(parents)) for a in tree.leaves)]
    ):
        raise ValueError("the tree names steps that it does not have")
