"""Small JSON files of a checkpoint folder, read with errors a user can act on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pfjax.models.config import CheckpointError

Entry = TypeVar("Entry")


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


def read_shards(
    index: Path, suffix: str, read_header: Callable[[Path], dict[str, Entry]]
) -> dict[str, Entry]:
    """The entries of all shards that a weight_map lists; files are plain names beside the index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again.")
    for file in weight_map.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(suffix):
            raise CheckpointError(
                f"{index} names the shard {file!r}, wanted a {suffix} file in the same folder; "
                "download it again."
            )
    headers = {}
    for file in sorted(set(weight_map.values())):
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index.parent} lacks the shard {file}; download it again.")
        headers[file] = read_header(index.parent / file)
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise CheckpointError(
                f"{index} places {name} in {file}, which lacks it; download it again."
            )
    return {name: headers[file][name] for name, file in weight_map.items()}


def write_object(path: Path, value: dict) -> None:
    """A dict as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
