"""Particle filtering for language-model reasoning, in JAX.

A policy proposes reasoning steps, a process reward model weighs the partial solutions, resampling
keeps the promising ones.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfjax import models as models
    from pfjax import smc as smc
    from pfjax.reasoning.budget import Budget as Budget
    from pfjax.reasoning.sampling import Sampling as Sampling
    from pfjax.search.execution import Execution as Execution
    from pfjax.search.loading import load as load
    from pfjax.search.solver import Solver as Solver

__version__ = "0.1.0"
_HOMES = {
    "load": "pfjax.search.loading",
    "Solver": "pfjax.search.solver",
    "Sampling": "pfjax.reasoning.sampling",
    "Budget": "pfjax.reasoning.budget",
    "Execution": "pfjax.search.execution",
}


def __getattr__(name: str):
    """Imports on first use, so that the command line can answer without JAX (PEP 562)."""
    if name in ("models", "smc"):
        return import_module(f"pfjax.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pfjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "models", "smc", *_HOMES]
