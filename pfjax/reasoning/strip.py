"""Steps without the white space around them, in tokens: what a PRM that reads the policy's tokens is given.

The same as what a `Result` shows, so that `PRM.score` of its steps gives the same values. Knows nothing of
PRMs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

WHITE = b" \t\r\n\x0b\x0c"


class StripTable(NamedTuple):
    """`blank` tokens are white space alone, or EOS; `begun[v]` and `ended[v]` are token v without the white
    space that it begins or ends with.
    """

    blank: Bool[Array, " v"]
    begun: Int[Array, " v"]
    ended: Int[Array, " v"]


def strip_table(token_bytes: list[bytes], eos_ids: list[int]) -> StripTable:
    """The table for a vocabulary.

    Of tokens with the same bytes the last is taken: encoders prefer pieces to byte fall-backs. A token
    stays as it is if none has the bytes that would be left.
    """
    ids = {data: i for i, data in enumerate(token_bytes) if data}
    blank = np.array([bool(data) and not data.strip(WHITE) for data in token_bytes])
    blank[eos_ids] = True
    begun, ended = np.arange(len(token_bytes)), np.arange(len(token_bytes))
    for i, data in enumerate(token_bytes):
        if data[:1].strip(WHITE) != data[:1]:
            begun[i] = ids.get(data.lstrip(WHITE), i)
        if data[-1:].strip(WHITE) != data[-1:]:
            ended[i] = ids.get(data.rstrip(WHITE), i)
    return StripTable(jnp.asarray(blank), *(jnp.asarray(x, jnp.int32) for x in (begun, ended)))


def strip(
    table: StripTable, tokens: Int[Array, "p n w"], count: Int[Array, "p n"]
) -> tuple[Int[Array, "p n w"], Int[Array, "p n"]]:
    """A step's tokens without EOS and the white space around, and how many are left."""
    at = jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None]
    said = ~table.blank[tokens] & (at < count[..., None])
    end = jnp.max(jnp.where(said, at + 1, 0), axis=2)
    first = jnp.min(jnp.where(said, at, tokens.shape[2]), axis=2)
    start = jnp.minimum(first, end)
    moved = jnp.minimum(at + start[..., None], tokens.shape[2] - 1)
    tokens, left = jnp.take_along_axis(tokens, moved, axis=2), end - start
    last = at == (left - 1)[..., None]
    tokens = jnp.where(last, table.ended[tokens], tokens)
    return jnp.where(at == 0, table.begun[tokens], tokens), left
