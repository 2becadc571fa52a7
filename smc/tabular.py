"""A reference language model: a bigram table whose every sequence can be listed.

    p(s) = prod_t P(s_t-1, s_t), s_-1 = EOS, until the first EOS or the length limit
    Z = sum_s p(s) psi(s)

There is nothing to cite. Sequences that ended are absorbing: they go on with EOS at probability 1,
so `tokens` alone names a sequence. Knows nothing of networks or text.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pfjax.smc.feynman_kac import lift
from pfjax.smc.types import FeynmanKac

EOS = 0


class TokenSequence(NamedTuple):
    """Tokens, EOS from the first one on, and the log-probability of those sampled so far."""

    tokens: Int[Array, "*batch length"]
    log_prob: Float[Array, "*batch"]


def tabular_language_model(
    log_table: Float[Array, "v v"], length: int, log_psi: Callable[[Int[Array, "length"]], Array]
) -> FeynmanKac:
    """Samples one token per generation from row `previous token` of the table, row EOS first.

    Target: p(s) psi(s), by a potential at the last generation, length - 1; `twist` moves it
    forward. `log_psi(tokens)` is that of one finished sequence.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> table = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5]]))
    >>> log_psi = lambda tokens: jnp.where(tokens.sum() == 1, 0.0, -jnp.inf)
    >>> model = smc.tabular_language_model(table, 3, log_psi)
    >>> state, _ = smc.run(jax.random.key(0), smc.particle_filter(model, 4096), 3)
    >>> bool(abs(jnp.exp(state.log_evidence) - 0.8 * 0.5) < 0.03)
    True
    """

    def follow(
        key: Key[Array, ""], s: TokenSequence, t: Int[Array, ""], previous: Int[Array, ""]
    ) -> TokenSequence:
        ended = ((t > 0) & (previous == EOS)) | (t >= length)
        row = log_table[previous]
        token = jnp.where(ended, EOS, jax.random.categorical(key, row)).astype(jnp.int32)
        gain = jnp.where(ended, 0.0, row[token])
        return TokenSequence(s.tokens.at[t].set(token), s.log_prob + gain)

    def init(key: Key[Array, ""]) -> TokenSequence:
        empty = TokenSequence(jnp.full(length, EOS, jnp.int32), jnp.zeros((), log_table.dtype))
        return follow(key, empty, jnp.int32(0), jnp.int32(EOS))

    def log_potential(s: TokenSequence, t: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.where(t == length - 1, log_psi(s.tokens), 0.0)

    return lift(init, lambda key, s, t: follow(key, s, t, s.tokens[t - 1]), log_potential)


def enumerate_sequences(log_table: Float[Array, "v v"], length: int) -> TokenSequence:
    """All sequences of at most `length` tokens, and their log-probabilities; p sums to 1.

    >>> import jax.numpy as jnp
    >>> every = enumerate_sequences(jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]])), 2)
    >>> every.tokens.tolist(), [round(p.item(), 4) for p in jnp.exp(every.log_prob)]
    ([[0, 0], [1, 0], [1, 1]], [0.25, 0.375, 0.375])
    """
    words = range(log_table.shape[0])

    def absorbed(s: tuple[int, ...]) -> bool:
        return all(b == EOS for a, b in itertools.pairwise(s) if a == EOS)

    every = [s for s in itertools.product(words, repeat=length) if absorbed(s)]
    tokens = jnp.array(every, jnp.int32)
    previous = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=EOS)
    ended = (previous == EOS) & (jnp.arange(length, dtype=jnp.int32) > 0)[None]
    log_p = jnp.where(ended, 0.0, log_table[previous, tokens])
    return TokenSequence(tokens, jnp.sum(log_p, axis=1))
