"""Models with their tokenizers: a policy gives logits, a process reward model scores steps.

Weights are split off the module once: to use changed weights, make a new Policy or PRM with
`dataclasses.replace`. Knows nothing of caches or sampling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, forward
from pfjax.models.formats import QWEN, PRMKind, StepFormat
from pfjax.models.prm import RewardModule, log_odds, paper_log_odds
from pfjax.models.tokenizer import Tokenizer

_BUCKET = 64


@dataclass(frozen=True, eq=False)
class Policy:
    """A language model; `generation` is generation_config.json, `eos_ids` end a solution.

    `noted` are fields of config.json that say nothing of the decoder's shape, for `export`.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    generation: dict
    noted: Mapping[str, object] = field(default_factory=dict)

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
        return _logits(*self.split, jnp.asarray(ids, jnp.int32))

    @cached_property
    def split(self):
        """(graph, weights) of the module, for jitted functions."""
        return nnx.split(self.decoder)


@dataclass(frozen=True, eq=False)
class PRM:
    """A process reward model and how it reads a solution; `noted` as a policy's."""

    module: RewardModule
    tokenizer: Tokenizer
    kind: PRMKind = QWEN
    noted: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> DecoderConfig:
        return self.module.config

    @cached_property
    def format(self) -> StepFormat:
        """The pieces around each step, as token ids."""
        return self.kind.format(self.tokenizer)

    def encode(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """(ids, the position at which each step is read) of a question and its steps.

        Without `format.keep_probe` only the last step is read.
        """
        if not question.strip():
            raise ValueError("question is empty; give the text of the problem.")
        if isinstance(steps, str) or not steps:
            raise ValueError(f"steps is {steps!r}, wanted a list with at least one text.")
        form = self.format
        ids, read = form.prompt(question), []
        for number, step in enumerate(steps):
            ids += [*(form.after if number else ()), *form.step(step, number == 0)]
            if form.keep_probe or number + 1 == len(steps):
                ids += form.probe
                read.append(len(ids) - 1)
        _check_length(len(ids), self.config)
        return ids, read

    def score(
        self, question: str, steps: Sequence[str], *, paper: bool = False
    ) -> Float[Array, " steps"]:
        """float32 log-odds of each step (text without delimiter), in one forward pass.

        `paper` rounds the probability to bfloat16 as published systems do, and is inf where that
        rounds to 1. A format that reads the newest step alone scores every prefix by itself.
        """
        if self.format.keep_probe:
            prefixes = [steps]
        else:
            prefixes = [steps[: i + 1] for i in range(len(steps))] or [steps]
        rows = [self.encode(question, prefix) for prefix in prefixes]
        width = -(-max(len(ids) for ids, _ in rows) // _BUCKET) * _BUCKET
        padded = np.zeros((len(rows), width), np.int32)
        for row, (ids, _) in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        length = jnp.asarray([len(ids) for ids, _ in rows], jnp.int32)
        classes = np.asarray(_classes(*self.split, jnp.asarray(padded), length))
        read = np.concatenate([z[at] for z, (_, at) in zip(classes, rows, strict=True)])
        return (paper_log_odds if paper else log_odds)(jnp.asarray(read))

    @cached_property
    def split(self):
        """(graph, weights) of the module, for jitted functions."""
        return nnx.split(self.module)


@partial(jax.jit, static_argnums=0)
def _logits(graph, state, tokens):
    decoder = nnx.merge(graph, state)
    return decoder.logits(forward(decoder, tokens))


@partial(jax.jit, static_argnums=0)
def _classes(graph, state, tokens, length):
    module = nnx.merge(graph, state)
    return module.classes(forward(module.decoder, tokens, length))


def _check_length(length: int, config: DecoderConfig) -> None:
    if length > config.max_positions:
        raise ValueError(
            f"the input has {length} tokens, the model takes {config.max_positions}; shorten it."
        )
