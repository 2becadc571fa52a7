"""Particle filtering for language-model reasoning, in JAX.

A policy proposes reasoning steps, a process reward model weighs the partial solutions, resampling
keeps the promising ones.
"""

from pfjax import models as models
from pfjax import smc as smc
from pfjax.load import load as load
from pfjax.reasoning.solver import Solver as Solver

__version__ = "0.1.0"
