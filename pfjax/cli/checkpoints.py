"""The embedded checkpoints, from config.json and the safetensors header: no JAX, no weights."""

import json
from math import prod
from pathlib import Path

EMBEDDED = Path(__file__).parents[1] / "embedded"


def embedded() -> list[dict]:
    """Name, architecture, sizes and files of every embedded checkpoint, smallest first."""
    folders = (path.parent for path in EMBEDDED.glob("*/config.json"))
    return sorted(map(describe, folders), key=lambda m: m["parameters"])


def describe(folder: Path) -> dict:
    """One checkpoint; ValueError if its files are missing or damaged."""
    config = folder / "config.json"
    try:
        raw = json.loads(config.read_text())
        return {
            "name": f"embedded:{folder.name}",
            "architecture": raw["architectures"][0],
            "parameters": sum(map(parameters, sorted(folder.glob("*.safetensors")))),
            "bytes": sum(p.stat().st_size for p in folder.iterdir() if p.is_file()),
            "layers": raw["num_hidden_layers"],
            "hidden_size": raw["hidden_size"],
            "context": raw["max_position_embeddings"],
        }
    except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{config} is damaged ({error}); install pfjax again.") from None


def parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is truncated or not safetensors; install pfjax again.")
        header = json.loads(file.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
