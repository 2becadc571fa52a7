"""How long a step and a solution may get.

Knows nothing of particles.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

BLOCK = 16


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
        for name, value in self._asdict().items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"budget.{name} is {value!r}, wanted 1 or more, or 0 for the policy's."
                )
        names = {"step_tokens": 256, "max_new_tokens": 1024, "max_steps": 40}
        found = [int(own.get(name) or default) for name, default in names.items()]
        return Budget(*(mine or its for mine, its in zip(self, found, strict=True)))

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
