"""Reasoning as a Feynman-Kac model over a policy and a process reward model."""

from pfjax.reasoning.model import Settings as Settings
from pfjax.reasoning.model import language_model as language_model
from pfjax.settings.budget import Budget as Budget
from pfjax.settings.sampling import Sampling as Sampling
