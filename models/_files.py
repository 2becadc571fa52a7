"""Small JSON files of a checkpoint folder, read with errors a user can act on."""

import json
from pathlib import Path

from pfjax.models.config import CheckpointError


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; CheckpointError if it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; copy the whole Hugging Face folder."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from None


def parse_object(text: str | bytes, where: str) -> dict:
    """A JSON object; CheckpointError naming `where` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON ({error}); download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{where} holds a JSON {type(value).__name__}, wanted an object; download it again."
        )
    return value


def read_object(path: Path) -> dict:
    """The JSON object in a file."""
    return parse_object(read_text(path), str(path))


def write_object(path: Path, value: dict) -> None:
    """A dict as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
