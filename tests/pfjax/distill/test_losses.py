"""Losses without weight are zero, and what has no weight does not count, whatever it is."""

import enumerable_lm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax.distill import losses
from pfjax.models.prm import ProcessRewardModel

IDS = np.array([[1, 4, 1, 2, 3], [1, 4, 3, 0, 0]], np.int32)
MODULES = {
    "policy": lambda: enumerable_lm.policy(),
    "sequence": lambda: enumerable_lm.policy(),
    "PRM": lambda: ProcessRewardModel(enumerable_lm.CONFIG, rngs=nnx.Rngs(0)),
}
MAKE = {
    "policy": losses.policy_loss,
    "sequence": losses.sequence_loss,
    "PRM": losses.prm_loss,
}
PARTS = ("weight", "probe", "token")


def evaluated(name: str, **weights: np.ndarray):
    graph, state = nnx.split(MODULES[name]())
    batch = {key: np.zeros(IDS.shape, np.float32) for key in (*PARTS, "label")} | weights
    batch |= {"ids": IDS, "problems": weights.get("problems", np.float32(2))}
    function = jax.value_and_grad(MAKE[name](graph), has_aux=True)
    (total, metrics), grads = function(nnx.to_pure_dict(state), jax.tree.map(jnp.asarray, batch))
    return float(total), metrics, [np.asarray(g) for g in jax.tree.leaves(grads)]


@pytest.mark.parametrize("problems", [0, 2])
@pytest.mark.parametrize("name", MAKE)
def test_no_weight_is_no_loss(name, problems):
    total, metrics, grads = evaluated(name, problems=np.float32(problems))
    assert total == 0 and all(float(v) == 0 for v in metrics.values())
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("part", PARTS)
def test_a_mean_does_not_depend_on_the_scale_of_its_weights(part, scale):
    """A sum of weights below 1 used to be taken for 1."""
    weight = np.array([[0, 0, 1, 2, 0], [0, 0, 3, 0, 0]], np.float32)
    one, _, _ = evaluated("PRM", **{part: weight})
    other, _, _ = evaluated("PRM", **{part: np.float32(scale) * weight})
    assert one > 0.01 and abs(one - other) < 1e-5 * one


def test_the_policy_loss_is_the_weighted_mean():
    weight = np.array([[0, 0, 0.5, 0, 0.25], [0, 0, 1, 0, 0]], np.float32)
    logits = np.asarray(enumerable_lm.policy().logits(_hidden()), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -(0.5 * logp[0, 1, 1] + 0.25 * logp[0, 3, 3] + logp[1, 1, 3]) / 1.75
    total, _, _ = evaluated("policy", weight=weight)
    assert abs(total - wanted) < 1e-5
    summed, metrics, _ = evaluated("sequence", weight=weight)
    assert abs(summed - wanted * 1.75 / 2) < 1e-5 and abs(metrics["per_token"] - wanted) < 1e-5


def _hidden():
    from pfjax.models.decoder import forward

    return forward(enumerable_lm.policy(), jnp.asarray(IDS))


def test_what_has_no_weight_may_be_anything():
    x = jnp.array([1.0, jnp.inf, jnp.nan])
    assert float(losses._mean(x, jnp.array([2.0, 0.0, 0.0]))) == 1.0
