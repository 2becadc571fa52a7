"""Training losses over batches of token rows.

policy    -sum_bt w_bt log p(token_bt | before) / sum_bt w_bt
PRM       BCE(v at probes, label) + a BCE(v at solution tokens, label) + b policy loss (weight)

A batch without any weight has the loss 0, and what has no weight adds nothing, whatever its value.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.distill.trainer import Loss
from pfjax.models.decoder import Decoder, forward


def token_log_probs(decoder: Decoder, ids: Int[Array, "b t"]) -> Float[Array, "b t-1"]:
    """log p(ids[:, 1:] | before), float32, at temperature 1."""
    return _chosen(decoder.logits(forward(decoder, ids[:, :-1])), ids[:, 1:])


def policy_loss(graph: nnx.GraphDef) -> Loss:
    """Weighted cross-entropy of `ids` under `weight`, both [b, t]; mean per unit of weight."""

    def loss(params, batch):
        decoder = nnx.merge(graph, params)
        weight = batch["weight"][:, 1:]
        total = -_mean(token_log_probs(decoder, batch["ids"]), weight)
        return total, {"loss": total}

    return loss


def sequence_loss(graph: nnx.GraphDef) -> Loss:
    """Weighted SFT on particles: a weighted sum over the tokens of each solution, mean over
    problems.

    `weight[b, t]` is the particle's normalised weight on its solution tokens and `problems` []
    counts the problems, so a solution counts by its weight and not by its length: the gradient is
    that of E_W[-log p(x)].
    """

    def loss(params, batch):
        decoder = nnx.merge(graph, params)
        weight = batch["weight"][:, 1:]
        summed = -_sum(token_log_probs(decoder, batch["ids"]), weight)
        total = _ratio(summed, batch["problems"])
        return total, {"loss": total, "per_token": _ratio(summed, jnp.sum(weight))}

    return loss


def prm_loss(graph: nnx.GraphDef, token_share: float = 1.0, policy_share: float = 0.2) -> Loss:
    """Batches hold ids, probe (1 at probes), token (1 at other solution tokens), label, and the
    policy loss's weight.
    """

    def loss(params, batch):
        model = nnx.merge(graph, params)
        hidden = forward(model.decoder, batch["ids"])
        losses = optax.sigmoid_binary_cross_entropy(model.margin(hidden), batch["label"])
        probe = _mean(losses, batch["probe"])
        token = _mean(losses, batch["token"])
        logp = _chosen(model.decoder.logits(hidden[:, :-1]), batch["ids"][:, 1:])
        policy = -_mean(logp, batch["weight"][:, 1:])
        total = probe + token_share * token + policy_share * policy
        return total, {"loss": total, "probe": probe, "token": token, "policy": policy}

    return loss


def _chosen(logits: Float[Array, "b t v"], ids: Int[Array, "b t"]) -> Float[Array, "b t"]:
    logp = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logp, ids[..., None], axis=-1)[..., 0]


def _sum(x: Array, weight: Array) -> Array:
    return jnp.sum(jnp.where(weight == 0, 0.0, x) * weight)


def _mean(x: Array, weight: Array) -> Array:
    return _ratio(_sum(x, weight), jnp.sum(weight))


def _ratio(total: Array, count: Array) -> Array:
    """total / count, and 0 where nothing is counted; the gradient too."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)
