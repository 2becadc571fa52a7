"""Questions as the policy reads them, and the ids that their random numbers come from."""

import hashlib
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pfjax import models
from pfjax.reasoning.words import one_line

MAX_PARTICLES = 1 << 16


def prompt_ids(tokenizer: models.Tokenizer, question: str) -> list[int]:
    """The chat-formatted question."""
    chat = tokenizer.chat([{"role": "user", "content": question}], add_generation_prompt=True)
    return tokenizer.encode(chat)


def stable_id(question: str) -> int:
    """A 64-bit id of a question, the same in every process."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")


def listed(question: object) -> list[str]:
    """The questions; ValueError for what is no text and no list of texts."""
    found = [question] if isinstance(question, str) else question
    if not isinstance(found, (list, tuple)) or not all(isinstance(q, str) for q in found):
        raise ValueError(
            f"question is {one_line(question, 60)!r}, wanted a text or a list of texts."
        )
    return list(found)


def listed_ids(ids: Iterable[int]) -> list[int]:
    """The ids; ValueError for what is no list of numbers of 64 bits."""
    try:
        found = [operator.index(i) for i in ids]
    except TypeError:
        found = [-1]
    if any(not 0 <= i < 1 << 64 for i in found):
        raise ValueError(f"ids are {one_line(ids, 60)}, wanted whole numbers from 0 to 2^64 - 1.")
    return found


def typed(key: object) -> Key[Array, ""]:
    """A key of jax.random from a number, or itself; ValueError for anything else."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return key
    elif isinstance(key, (int, np.integer)) and 0 <= key < 1 << 63:
        return jax.random.key(int(key))
    raise ValueError(
        f"key is {one_line(key, 60)}, wanted a number from 0, or one jax.random.key(number)."
    )


def require_room(length: int, room: int, max_tokens: int) -> None:
    """ValueError for a prompt that is too long."""
    if length > room:
        raise ValueError(
            f"The prompt has {length} tokens but the context leaves room for {room} beside "
            f"{max_tokens} solution tokens; shorten the question or lower max_tokens."
        )


def require_particles(particles: int) -> None:
    """ValueError outside 1..65536."""
    if not isinstance(particles, (int, np.integer)) or not 1 <= particles <= MAX_PARTICLES:
        raise ValueError(f"particles is {particles!r}, wanted 1 to {MAX_PARTICLES}.")


def require_questions(questions: Sequence[str], ids: Sequence[int]) -> None:
    """ValueError for no question, an empty one, or another number of ids."""
    if len(ids) != len(questions):
        raise ValueError(
            f"ids has {len(ids)} entries for {len(questions)} questions; give one each."
        )
    if not questions or any(not q.strip() for q in questions):
        raise ValueError("The question is empty; give the text of a problem.")
