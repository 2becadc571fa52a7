"""A language model whose solutions can all be written down: a random tiny decoder over five tokens.

The vocabulary makes every way a step can end happen: a delimiter as one token, spread over two, EOS, the
step budget, the token budget. Solutions are enumerated with the teacher-forced `forward`, in plain-Python
words of their own; the values are those of a tabular PRM.
"""

import functools
import itertools
import math
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pfjax import models, search
from pfjax.models._veil import Veil
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder, forward
from pfjax.search.solver import Solver
from pfjax.settings.budget import Budget
from pfjax.settings.sampling import Sampling

TOKENS = [b"", b"a", b"\n", b".\n\n", b"b"]
EOS = 0
PROMPT = [1, 4, 1]
BUDGET = Budget(step_tokens=2, max_tokens=5, max_steps=4)
TEMPERATURE = 2.0
CONFIG = DecoderConfig(
    vocab_size=5,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=32,
)


@functools.cache
def policy() -> Decoder:
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(3))
    table = 0.25 * jax.random.normal(jax.random.key(8), (5, 16), jnp.float32)
    decoder.embed_tokens.embedding[...] = table
    return decoder


def table_value(tokens: tuple[int, ...]) -> float:
    """The tabular PRM: any fixed function of the prefix, uneven on purpose."""
    return 0.9 * math.sin(1.0 + sum((i + 1) * (t + 1) for i, t in enumerate(tokens)))


def value(tokens, length):
    """The same function on device."""
    at = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    parts = jnp.where(at < length, (at + 1) * (tokens + 1), 0)
    return 0.9 * jnp.sin(1.0 + jnp.sum(parts).astype(jnp.float32))


@functools.cache
def next_probs() -> dict[tuple[int, ...], np.ndarray]:
    """The policy's distribution after every prefix, from one teacher-forced pass over all of
    them.
    """
    longest = list(itertools.product(range(5), repeat=BUDGET.max_tokens - 1))
    ids = jnp.array([[*PROMPT, *tokens] for tokens in longest], jnp.int32)
    logits = np.asarray(policy().logits(forward(policy(), ids)), np.float64) / TEMPERATURE
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    probs = weights / weights.sum(-1, keepdims=True)
    return {
        tokens[:k]: row[len(PROMPT) - 1 + k]
        for tokens, row in zip(longest, probs, strict=True)
        for k in range(BUDGET.max_tokens)
    }


@functools.cache
def enumerate_solutions() -> list[tuple[tuple[int, ...], float, list[float]]]:
    """(tokens, probability, values after each scored step) of every complete solution."""
    done: list[tuple[tuple[int, ...], float, list[float]]] = []

    def grow(tokens, p, step_start, values):
        for token, q in enumerate(next_probs()[tokens]):
            new, text = (*tokens, token), b"".join(TOKENS[t] for t in tokens[step_start:])
            text += TOKENS[token]
            count = len(new) - step_start
            delimited = text.endswith(b"\n\n") and count > 1
            finished = token == EOS
            cut = not finished and len(new) >= BUDGET.max_tokens
            if not (finished or cut or delimited or count >= BUDGET.step_tokens):
                grow(new, p * q, step_start, values)
                continue
            seen = values if cut else [*values, table_value(new)]
            steps = len(seen) + cut
            if finished or cut or steps >= BUDGET.max_steps:
                done.append((new, p * q, seen))
            else:
                grow(new, p * q, len(new), seen)

    grow((), 1.0, 0, [])
    assert abs(sum(p for _, p, _ in done) - 1) < 1e-6
    return done


FUNCTIONS = {
    "length": lambda tokens, length: length.astype(jnp.float32),
    "starts with a": lambda tokens, length: (tokens[0] == 1).astype(jnp.float32),
    "newlines": lambda tokens, length: jnp.sum(
        jnp.where(jnp.arange(tokens.shape[0]) < length, tokens == 2, False), dtype=jnp.float32
    ),
}
PLAIN = {
    "length": lambda tokens: float(len(tokens)),
    "starts with a": lambda tokens: float(tokens[0] == 1),
    "newlines": lambda tokens: float(sum(t == 2 for t in tokens)),
}


def exact(final_weight) -> tuple[float, dict[str, float]]:
    masses = [(tokens, p * final_weight(values)) for tokens, p, values in enumerate_solutions()]
    z = sum(m for _, m in masses)
    return z, {name: sum(m * f(t) for t, m in masses) for name, f in PLAIN.items()}


def z_score(samples: np.ndarray, truth: float) -> float:
    return (samples.mean() - truth) / (samples.std(ddof=1) / math.sqrt(len(samples)))


class Spelling:
    """The five tokens as a tokenizer that reads one question: PROMPT, whatever is asked."""

    token_bytes = TOKENS
    drops_blank = False
    template = "{{ messages[0].content }}"

    def chat(self, messages, **options) -> str:
        return messages[-1]["content"]

    def encode(self, text: str, *, control: bool = True) -> list[int]:
        return PROMPT

    def veil(self, texts) -> Veil:
        return Veil(cast(models.Tokenizer, self), texts)

    controls: dict[str, int] = {}

    def decode(self, ids: list[int]) -> str:
        return b"".join(TOKENS[i] for i in ids).decode()


def solver(**fields) -> Solver:
    """A solver of the enumerable language model, whose reward is the tabular PRM, on the device."""
    model = models.Policy(policy(), cast(models.Tokenizer, Spelling()), (EOS,), {})
    given = {"prm": search.rewards.of_tokens(value), "sampling": Sampling(TEMPERATURE)}
    return Solver(model, **{**given, "budget": BUDGET, **fields})
