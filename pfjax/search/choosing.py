"""Which solution stands for the answer: votes are counted by vote keys, the dead have none."""

from collections.abc import Sequence

import numpy as np

from pfjax.search.answers import Select
from pfjax.settings.words import one_line
from pfjax.tasks.grading import Equal, vote_keys


def chosen(
    select: Select,
    name: str,
    answers: Sequence[str | None],
    log_weights: np.ndarray,
    values: np.ndarray,
    equal: Equal | None = None,
) -> int:
    """The particle that an answer rule takes; what the reward killed has no answer.

    ValueError if the rule, of the method `name`, returns no particle.
    """
    alive = [
        answer if log_w > -np.inf else None
        for answer, log_w in zip(answers, log_weights, strict=True)
    ]
    told = f"method {name!r}: its answer rule"
    wanted = f"wanted the index of a particle, 0 to {len(answers) - 1}"
    keys = vote_keys(alive, equal)
    try:
        found = select(keys, log_weights, values)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{told} raised {what}; {wanted}.") from error
    index = np.asarray(found) if not isinstance(found, (str, bool)) else None
    if index is None or index.shape or index.dtype.kind not in "iu":
        raise ValueError(f"{told} returned {found!r}, {wanted}.")
    if not 0 <= index < len(answers):
        raise ValueError(f"{told} returned {found!r}, {wanted}.")
    return int(index)


def status_of(
    words: str, answer: str | None, truncated: Sequence[bool], lost: Sequence[bool]
) -> str:
    """ "ok", or what a user has to know.

    `words` are those of the filter's status; `truncated` solutions were cut by the budget, `lost` ones
    ended where logits were not numbers.
    """
    said = [] if words == "ok" else [words]
    if any(lost):
        said.append(
            f"{sum(lost)} of {len(lost)} solutions ended where the policy's logits were not finite, as in float16"
        )
    if answer is None and all(truncated):
        said.append(
            f"all {len(truncated)} solutions were cut off by the budget; raise max_tokens (--max-tokens)"
        )
    return "; ".join(said) or "ok"
