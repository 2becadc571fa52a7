"""What numbers of weights are called."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from pfjax.models._asked import shown

FLOATING = ("float32", "bfloat16", "float16")


def floating(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of a name or a type; ValueError for what weights cannot be computed in."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or found.name not in FLOATING:
        raise ValueError(
            f"dtype is {shown(dtype)}, wanted {', '.join(FLOATING[:-1])} or {FLOATING[-1]}."
        )
    return found
