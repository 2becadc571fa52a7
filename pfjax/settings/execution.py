"""How the engine runs a search: nothing here changes what is searched for."""

import math
from typing import NamedTuple

from pfjax.settings import asked
from pfjax.settings.budget import Budget
from pfjax.settings.numbers import Range, require, shown
from pfjax.settings.sampling import Sampling

KV_FORMATS = ("int8",)
WEIGHT_FORMATS = ("int8", "fp8")
COUNT = Range(1, math.inf, whole=True)


class Execution(NamedTuple):
    """What stands on the device at a time, and in which form.

    `rows` bounds problems x particles of a batch. `together` problems are weighed at a time, each after
    its own step is written (None: an eighth of the batch; all at a common barrier if steps have at most
    32 tokens); `slots` rows of each problem write at a time (None: all). `weight_format` "int8" or "fp8"
    stores the matrices of what `pfjax.load` opens in 8 bits. `kv_format` "int8" rounds the
    caches of what is written, a half of bfloat16's bytes (None: not): the policy's whenever a block of at
    most 16 tokens ends, so that `slots`, whose blocks are shorter, may change particles. `ahead` compiles
    the programs of wider caches and other prompts in the background.

    Products of another number of rows are rounded otherwise, which rarely changes a token: one of 62 000
    at temperature 3, none of 300 000 at 1 (benchmarks/engine_probes.py).
    """

    rows: int = 512
    together: int | None = None
    slots: int | None = None
    weight_format: str | None = None
    kv_format: str | None = None
    ahead: bool = False

    def checked(self) -> "Execution":
        """Itself, with numbers of Python; ValueError for what cannot be."""
        found = {}
        for name in ("rows", "together", "slots"):
            value = getattr(self, name)
            if value is not None or name == "rows":
                found[name] = require(f"execution.{name}", value, COUNT)
        for name, known in (("weight_format", WEIGHT_FORMATS), ("kv_format", KV_FORMATS)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or value not in known):
                formats = " or ".join(map(repr, known))
                raise ValueError(f"{name} is {shown(value)}, wanted None or {formats}.")
        if not isinstance(self.ahead, bool):
            raise ValueError(f"execution.ahead is {shown(self.ahead)}, wanted True or False.")
        return self._replace(**found)


def require_settings(sampling: Sampling, budget: Budget, execution: Execution, tau: float) -> None:
    """ValueError for a setting that is of another type, or out of range."""
    for value, kind in ((sampling, Sampling), (budget, Budget), (execution, Execution)):
        if not isinstance(value, kind):
            name = kind.__name__
            raise ValueError(f"{name.lower()} is {shown(value)}, wanted a pfjax.{name}.")
    asked.tau(tau)
    sampling.filled()
    budget.filled({})
    execution.checked()
