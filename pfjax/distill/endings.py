"""How a solution ends as training data: cut before a stop text, and closed with one end token.

A solution that wrote its own end of sequence is left alone. One that ended otherwise, at a box or a stop
text, is closed with the token that ends an assistant's turn. Tokens stay as they were sampled.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

from pfjax import models
from pfjax.tasks.task import Task

_SAID = "42 is the answer"


def end_of_turn(policy: models.Policy, prompt: models.Prompt | None = None) -> int | None:
    """The id that ends an assistant's turn: the first of `policy.eos_ids` behind its text in the chat template.

    Where text is completed, without a template, or if the template puts none there: the tokenizer's eos, or
    the first of eos_ids if that is none of them. None if there are no eos_ids.
    """
    prompt, tokenizer, ends = prompt or models.Prompt(), policy.tokenizer, policy.eos_ids
    found = [] if prompt.plain(tokenizer) else _behind_the_turn(tokenizer, prompt)
    named = tokenizer.token_id(tokenizer.special_tokens.get("eos_token", ""))
    return next((i for i in [*found, named, *ends] if i in ends), None)


def closed(tokens: Sequence[int], eos_ids: Sequence[int], end: int | None) -> list[int]:
    """The tokens with `end` behind them, unless one of `eos_ids` stands there.

    >>> closed([3, 5, 2], (1, 2), 1), closed([3, 5], (1, 2), 1)
    ([3, 5, 2], [3, 5, 1])
    """
    if end is None or (tokens and tokens[-1] in eos_ids):
        return list(tokens)
    return [*tokens, end]


def before_stop(tokens: Sequence[int], tokenizer: models.Tokenizer, task: Task) -> list[int]:
    """The tokens that end before the first stop text of the task."""
    if not task.stops:
        return list(tokens)
    pieces = [tokenizer.token_bytes[i] for i in tokens]
    text = b"".join(pieces)
    found = [at for at in (text.find(stop.encode()) for stop in task.stops) if at >= 0]
    if not found:
        return list(tokens)
    return [
        i for i, end in zip(tokens, accumulate(map(len, pieces)), strict=True) if end <= min(found)
    ]


def closer(policy: models.Policy, task: Task) -> Callable[[Sequence[int]], list[int]]:
    """`before_stop` and `closed` for the solutions of a policy to questions of a task."""
    end = end_of_turn(policy, task.prompt)

    def close(tokens: Sequence[int]) -> list[int]:
        kept = before_stop(tokens, policy.tokenizer, task)
        return closed(kept, policy.eos_ids, end)

    return close


def _behind_the_turn(tokenizer: models.Tokenizer, prompt: models.Prompt) -> list[int]:
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": _SAID}]
    told = {"template": prompt.template, "date": prompt.date, "arguments": dict(prompt.arguments)}
    try:
        text = tokenizer.chat(turns, add_generation_prompt=False, **told)
    except ValueError:  # the template refuses such turns
        return []
    _, said, behind = text.rpartition(_SAID)
    return tokenizer.encode(behind) if said else []
