"""What users hand to the functions of files, checked: one sentence for what cannot serve."""

import os
from pathlib import Path

from jax.sharding import Mesh

from pfjax.models.config import CheckpointError


def shown(value: object) -> str:
    """A value as an error names it; what is long, or takes lines, by its type."""
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict, type, type(None), Path))
    text = repr(value)
    text = text if is_whole(text) else ascii(value)
    return text if plain and len(text) <= 80 else f"a {type(value).__name__}"


def is_whole(text: str) -> bool:
    """Whether a text has no half of a character (a surrogate) in it, which no file and no model takes."""
    return text == text.encode(errors="ignore").decode()


def folder(path: object, name: str = "path") -> Path:
    """A path as users write it, ~ resolved; CheckpointError for what is none."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        fix = "; it is loaded already" if hasattr(path, "tokenizer") else ""
        raise CheckpointError(f"{name} is {shown(path)}, wanted the path of a folder{fix}.")
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise CheckpointError(f"{name} is {shown(text)}, wanted the path of a folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{name} is {shown(text)}: {error}; write the folder out.") from None


def existing(path: object, name: str = "path") -> Path:
    """A folder that is there."""
    found = folder(path, name)
    try:
        there = found.is_dir()
    except (OSError, ValueError):  # such as a name too long
        there = False
    if not there:
        known = str(found) if len(str(found)) <= 300 else f"a path of {len(str(found))} letters"
        raise CheckpointError(
            f"{known} is not a folder; download the model first: pfjax download OWNER/NAME, or "
            "models.download in Python."
        )
    return found


def require_mesh(mesh: object) -> None:
    """ValueError unless it is a mesh, or None."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh is {shown(mesh)}, wanted a mesh such as models.make_mesh(1, 2), or None."
        )
