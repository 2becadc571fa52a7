"""The models of gpu.py: sizes, random weights made on the device, and what no engine can avoid.

Weights come from `pfjax.bench.random_module`. Bytes and operations come from `pfjax.plan`.
"""

from functools import cache as once

from flax import nnx

from pfjax.bench import random_module
from pfjax.models import quantized_module
from pfjax.models._families import config_from_dict
from pfjax.plan import known
from pfjax.plan.weights import Model, streamed, weights
from pfjax.reasoning import Budget

# 448 solution tokens and a step of 64 are a cache of 512 columns; a step that starts at 384 has 64 tokens.
BUDGET, SMALL_BUDGET = Budget(64, 448, 12), Budget(8, 56, 12)
PROMPT = 128
DTYPE = "bfloat16"
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def sizes(small: bool) -> dict:
    """The fields of config.json that both models and the peer share."""
    return known.KNOWN["Qwen2.5-7B"] | (_TINY if small else {})


@once
def policy_model(small: bool) -> Model:
    return Model("Qwen2.5-7B", config_from_dict(sizes(small)))


@once
def prm_model(small: bool) -> Model:
    fields = known.KNOWN["Qwen2.5-Math-PRM-7B"] | (_TINY if small else {})
    return Model("Qwen2.5-Math-PRM-7B", config_from_dict(fields), "classes")


@once
def module(model: Model) -> nnx.Module:
    """The model with random weights, made leaf by leaf on the device."""
    return random_module(model, DTYPE)


def abstract(model: Model) -> nnx.Module:
    """The model without arrays."""
    return nnx.merge(*weights(model, DTYPE, None, 1))


def in_format(policy: nnx.Module, weight_format: str | None) -> nnx.Module:
    """A quantised copy; its embeddings, head and norms are those of `policy`."""
    return policy if weight_format is None else quantized_module(policy, weight_format)


def streamed_bytes(small: bool, weight_format: str | None) -> int:
    """The policy's layers, last norm and head: what one token iteration reads of the weights."""
    used = streamed(policy_model(small), DTYPE, weight_format, 1)
    return sum(p.size * p.itemsize for p in used)


def scoring_operations(small: bool, tokens: int) -> int:
    """Two operations a weight of the PRM's layers and token; attention is not counted."""
    used = streamed(prm_model(small), DTYPE, None, 1)
    return 2 * tokens * sum(p.size for p in used if len(p.shape) == 2)
