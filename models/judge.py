"""A policy that judges its own solutions: it is asked behind every step, and says Yes or No.

    prompt(question)   step_1 blank-line step_2 …   ask        v = z_yes - z_no where the answer begins

What is asked is taken away again, so only the newest step has a question behind it. The pieces around the
texts are the chat template's; a base model completes a plain text. An untrained model judges badly: measure
before trusting it.
"""

from pfjax.models._single import single
from pfjax.models.config import CheckpointError
from pfjax.models.formats import PRMKind, StepFormat
from pfjax.models.policy import PRM, Policy
from pfjax.models.prompt import Prompt
from pfjax.models.self_prm import token_module
from pfjax.models.tokenizer import Tokenizer

ASK = "Is this solution right so far? Answer Yes or No."
BETWEEN = "\n\n"
MARKS = "\ue000first\ue000", "\ue000said\ue000", "\ue000ask\ue000"


def judge(policy: Policy, ask: str = ASK, yes: str = "Yes", no: str = "No") -> PRM:
    """The policy's log-odds of `yes` against `no` when it is asked `ask` about a solution so far.

    CheckpointError if one of the two answers is more than one token.
    """
    tokenizer = policy.tokenizer
    blank = " " if Prompt().plain(tokenizer) else ""
    try:
        ids = [single(tokenizer, blank + answer) for answer in (no, yes)]
    except CheckpointError:
        raise CheckpointError(
            f"the policy cannot judge itself: {yes!r} or {no!r} is not one token of its tokenizer; give a PRM, or "
            "other answers: models.judge(policy, yes=..., no=...)."
        ) from None
    kind = PRMKind("judge", "tokens", lambda t: _asking(t, ask), (no, yes))
    return PRM(token_module(policy, *ids), tokenizer, kind)


def _asking(tokenizer: Tokenizer, ask: str) -> StepFormat:
    first, said, asked = MARKS
    if Prompt().plain(tokenizer):
        behind = f"{BETWEEN}{ask}"
    else:
        turns = [("user", first), ("assistant", said), ("user", asked)]
        chat = [{"role": role, "content": text} for role, text in turns]
        text = tokenizer.chat(chat)
        if any(text.count(mark) != 1 for mark in MARKS):
            raise CheckpointError(
                "the chat template does not keep the contents of messages, so the policy cannot be asked."
            )
        behind = text.split(said)[1].replace(asked, ask)
    return StepFormat(
        prompt=lambda question: Prompt().ids(tokenizer, question),
        step=lambda text, first: tokenizer.continued(
            (" " if first and Prompt().plain(tokenizer) else "") + text, control=False
        ),
        probe=tuple(tokenizer.continued(behind)),
        after=tuple(tokenizer.continued(BETWEEN)),
        keep_probe=False,
    )
