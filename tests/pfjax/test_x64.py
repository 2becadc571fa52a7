"""Nothing depends on `jax_enable_x64`: models, searches and training with the flag are those without."""

import jax
import numpy as np
import pytest
from flax import nnx

import pfjax
from pfjax import models
from pfjax.distill import losses, trainer
from pfjax.search.loading import resolve
from pfjax.tasks import generate

PROBLEMS = [generate(i, "validation", (3, 4)) for i in range(2)]
OPTIONS = {
    "default": {},
    "cut, 8 bits, few rows at a time": {
        "sampling": pfjax.Sampling(top_p=0.9, top_k=20, min_p=0.01),
        "execution": pfjax.Execution(kv_format="int8", slots=2),
    },
}


def both_ways(program):
    results = []
    for flag in (True, False):
        with jax.enable_x64(flag):
            results.append(jax.tree.map(np.asarray, program()))
    return results


def assert_same(with_flag, without):
    for a, b in zip(*map(jax.tree.leaves, (with_flag, without)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def test_logits_scores_and_weights():
    """Prefill and incremental scores included; weights are loaded with the flag on."""

    def program():
        policy, prm = (
            models.load_policy(resolve("embedded:small")),
            models.load_prm(resolve("embedded:prm")),
        )
        tokens = np.array([policy.tokenizer.encode(p.question)[:20] for p in PROBLEMS], np.int32)
        steps = PROBLEMS[0].steps
        scoring = models.begin(prm, [PROBLEMS[0].question], 2, 64)
        for step in steps[:2]:
            scoring = models.append(prm, scoring, [[step, steps[-1]]])
        scores = prm.score(PROBLEMS[0].question, steps)
        return policy.logits(tokens), scores, scoring.value, policy.split[1]

    assert_same(*both_ways(program))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_a_search_finds_the_same(name):
    """Every token, score, weight and count."""

    def program():
        solver = pfjax.load(budget=pfjax.Budget(max_tokens=96), **OPTIONS[name])
        results = solver.solve([p.question for p in PROBLEMS], particles=4, key=5)
        return [
            (
                [s.tokens for s in result.solutions],
                [s.weight for s in result.solutions],
                [(node.value, node.parent) for node in result.tree.nodes],
                (result.log_evidence, result.ess),
                (result.counts.policy_tokens, result.counts.prm_tokens),
            )
            for result in results
        ]

    assert_same(*both_ways(program))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy", "sequence", "PRM"])
def test_training_makes_the_same_weights(name, tmp_path):
    """Five steps of AdamW; to rounding, since optax computes its schedule in the default type."""
    rng = np.random.default_rng(0)
    weight = (rng.random((4, 24)) < 0.7).astype(np.float32)
    batch = {"ids": rng.integers(5, 200, (4, 24)).astype(np.int32), "weight": weight}
    batch |= {"problems": np.float32(2), "probe": 1 - weight, "token": weight}
    batch |= {"label": (rng.random((4, 24)) < 0.5).astype(np.float32)}
    schedule = trainer.Schedule(steps=5, rate=1e-3, warmup=2)

    def program():
        if name == "PRM":
            module = models.load_prm(resolve("embedded:prm")).module
        else:
            module = models.load_policy(resolve("embedded:small")).decoder
        graph, params = nnx.split(module)
        make = {
            "policy": losses.policy_loss,
            "sequence": losses.sequence_loss,
            "PRM": losses.prm_loss,
        }
        folder = tmp_path / str(jax.config.jax_enable_x64)
        fitted = trainer.fit(params, make[name](graph), lambda i: batch, schedule, folder=folder)
        return fitted, params

    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to an integer
        (with_flag, before), (without, _) = both_ways(program)
    moved = 0.0
    leaves = map(jax.tree.leaves, (with_flag, without, before))
    for a, b, old in zip(*leaves, strict=True):
        assert a.dtype == b.dtype == old.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        moved = max(moved, float(np.abs(a - old).max()))
    assert moved > 1e-3
