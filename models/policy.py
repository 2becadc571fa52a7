"""Models with their tokenizers: a policy gives logits, a process reward model scores steps.

    PRM input:  chat(question) step_1 <extra_0> step_2 <extra_0> …
    v_i = log-odds at the i-th <extra_0>

Each step is encoded on its own, so that scoring step by step sees the same ids. Weights are split
off the module once: to use changed weights, make a new Policy or PRM with `dataclasses.replace`.
Knows nothing of caches or sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, forward
from pfjax.models.prm import ProcessRewardModel
from pfjax.models.tokenizer import Tokenizer

PROBE = "<extra_0>"
_BUCKET = 64


@dataclass(frozen=True, eq=False)
class Policy:
    """A language model; `generation` is generation_config.json, `eos_ids` end a solution."""

    decoder: Decoder
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    generation: dict

    @property
    def config(self) -> DecoderConfig:
        return self.decoder.config

    def logits(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """float32 next-token logits of whole sequences; compiles once a shape."""
        ids = np.asarray(tokens)
        if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"tokens are {ids.dtype}{list(ids.shape)}, wanted integers [B, T]; "
                "add the missing axis."
            )
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"tokens reach from {ids.min()} to {ids.max()}, wanted 0.."
                f"{self.config.vocab_size - 1}; use this model's tokenizer."
            )
        _check_length(ids.shape[1], self.config)
        return _logits(*self._split, jnp.asarray(ids, jnp.int32))

    @cached_property
    def _split(self):
        return nnx.split(self.decoder)


@dataclass(frozen=True, eq=False)
class PRM:
    """A process reward model read at the token `probe_id`."""

    module: ProcessRewardModel
    tokenizer: Tokenizer
    probe_id: int

    @property
    def config(self) -> DecoderConfig:
        return self.module.config

    def encode(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """(ids, the position of each step's probe) of a question and its steps."""
        if not question.strip():
            raise ValueError("question is empty; give the text of the problem.")
        if isinstance(steps, str) or not steps:
            raise ValueError(f"steps is {steps!r}, wanted a list with at least one text.")
        ids = self.tokenizer.encode(self.tokenizer.chat([{"role": "user", "content": question}]))
        probes = []
        for step in steps:
            ids += [*self.tokenizer.encode(step), self.probe_id]
            probes.append(len(ids) - 1)
        _check_length(len(ids), self.config)
        return ids, probes

    def score(self, question: str, steps: Sequence[str]) -> Float[Array, " steps"]:
        """float32 log-odds of each step (text without delimiter), in one forward pass."""
        ids, probes = self.encode(question, steps)
        padded = np.zeros((1, -(-len(ids) // _BUCKET) * _BUCKET), np.int32)
        padded[0, : len(ids)] = ids
        return jnp.asarray(np.asarray(_margins(*self._split, jnp.asarray(padded)))[0, probes])

    @cached_property
    def _split(self):
        return nnx.split(self.module)


@partial(jax.jit, static_argnums=0)
def _logits(graph, state, tokens):
    decoder = nnx.merge(graph, state)
    return decoder.logits(forward(decoder, tokens))


@partial(jax.jit, static_argnums=0)
def _margins(graph, state, tokens):
    module = nnx.merge(graph, state)
    return module.margin(forward(module.decoder, tokens))


def _check_length(length: int, config: DecoderConfig) -> None:
    if length > config.max_positions:
        raise ValueError(
            f"the input has {length} tokens, the model takes {config.max_positions}; shorten it."
        )
