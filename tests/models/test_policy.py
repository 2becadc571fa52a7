"""What Policy and PRM refuse."""

import numpy as np
import pytest

from pfjax import models


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1, 2, 3], r"wanted integers \[B, T\]"),
        ([[0.5]], "float64"),
        (np.zeros((1, 0), np.int32), r"\[1, 0\]"),
        ([[3, 115]], "from 3 to 115, wanted 0..114"),
        ([[-1, 4]], "from -1 to 4"),
        (np.zeros((1, 257), np.int32), "257 tokens, the model takes 256"),
    ],
)
def test_logits_refuse_bad_tokens(tokens, message, checkpoint):
    policy = models.load_policy(checkpoint("tied"))
    with pytest.raises(ValueError, match=message):
        policy.logits(tokens)


@pytest.mark.parametrize(
    "question, steps, message",
    [
        ("", ["a"], "question is empty"),
        (" \n", ["a"], "question is empty"),
        ("Why?", [], "wanted a list with at least one text"),
        ("Why?", "one step", "wanted a list"),
        ("Why?", ["x" * 300], r"\d+ tokens, the model takes 256"),
    ],
)
def test_score_refuses_bad_input(question, steps, message, checkpoint):
    prm = models.load_prm(checkpoint("prm"))
    with pytest.raises(ValueError, match=message):
        prm.score(question, steps)


def test_wrong_kind_names_the_right_function(checkpoint):
    with pytest.raises(models.CheckpointError, match="load it with load_prm"):
        models.load_policy(checkpoint("prm"))
    with pytest.raises(models.CheckpointError, match="load it with load_policy"):
        models.load_prm(checkpoint("tied"))


def test_lengths_share_compilations(checkpoint):
    """Inputs up to 64 and up to 128 tokens: two programs, whatever the lengths."""
    from pfjax.models.policy import _classes

    prm = models.load_prm(checkpoint("prm"))
    _classes.clear_cache()
    for n in (1, 4, 7, 20, 35, 48):
        prm.score("Why?", ["a b"] * n)
    lengths = {-(-len(prm.encode("Why?", ["a b"] * n)[0]) // 64) for n in (1, 4, 7, 20, 35, 48)}
    assert _classes._cache_size() == len(lengths) < 6
