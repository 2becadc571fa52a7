"""Particle filtering for language-model reasoning, in JAX.

A policy proposes reasoning steps, a process reward model weighs the partial solutions, resampling
keeps the promising ones.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfjax import models as models
    from pfjax import search as search
    from pfjax import smc as smc
    from pfjax.models.prompt import Prompt as Prompt
    from pfjax.search.loading import load as load
    from pfjax.search.result import Result as Result
    from pfjax.search.solver import Solver as Solver
    from pfjax.settings.budget import Budget as Budget
    from pfjax.settings.execution import Execution as Execution
    from pfjax.settings.sampling import Sampling as Sampling
    from pfjax.tasks.task import Task as Task

__version__ = "0.1.0"
_ROOMS = ("models", "search", "smc")
_HOMES = {
    "load": "pfjax.search.loading",
    "Solver": "pfjax.search.solver",
    "Result": "pfjax.search.result",
    "Task": "pfjax.tasks.task",
    "Prompt": "pfjax.models.prompt",
    "Sampling": "pfjax.settings.sampling",
    "Budget": "pfjax.settings.budget",
    "Execution": "pfjax.settings.execution",
    "compilation_cache": "pfjax.settings.cache",
}
__all__ = ["__version__", *_ROOMS, *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    """Imports on first use, so that the command line can answer without JAX (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"pfjax.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pfjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
