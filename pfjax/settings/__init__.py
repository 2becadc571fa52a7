"""What a user sets, as small values: checked here, before JAX is imported. Knows nothing of models."""

from pfjax.settings.budget import Budget as Budget
from pfjax.settings.execution import Execution as Execution
from pfjax.settings.sampling import Sampling as Sampling
