"""Compiles programs in a thread of its own while the device is at work on others.

A program is lowered by whoever wants it, under that thread's settings of jax, and compiled here; jit
then finds it compiled. Knows nothing of what it compiles.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
from jax.stages import Lowered
from jaxtyping import PyTree


class Ahead:
    """Programs by name, compiled one after the other; a name is wanted once."""

    def __init__(self):
        self._programs: dict[Hashable, Future] = {}
        self._thread = ThreadPoolExecutor(1, "pfjax-compile")

    def want(self, name: Hashable, lower: Callable[[], Lowered]) -> None:
        """Compiles `lower()`, unless that is done or under way."""
        if name not in self._programs:
            self._programs[name] = self._thread.submit(lower().compile)

    def wait(self, name: Hashable) -> None:
        """Until the program is compiled; one that has not begun is left to the caller's own call.

        An error is left to that call too.
        """
        program = self._programs.get(name)
        if program is not None and not program.cancel():
            program.exception()

    def stop(self) -> None:
        """Drops what has not begun."""
        self._programs = {name: p for name, p in self._programs.items() if not p.cancel()}


def shapes_of(arrays: PyTree, like: PyTree | None = None) -> PyTree:
    """Shapes and dtypes, on the devices of the arrays `like` (their own)."""
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=at.sharding if at.committed else None
        ),
        arrays,
        arrays if like is None else like,
    )
