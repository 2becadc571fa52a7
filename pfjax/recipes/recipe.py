"""What a training recipe is."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[int, int, dict[str, float]], None]


class Recipe(NamedTuple):
    """`run(folder, progress)` trains in `folder`, resuming what it finds there, and returns final
    metrics.

    The trained model is exported to `folder/model` in Hugging Face format.
    """

    summary: str
    run: Callable[[Path, Progress], dict]


def ignore(step: int, steps: int, metrics: dict[str, float]) -> None:
    """A Progress that shows nothing."""
