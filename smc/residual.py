"""Residual resampling: the whole part of N W_i for certain, the rest multinomially.

    copies_i = floor(N W_i) + r_i        r ~ Multinomial(R, (N W - floor(N W)) / R)

Reference: Liu and Chen (1998), Sequential Monte Carlo methods for dynamic systems, section 3.3. The
remainder is multinomial as in that paper, not systematic. Target: leaves that of the weighted
particles unchanged (unbiased). Knows nothing of particles or of when to resample.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import ancestors_from_ends, independent_draws, plainly
from pfjax.smc._fixed_point import exact_prefix_sum, expected_copies


def residual(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Residual resampling: copies of i >= floor(N W_i); the drawn copies follow, unsorted.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.6, 0.0, 0.4]))
    >>> ancestors = residual(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    >>> ancestors[:3], ancestors[3] in (1, 3)
    ([1, 1, 3], True)
    """
    del t
    return plainly(residual_rows, key, log_w)


def residual_rows(key: Key[Array, ""], log_w: Float[Array, "m"], n: int) -> Int[Array, "n"]:
    whole, part = expected_copies(log_w, n)
    end = exact_prefix_sum(whole)
    certain = ancestors_from_ends(end, n)
    drawn = independent_draws(key, jnp.log(part.astype(jnp.float32)), n)
    is_certain = jnp.arange(n, dtype=jnp.int32) < end[-1]
    return jnp.where(is_certain, certain, drawn)
