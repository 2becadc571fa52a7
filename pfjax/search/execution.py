"""How the engine runs a search: nothing here changes what is searched for."""

import math
from typing import NamedTuple

from pfjax import models
from pfjax.reasoning.budget import Budget
from pfjax.reasoning.sampling import Sampling


class Execution(NamedTuple):
    """What stands on the device at a time, and in which form.

    `rows` bounds problems x particles of a batch. `together` problems are weighed at a time, each after
    its own step is written (None: an eighth of the batch; all at a common barrier if steps have at most
    32 tokens); `slots` rows of each problem write at a time (None: all). `kv_format` "int8" rounds the
    caches of what is written, a half of bfloat16's bytes (None: not): the policy's whenever a block of at
    most 16 tokens ends, so that `slots`, whose blocks are shorter, may change particles. `ahead` compiles
    the programs of wider caches and other prompts in the background.

    Products of another number of rows are rounded otherwise, which rarely changes a token: one of 62 000
    at temperature 3, none of 300 000 at 1 (benchmarks/engine_probes.py).
    """

    rows: int = 512
    together: int | None = None
    slots: int | None = None
    kv_format: str | None = None
    ahead: bool = False

    def checked(self) -> "Execution":
        """Itself; ValueError for what cannot be."""
        for name in ("rows", "together", "slots"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"execution.{name} is {value!r}, wanted a number above 0.")
        if self.kv_format is not None and self.kv_format not in models.KV_FORMATS:
            formats = " or ".join(map(repr, models.KV_FORMATS))
            raise ValueError(f"kv_format is {self.kv_format!r}, wanted None or {formats}.")
        return self


def require_settings(sampling: Sampling, budget: Budget, execution: Execution, tau: float) -> None:
    """ValueError for a setting that is of another type, or out of range."""
    for value, kind in ((sampling, Sampling), (budget, Budget), (execution, Execution)):
        if not isinstance(value, kind):
            name = kind.__name__
            raise ValueError(f"{name.lower()} is {value!r}, wanted a pfjax.{name}.")
    if not isinstance(tau, (int, float)) or not 0 < tau < math.inf:
        raise ValueError(f"tau is {tau!r}, wanted a number above 0.")
    sampling.checked()
    execution.checked()
