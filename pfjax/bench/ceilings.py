"""What this device can do at best: bytes a second of a large copy, operations a second of a product.

    copy     best of  y = x,  y = x + 1  and  x <- x + 1  on a large float32 array, read and written
    matmul   [m, k] @ [k, k], two operations a multiplication and addition

The third copy writes where it reads: on a CPU new memory costs as much as the copy itself. Products
have the default precision of JAX, as the engine's have. Knows nothing of models.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfjax.bench.timing import REPEATS, timed


class Rate(NamedTuple):
    """`amount` bytes or operations in each of `seconds`."""

    how: str
    amount: int
    seconds: list[float]

    @property
    def per_second(self) -> float:
        """Of the median call."""
        return self.amount / median(self.seconds)


class _Kind(NamedTuple):
    fn: Callable
    moved: int
    donated: bool


_KINDS = {
    "copied": _Kind(jnp.copy, 2, False),
    "incremented": _Kind(lambda x: x + 1, 2, False),
    "in place": _Kind(lambda x: x + 1, 2, True),
    # A sum over rows: one sum of everything would wait for its last stage.
    "read": _Kind(lambda x: jnp.sum(x.reshape(1000, -1), axis=1), 1, False),
}
COPIES = ("copied", "incremented", "in place")


def copies(count: int, kinds: Sequence[str] = COPIES, *, repeats: int = REPEATS) -> dict[str, Rate]:
    """Bytes a second by kind, for `count` float32 numbers, a multiple of 1000.

    Kinds are "copied", "incremented", "in place" (all read and written) and "read", summed by rows.
    """
    rates = {}
    for kind in kinds:
        fn, moved, donated = _KINDS[kind]
        x = jax.random.normal(jax.random.key(0), (count,), jnp.float32)
        program = jax.jit(fn, donate_argnums=0 if donated else ()).lower(x).compile()
        how = f"{x.nbytes / 1e6:.0f} MB {kind}"
        seconds = timed(_again(program, x) if donated else partial(program, x), repeats=repeats)
        rates[kind] = Rate(how, moved * 4 * count, seconds)
    return rates


def best_copy(rates: dict[str, Rate]) -> Rate:
    """The fastest of the copies."""
    return max((rates[kind] for kind in COPIES if kind in rates), key=lambda r: r.per_second)


def matmul(
    size: int, dtype: str = "float32", *, rows: int | None = None, repeats: int = REPEATS
) -> Rate:
    """Operations a second of [rows, size] @ [size, size]; `rows` None for a square product."""
    rows = size if rows is None else rows
    keys = jax.random.split(jax.random.key(1))
    a = jax.random.normal(keys[0], (rows, size), dtype)
    b = jax.random.normal(keys[1], (size, size), dtype)
    program = jax.jit(jnp.matmul).lower(a, b).compile()
    how = f"[{rows}, {size}] @ [{size}, {size}], {dtype}"
    seconds = timed(partial(program, a, b), repeats=repeats)
    return Rate(how, 2 * rows * size * size, seconds)


def _again(program: Callable, x: jax.Array) -> Callable:
    """A thunk that hands the program's result back to it, so that it may be donated."""
    kept = [x]

    def thunk() -> jax.Array:
        kept[0] = program(kept[0])
        return kept[0]

    return thunk
