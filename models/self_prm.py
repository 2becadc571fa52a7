"""A policy as its own process reward model: by two reserved tokens, or by a value head on its trunk.

    v = z_plus - z_minus   or   v = w h + b,      read at a probe token behind each step

For policies that are trained to judge; an untrained one gives numbers without meaning.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from pfjax.models.config import CheckpointError
from pfjax.models.formats import PRMKind, probe_token
from pfjax.models.policy import PRM, Policy
from pfjax.models.prm import TokenModel, ValueModel


def token_prm(policy: Policy, plus: str, minus: str, probe: str) -> PRM:
    """The policy's own logits of two tokens at `probe`; all three are tokens of its vocabulary."""
    ids = [policy.tokenizer.token_id(text) for text in (minus, plus)]
    for text, index in zip((minus, plus), ids, strict=True):
        if index is None:
            raise CheckpointError(f"the policy's tokenizer lacks {text!r}; name one of its tokens.")
    module = token_module(policy, *ids)
    kind = PRMKind("self-tokens", "tokens", partial(probe_token, probe=probe), (minus, plus))
    return PRM(module, policy.tokenizer, kind)


def token_module(policy: Policy, minus: int, plus: int) -> TokenModel:
    """The policy's decoder, read at two tokens."""
    module = nnx.eval_shape(lambda: TokenModel(policy.config, minus, plus, rngs=nnx.Rngs(0)))
    module.decoder = policy.decoder
    return module


def value_prm(policy: Policy, probe: str) -> PRM:
    """The policy's trunk with a new value head, which starts at 0: every step is even odds."""
    module = nnx.eval_shape(lambda: ValueModel(policy.config, rngs=nnx.Rngs(0)))
    module.decoder = policy.decoder
    dtype = policy.decoder.norm.scale[...].dtype
    module.value_head.weight = nnx.Param(jnp.zeros((1, policy.config.hidden_size), dtype))
    module.value_head.bias = nnx.Param(jnp.zeros((1,), dtype))
    return PRM(
        module, policy.tokenizer, PRMKind("self-value", "value", partial(probe_token, probe=probe))
    )
