"""Questions, ids, seeds and numbers of particles as a user gives them: checked, in one sentence each."""

import hashlib
import operator

from pfjax.settings.numbers import Range, require
from pfjax.settings.numbers import shown as shown
from pfjax.settings.words import is_whole, one_line

MAX_PARTICLES = 1 << 16
TAU = Range(1e-6, 1e6)


def listed(question: object) -> list[str]:
    """The questions; ValueError for what is no text, no list of texts, or empty."""
    found = [question] if isinstance(question, str) else question
    if not isinstance(found, (list, tuple)):
        found = _column(found)
    if found is None or not all(isinstance(q, str) for q in found):
        shown = one_line(repr(question), 60)
        raise ValueError(f"question is {shown}, wanted a text or a list of texts.")
    if not found or not all(q.strip() for q in found):
        raise ValueError("The question is empty; give the text of a problem.")
    for asked in found:
        if not is_whole(asked):
            shown = one_line(ascii(asked), 60)
            raise ValueError(f"question is {shown}, which has half a character; mend it.")
    return [str(q) for q in found]


def listed_ids(ids: object, problems: int) -> list[int]:
    """The ids as numbers of 64 bits: texts are hashed; ValueError for anything else."""
    return [stable_id(i) if isinstance(i, str) else i for i in listed_names(ids, problems)]


def listed_names(ids: object, problems: int) -> list[int | str]:
    """The ids, numbers of 64 bits or texts, as Python has them; ValueError for anything else."""
    found = None if isinstance(ids, (str, bytes, dict, set)) else _column(ids)
    if found is None or not all(isinstance(i, str) or _is_id(i) for i in found):
        raise ValueError(
            f"ids are {one_line(repr(ids), 60)}, wanted whole numbers from 0 to 2^64 - 1, or texts."
        )
    if len(found) != problems:
        raise ValueError(f"ids has {len(found)} entries for {problems} questions; give one each.")
    return [str(i) if isinstance(i, str) else operator.index(i) for i in found]


def stable_id(text: str) -> int:
    """A 64-bit id of a text, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8], "big")


def seed(key: object) -> int:
    """A seed as two words of 32 bits hold it; ValueError for what is no whole number from 0 to 2^64 - 1."""
    if not _is_id(key):
        raise ValueError(
            f"key is {shown(key)}, wanted a number from 0 to 2^64 - 1, or one jax.random.key(number)."
        )
    return operator.index(key)  # pyright: ignore[reportArgumentType]


def callback(name: str, function: object) -> None:
    """ValueError for what can neither be called nor is None."""
    if function is not None and not callable(function):
        raise ValueError(f"{name} is {shown(function)}, wanted a function, or None.")


def particles(count: object) -> int:
    """ValueError outside 1..65536."""
    return require("particles", count, Range(1, MAX_PARTICLES, whole=True))


def tau(value: object) -> float:
    """ValueError for what does not divide log-odds."""
    return require("tau", value, TAU)


def _is_id(value: object) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= operator.index(value) < 1 << 64  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False


def _column(values: object) -> list | None:
    """The entries of a list, a range, or a column of numpy or pandas; None for anything else."""
    if isinstance(values, (list, tuple, range)):
        return list(values)
    if isinstance(values, (str, bytes)) or not hasattr(values, "tolist"):
        return None
    found = values.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    return found if isinstance(found, list) else None
