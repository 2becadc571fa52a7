"""Seconds of calls on a device, every one finished before its time is read."""

import time
from collections.abc import Callable

import jax

REPEATS = 5
_LEAST, _MOST_CALLS = 0.05, 50


def timed(thunk: Callable, setup: Callable | None = None, *, repeats: int = REPEATS) -> list[float]:
    """Seconds a call of thunk(), or thunk(setup()), `repeats` times, after one that is not timed.

    Without `setup` short calls are repeated until 50 ms are full, 50 times at most, and their mean
    is taken: the time to start one is then hidden, as it is in a search.
    """

    def once(calls: int) -> float:
        given = () if setup is None else (setup(),)
        jax.block_until_ready(jax.tree.leaves(given))
        result, began = None, time.perf_counter()
        for _ in range(calls):
            result = thunk(*given)
        jax.block_until_ready(result)
        return (time.perf_counter() - began) / calls

    once(1)
    calls = 1 if setup else max(1, min(_MOST_CALLS, round(_LEAST / once(1))))
    return [once(calls) for _ in range(repeats)]
