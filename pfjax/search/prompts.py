"""Questions as the policy reads them, and the ids that their random numbers come from."""

import hashlib
from collections.abc import Sequence

from pfjax import models

MAX_PARTICLES = 1 << 16


def prompt_ids(tokenizer: models.Tokenizer, question: str) -> list[int]:
    """The chat-formatted question."""
    chat = tokenizer.chat([{"role": "user", "content": question}], add_generation_prompt=True)
    return tokenizer.encode(chat)


def stable_id(question: str) -> int:
    """A 64-bit id of a question, the same in every process."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")


def require_room(length: int, room: int, max_tokens: int) -> None:
    """ValueError for a prompt that is too long."""
    if length > room:
        raise ValueError(
            f"The prompt has {length} tokens but the context leaves room for {room} beside "
            f"{max_tokens} solution tokens; shorten the question or lower max_tokens."
        )


def require_particles(particles: int) -> None:
    """ValueError outside 1..65536."""
    if not 1 <= particles <= MAX_PARTICLES:
        raise ValueError(f"particles is {particles}, wanted 1 to {MAX_PARTICLES}.")


def require_questions(questions: Sequence[str], ids: Sequence[int]) -> None:
    """ValueError for no question, an empty one, or another number of ids."""
    if len(ids) != len(questions):
        raise ValueError(
            f"ids has {len(ids)} entries for {len(questions)} questions; give one each."
        )
    if not questions or any(not q.strip() for q in questions):
        raise ValueError("The question is empty; give the text of a problem.")
