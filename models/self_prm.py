"""A policy as its own process reward model: by two of its tokens, or by a value head on its trunk.

    v = z_plus - z_minus   or   v = w h + b,      read at a probe behind each step

For policies that are trained to judge; an untrained one gives numbers without meaning.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx

from pfjax.models._single import single
from pfjax.models.formats import PRMKind, StepFormat, probe_text
from pfjax.models.policy import PRM, Policy
from pfjax.models.prm import TokenModel, ValueModel
from pfjax.models.tokenizer import Tokenizer


def token_prm(policy: Policy, plus: str, minus: str, probe: str, *, keep: bool = True) -> PRM:
    """The policy's own logits of two texts of one token each, behind `probe`.

    Texts as they are written (" Yes", "\n") or pieces of the vocabulary ("ĠYes"). `probe` may be several
    tokens, such as "\nIs this right so far?"; without `keep` only the newest step has one.
    CheckpointError if an answer is more than one token, or a mark such as <so> is not in the vocabulary.
    """
    ids = [single(policy.tokenizer, text) for text in (minus, plus)]
    kind = PRMKind("self-tokens", "tokens", _reading(probe, keep), (minus, plus))
    kind.format(policy.tokenizer)  # refuses a tokenizer without the probe
    return PRM(token_module(policy, *ids), policy.tokenizer, kind, policy.noted)


def _reading(probe: str, keep: bool) -> Callable[[Tokenizer], StepFormat]:
    return partial(probe_text, probe=probe, keep=keep, after="" if keep else "\n\n")


def token_module(policy: Policy, minus: int, plus: int) -> TokenModel:
    """The policy's decoder, read at two tokens."""
    module = nnx.eval_shape(lambda: TokenModel(policy.config, minus, plus, rngs=nnx.Rngs(0)))
    module.decoder = policy.decoder
    return module


def value_prm(policy: Policy, probe: str, *, keep: bool = True) -> PRM:
    """The policy's trunk with a new value head, which starts at 0: every step is even odds.

    `probe` and `keep` as those of `token_prm`.
    """
    module = nnx.eval_shape(lambda: ValueModel(policy.config, rngs=nnx.Rngs(0)))
    module.decoder = policy.decoder
    dtype = policy.decoder.norm.scale[...].dtype
    module.value_head.weight = nnx.Param(jnp.zeros((1, policy.config.hidden_size), dtype))
    module.value_head.bias = nnx.Param(jnp.zeros((1,), dtype))
    kind = PRMKind("self-value", "value", _reading(probe, keep))
    kind.format(policy.tokenizer)  # refuses a tokenizer without the probe
    return PRM(module, policy.tokenizer, kind, policy.noted)
