"""How long a step and a solution may get.

Knows nothing of particles.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pfjax.settings.numbers import Range, require

BLOCK = 16
MINE, ITS = Range(0, 1 << 20, whole=True), Range(1, 1 << 20, whole=True)


class Budget(NamedTuple):
    """Tokens of a step, tokens of a solution, steps of a solution; 0 means the policy's own.

    A policy's own are in its generation_config.json (step_tokens, max_new_tokens, max_steps), or 256,
    1024 and 40.
    """

    step_tokens: int = 0
    max_tokens: int = 0
    max_steps: int = 0

    def filled(self, own: Mapping[str, Any]) -> "Budget":
        """Itself with the policy's own instead of 0; ValueError for negative numbers.

        >>> Budget(max_tokens=300).filled({"step_tokens": 16})
        Budget(step_tokens=16, max_tokens=300, max_steps=40)
        """
        names = {"step_tokens": 256, "max_new_tokens": 1024, "max_steps": 40}
        found = []
        for (name, value), (theirs, default) in zip(
            self._asdict().items(), names.items(), strict=True
        ):
            mine = require(f"budget.{name}", value, MINE, "; 0 is the policy's own")
            its = own.get(theirs)
            its = default if its is None else require(f"generation_config.json: {theirs}", its, ITS)
            found.append(mine or its)
        return Budget(*found)

    @property
    def prm_tokens(self) -> int:
        """Tokens of a solution with a probe behind every step."""
        return self.max_tokens + self.max_steps

    @property
    def block(self) -> int:
        """Tokens between two looks at which rows are done."""
        return min(self.step_tokens, BLOCK)

    @property
    def slack(self) -> int:
        """Cache columns behind the tokens of a step that a block's end may touch."""
        return -(-self.step_tokens // self.block) * self.block
