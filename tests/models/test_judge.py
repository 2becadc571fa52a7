"""A policy that is asked about its own solution: the conversation it reads, and its logits there."""

from dataclasses import replace

import families
import numpy as np
import pytest
import toy_prms

from pfjax import models
from pfjax.models.judge import ASK

QUESTION, STEPS = "Ann has 3 apples. Why?", ["Bob has 3 + 4 = 7.", "So Ann has more.", "It is 7."]


@pytest.fixture(scope="module")
def policy() -> models.Policy:
    tokenizer = toy_prms.tokenizer("llama")
    config = replace(families.config("llama3"), vocab_size=tokenizer.vocab_size)
    return models.Policy(families.decoder(config), tokenizer, (0,), {})


@pytest.mark.parametrize("chat", (True, False))
def test_it_reads_a_conversation(chat, policy):
    """The template's turns around the texts, or without a template a plain text; step by step as at once."""
    if not chat:
        policy = replace(policy, tokenizer=replace(policy.tokenizer, template=None))
    blank, read = "" if chat else " ", policy.tokenizer
    prm, wanted = models.judge(policy, yes="A", no="B"), []
    for i in range(1, 4):
        ids, at = prm.encode(QUESTION, STEPS[:i])
        said = "\n\n".join(STEPS[:i])
        if chat:
            turns = [("user", QUESTION), ("assistant", said), ("user", ASK)]
            text = read.chat([{"role": role, "content": text} for role, text in turns])
        else:
            text = models.Prompt().text(read, QUESTION) + f" {said}\n\n{ASK}"
        assert read.decode(ids, keep_special=True) == text and at == [len(ids) - 1]
        z = np.asarray(policy.logits(np.array([ids])))[0, -1]
        wanted.append(z[read.encode(blank + "A")] - z[read.encode(blank + "B")])
    np.testing.assert_allclose(
        prm.score(QUESTION, STEPS), np.concatenate(wanted), rtol=0, atol=1e-4
    )
    state = models.begin(prm, [QUESTION], 1, room=200)
    for step, value in zip(STEPS, wanted, strict=True):
        state = models.append(prm, state, [[step]])
        np.testing.assert_allclose(state.value[0], value, rtol=0, atol=1e-4)


def test_answers_of_several_tokens_are_refused(policy):
    with pytest.raises(models.CheckpointError, match="'Yes' or 'A' is not one token"):
        models.judge(policy, no="A")
