"""`log.jsonl`: a row of metrics a line, whole up to a step after any end of the process."""

import json
from pathlib import Path

from pfjax.distill.run_folder import write

LOG = "log.jsonl"


def append(folder: Path, step: int, row: dict[str, float]) -> None:
    """Writes the row of a step."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step} | row) + "\n")


def cut(folder: Path, step: int) -> None:
    """Keeps the rows up to a step: those behind it are written again, half a line is gone."""
    path = folder / LOG
    if not path.exists():
        return
    lines = path.read_bytes().decode(errors="replace").splitlines()
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines or not path.read_bytes().endswith(b"\n"):
        write(path, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    try:
        found = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return float("inf")
    return found if isinstance(found, int) else float("inf")
