"""Programs compiled in a thread of their own while the device is at work on others.

Knows nothing of what it compiles.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import jax
from jax.sharding import Sharding
from jax.stages import Compiled, Lowered
from jaxtyping import PyTree


class Ahead:
    """Compiled programs by name and shapes; those that are wanted are compiled one after the other."""

    def __init__(self):
        self._programs: dict[Hashable, Future] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def want(
        self,
        name: str,
        shapes: PyTree,
        lower: Callable[[], Lowered],
        then: Callable[[Compiled], None] = lambda program: None,
    ) -> None:
        """Compiles `lower()`, a program for arrays of `shapes`, unless that is done or under way.

        `then(program)` runs before anybody gets it, and may want more.
        """

        def compile() -> Compiled:
            program = lower().compile()
            then(program)
            return program

        key = _key(name, shapes)
        with self._lock:
            if key not in self._programs:
                self._thread = self._thread or ThreadPoolExecutor(1, "pfjax-compile")
                self._programs[key] = self._thread.submit(compile)

    def find(self, name: str, arrays: PyTree) -> Compiled | None:
        """The program for `arrays`, waited for if need be; None if nobody wanted it."""
        program = self._programs.get(_key(name, arrays)) if self._programs else None
        return program and program.result()


def shapes_of(arrays: PyTree, placed: PyTree | None = None) -> PyTree:
    """What a program has to know of arrays: shapes, dtypes, and the devices of `placed` (their own)."""
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_devices(at)),
        arrays,
        arrays if placed is None else placed,
    )


def _devices(x: jax.Array | Sharding) -> Sharding | None:
    """None for an array that may go to any device."""
    if isinstance(x, Sharding):
        return x
    return x.sharding if x.committed else None


def _key(name: str, tree: PyTree) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return name, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
