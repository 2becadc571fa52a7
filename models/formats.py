"""How published process reward models read a solution: what stands around a step, and where v is.

    prompt(question)   step_1 probe   after step_2 probe   after step_3 probe …     v at the end of each probe

Each piece is encoded on its own, so that scoring step by step sees the ids of scoring at once. Knows
nothing of weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pfjax.models._single import alone, several, single
from pfjax.models.config import CheckpointError
from pfjax.models.prompt import Prompt
from pfjax.models.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class StepFormat:
    """Token ids of the pieces; `step(text, first)` gives those of a step without its delimiter.

    Without `keep_probe` a probe is read and taken away again, so that only the newest is there.
    `plain` says that a step's own tokens stand between probes of one token and nothing else, so that
    a policy with the same tokenizer can hand over its tokens without text.
    """

    prompt: Callable[[str], list[int]]
    step: Callable[[str, bool], list[int]]
    probe: tuple[int, ...]
    after: tuple[int, ...] = ()
    keep_probe: bool = True
    plain: bool = False

    def __post_init__(self):
        if not self.probe or (self.plain and len(self.probe) != 1):
            wanted = "one, for a plain format" if self.plain else "at least one, where v is read"
            raise ValueError(f"probe has {len(self.probe)} tokens, wanted {wanted}.")


class PRMKind(NamedTuple):
    """What kind of head a PRM has ("classes", "value" or "tokens") and how it reads a solution.

    `tokens` are the texts for wrong and right of a head of kind "tokens".
    """

    name: str
    head: str
    format: Callable[[Tokenizer], StepFormat]
    tokens: tuple[str, str] = ("-", "+")


def probe_token(
    tokenizer: Tokenizer,
    probe: str = "<extra_0>",
    *,
    keep: bool = True,
    after: str = "",
    prompt: Prompt = Prompt(),
) -> StepFormat:
    """prompt(question), then every step with a probe token behind it: Qwen2.5-Math-PRM.

    `keep=False` is the single-probe reading: only the newest step has one, and `after` parts the
    steps. Works for any token that a PRM of one's own is read at.
    """
    return _probed(tokenizer, (single(tokenizer, probe),), keep, after, prompt)


def probe_text(
    tokenizer: Tokenizer,
    probe: str,
    *,
    keep: bool = True,
    after: str = "",
    prompt: Prompt = Prompt(),
) -> StepFormat:
    """`probe_token` with a text of any length behind the steps, such as "Is this right so far?".

    v is read at its last token. The search hands a PRM with a probe of several tokens text.
    """
    return _probed(tokenizer, several(tokenizer, probe), keep, after, prompt)


def _probed(tokenizer, probe: tuple[int, ...], keep: bool, after: str, prompt: Prompt):
    return StepFormat(
        prompt=lambda question: prompt.ids(tokenizer, question),
        step=lambda text, first: tokenizer.encode(text, control=False),
        probe=probe,
        after=tuple(tokenizer.encode(after)) if after else (),
        keep_probe=keep,
        plain=keep and not after and len(probe) == 1,
    )


def newline_value(tokenizer: Tokenizer) -> StepFormat:
    """bos question newline, then every step with a newline behind it: Skywork-o1-Open-PRM."""
    bos = tokenizer.special_tokens.get("bos_token", "")
    return StepFormat(
        prompt=lambda question: _around(tokenizer, bos, question, "\n"),
        step=lambda text, first: tokenizer.encode(text, control=False),
        probe=(alone(tokenizer, "\n"),),
        plain=True,
    )


def dialogue(tokenizer: Tokenizer) -> StepFormat:
    """A chat in which the user gives the steps and the assistant says + or -: RLHFlow.

    The first user turn is "question step", and v is read where the assistant's "+" is predicted.
    Pieces between the contents are taken from the chat template.
    """
    first, verdict, second = "\x00first\x00", "\x00verdict\x00", "\x00second\x00"
    chat = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": verdict},
        {"role": "user", "content": second},
    ]
    text = tokenizer.chat(chat, add_generation_prompt=False)
    if any(text.count(mark) != 1 for mark in (first, verdict, second)):
        raise CheckpointError(
            "the chat template does not keep the contents of messages; use the PRM's own tokenizer."
        )
    before, rest = text.split(first)
    to_verdict, rest = rest.split(verdict)
    to_user, _ = rest.split(second)
    return StepFormat(
        prompt=lambda question: _around(tokenizer, before, question.strip()),
        step=lambda text, first: tokenizer.continued(
            (" " if first else "") + text.strip(), control=False
        ),
        probe=tuple(tokenizer.encode(to_verdict)),
        after=tuple(tokenizer.encode("+" + to_user)),
    )


def step_tag(tokenizer: Tokenizer, tag: str = " ки", separator: str = "\n") -> StepFormat:
    """bos question, then every step with a tag behind it: Math-Shepherd.

    v is read at the tag itself, which is one token in Mistral's vocabulary; CheckpointError in others.
    """
    bos = tokenizer.special_tokens.get("bos_token", "")
    return StepFormat(
        prompt=lambda question: _around(tokenizer, bos, question),
        step=lambda text, first: tokenizer.continued(
            (" " if first else separator) + text, control=False
        ),
        probe=(single(tokenizer, tag),),
    )


def _around(tokenizer: Tokenizer, before: str, question: str, behind: str = "") -> list[int]:
    """The ids of a question between marks; what looks like one in the question is text."""
    veil = tokenizer.veil([question])
    return veil.encode(f"{before}{veil.hide(question)}{behind}")


QWEN = PRMKind("qwen", "classes", probe_token)
QWEN_ONCE = PRMKind("qwen-once", "classes", lambda t: probe_token(t, keep=False, after="\n\n"))
SKYWORK = PRMKind("skywork", "value", newline_value)
RLHFLOW = PRMKind("rlhflow", "tokens", dialogue)
MATH_SHEPHERD = PRMKind("math-shepherd", "tokens", step_tag)
PRM_KINDS = {kind.name: kind for kind in (QWEN, QWEN_ONCE, SKYWORK, RLHFLOW, MATH_SHEPHERD)}
