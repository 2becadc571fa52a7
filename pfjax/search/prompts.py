"""Questions as the policy reads them, and the keys that their random numbers come from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from pfjax.settings import asked


def typed(key: object) -> Key[Array, ""]:
    """A key of jax.random from a number, or itself; ValueError for anything else.

    Numbers of 64 bits are words of a key of their own; those below 2^32 are `jax.random.key`'s.
    """
    if _is_key(key):
        return key  # pyright: ignore[reportReturnType]
    number = asked.seed(key)
    low = jax.random.key(jnp.uint32(number & 0xFFFFFFFF))
    return jax.random.fold_in(low, jnp.uint32(number >> 32)) if number >> 32 else low


def number_of(key: object) -> int | None:
    """The number that a key is given as; None for a key of jax.random."""
    return None if _is_key(key) else asked.seed(key)


def _is_key(key: object) -> bool:
    if not isinstance(key, jax.Array):
        return False
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()


def require_room(length: int, room: int, max_tokens: int, whose: str) -> None:
    """ValueError for a prompt that is too long."""
    if length > room:
        left = f"leaves room for {room}" if room > 0 else "leaves no room"
        raise ValueError(
            f"The prompt has {length} tokens but the context of {whose} {left} beside {max_tokens} "
            "solution tokens; shorten the question or lower max_tokens (--max-tokens)."
        )
