"""Plain resampling schemes: E[copies of i] = N W_i, and each copy is left the weight 1/N.

    systematic     A = ancestors of the N teeth (u + j)/N of a comb, one u ~ U[0, 1)
    stratified     A = ancestors of (u_j + j)/N, one u_j ~ U[0, 1) per tooth
    multinomial    A = ancestors of N independent uniforms

Reference: Douc, Cappe and Moulines (2005), Comparison of resampling schemes for particle filtering,
section 2. Each scheme is a `Resampler`; with all particles dead it keeps the rows and the weights.
Target: leaves that of the weighted particles unchanged (unbiased). Knows nothing of particles, of
when to resample, or of where copies go (`pfjax.smc.wrappers`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import ancestors_from_ends, independent_draws, plainly
from pfjax.smc._fixed_point import cumulative_copies


def systematic(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Systematic resampling (Carpenter, Clifford and Fearnhead 1999): |copies of i - N W_i| < 1.

    Sort-free: counts the teeth below each cumulative weight and fills the slots from the counts.
    The comb is laid in fixed point, so the bound holds up to N = 2^22; ancestors are sorted.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.75, 0.0, 0.25]))
    >>> ancestors, left, resampled = systematic(jax.random.key(0), log_w, jnp.int32(1))
    >>> ancestors.tolist(), jnp.exp(left).tolist()
    ([1, 1, 1, 3], [0.25, 0.25, 0.25, 0.25])
    """
    del t
    return plainly(systematic_rows, key, log_w)


def stratified(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Stratified resampling (Kitagawa 1996): |copies of i - N W_i| < 2; ancestors are sorted.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.75, 0.0, 0.25]))
    >>> stratified(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 1, 1, 3]
    """
    del t
    return plainly(stratified_rows, key, log_w)


def multinomial(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Multinomial resampling (Gordon, Salmond and Smith 1993): N independent draws, unsorted.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 1.0, 0.0]))
    >>> multinomial(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [1, 1, 1]
    """
    del t
    return plainly(multinomial_rows, key, log_w)


def systematic_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    """n draws of one problem, as all `*_rows`; anything at all if every particle is dead."""
    whole, part = cumulative_copies(log_w, n)
    u = jax.random.bits(key, dtype=jnp.uint32)
    end = whole + (u < part).astype(jnp.int32)
    return ancestors_from_ends(end, n)


def stratified_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    whole, part = cumulative_copies(log_w, n)
    # The end of the last particle is n exactly, and its part 0: no tooth n is looked up.
    u = jax.random.bits(key, (n,), jnp.uint32).at[whole].get(mode="clip")
    end = whole + (u < part).astype(jnp.int32)
    return ancestors_from_ends(end, n)


def multinomial_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    return independent_draws(key, log_w, n)
