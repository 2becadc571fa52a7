"""Killing: a particle survives with probability W_i / max W, or is replaced by a draw from W.

    A_i = i with probability W_i / max_k W_k, else A_i ~ W        E[copies of i] = N W_i
    n of m:  the candidate of slot j is row (u + j) mod m, u a random row, instead of row j

Reference: Del Moral (2004), Feynman-Kac Formulae, section 2.5.2, with the largest admissible
survival probability; Crisan and Lyons (1999), A particle approximation of the solution of the
Kushner-Stratonovitch equation. Target: leaves that of the weighted particles unchanged (unbiased).
Survivors keep their slots, so few rows move. Knows nothing of particles or of when to resample.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import independent_draws, plainly
from pfjax.smc._axes import split_in_two


def killing(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Killing, with multinomial replacements; with equal weights nothing moves.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.5, 0.0, 0.5]))
    >>> ancestors, _, _ = killing(jax.random.key(0), log_w, jnp.int32(1))
    >>> [int(ancestors[0]), int(ancestors[2])]
    [0, 2]
    """
    del t
    return plainly(killing_rows, key, log_w)


def killing_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    k_survive, k_replace = split_in_two(key)
    peak = jnp.max(log_w)
    survival = jnp.exp(log_w - jnp.where(jnp.isneginf(peak), 0.0, peak))
    own = jnp.arange(n, dtype=jnp.int32)
    if n != log_w.shape[0]:
        # Every row is the candidate of n / m slots on average, and so survives often enough.
        k_start, k_survive = split_in_two(k_survive)
        start = jax.random.randint(k_start, (), 0, log_w.shape[0], jnp.int32)
        own = (start + own) % log_w.shape[0]
        survival = survival[own]
    survives = jax.random.uniform(k_survive, (n,), jnp.float32) < survival
    replacements = independent_draws(k_replace, log_w, n)
    return jnp.where(survives, own, replacements)
