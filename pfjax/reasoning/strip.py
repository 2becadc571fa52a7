"""Steps without their delimiter, in tokens: what a PRM that reads the policy's tokens is given.

Knows nothing of PRMs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


class StripTable(NamedTuple):
    """How tokens lose the delimiter, from the last one on.

    With the first j + 1 bytes of the delimiter still to drop, token v becomes `bare[j, v]` (-1 if
    nothing is left) and leaves `rest[j, v]` bytes to drop, -1 if the token must stay.
    """

    bare: Int[Array, "d v"]
    rest: Int[Array, "d v"]


def strip_table(
    token_bytes: list[bytes], eos_ids: list[int], delimiter: str = "\n\n"
) -> StripTable:
    """The table for a vocabulary.

    Of tokens with the same bytes the last is taken: encoders prefer pieces to byte fall-backs.
    """
    end = delimiter.encode()
    ids = {data: i for i, data in enumerate(token_bytes) if data}
    bare = np.full((len(end), len(token_bytes)), -1, np.int32)
    rest = np.full((len(end), len(token_bytes)), -1, np.int32)
    for j in range(len(end)):
        todo = end[: j + 1]
        for i, data in enumerate(token_bytes):
            if data.endswith(todo) and (data == todo or data[: -len(todo)] in ids):
                bare[j, i], rest[j, i] = ids.get(data[: -len(todo)], -1), 0
            elif data and todo.endswith(data):
                rest[j, i] = len(todo) - len(data)
    bare[-1, eos_ids], rest[-1, eos_ids] = -1, 0
    return StripTable(jnp.asarray(bare), jnp.asarray(rest))


def strip(
    table: StripTable, tokens: Int[Array, "p n w"], count: Int[Array, "p n"]
) -> tuple[Int[Array, "p n w"], Int[Array, "p n"]]:
    """A step's tokens without its delimiter or EOS, and how many are left.

    A step stays as it is if a token would have to be cut where no token has the bytes before.
    """
    columns = jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None]
    size = table.rest.shape[0]
    cut, left, todo = tokens, count, jnp.full_like(count, size)
    for _ in range(size):
        last = columns == (left - 1)[..., None]
        ending = jnp.sum(jnp.where(last, tokens, 0), axis=2)
        active = (todo > 0) & (left > 0)
        row = jnp.maximum(todo - 1, 0)
        bare, rest = table.bare[row, ending], table.rest[row, ending]
        cut = jnp.where(last & (active & (bare >= 0))[..., None], bare[..., None], cut)
        left = left - (active & (bare < 0)).astype(jnp.int32)
        todo = jnp.where(active, rest, todo)
    gone = todo == 0
    return jnp.where(gone[..., None], cut, tokens), jnp.where(gone, left, count)
