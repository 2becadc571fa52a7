"""How the policy is sampled."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pfjax.settings import numbers


class Sampling(NamedTuple):
    """Softmax(logits / temperature), cut by top_k (0: no cut), top_p (1: none), min_p (0: none).

    Temperature 0 takes the most likely token (greedy). None is the policy's own, from its
    generation_config.json, and where that says nothing temperature 1 and no cut.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None

    def filled(self, own: Mapping[str, Any] | None = None) -> "Sampling":
        """Itself with the policy's own instead of None; ValueError for a value out of range.

        >>> Sampling(top_p=0.9).filled({"temperature": 0.6, "top_p": 0.95})
        Sampling(temperature=0.6, top_p=0.9, top_k=0, min_p=0.0)
        """
        found, own = dict[str, Any](NOTHING_CUT), own or {}
        for name, mine in self._asdict().items():
            its = own.get(name)
            if mine is not None:
                found[name] = numbers.require(name, mine, _RANGES[name])
            elif its is not None:
                found[name] = numbers.require(f"generation_config.json: {name}", its, _RANGES[name])
        return Sampling(**found)

    def numbers(self) -> tuple[float, float, int, float]:
        """(temperature, top_p, top_k, min_p), nothing left out."""
        temperature, top_p, top_k, min_p = self.filled()
        assert temperature is not None and top_p is not None
        assert top_k is not None and min_p is not None
        return temperature, top_p, top_k, min_p


NOTHING_CUT = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
_RANGES = {
    "temperature": numbers.Range(0, 100),
    "top_p": numbers.Range(0, 1, above=True),
    "top_k": numbers.Range(0, 1 << 30, whole=True),
    "min_p": numbers.Range(0, 1),
}
