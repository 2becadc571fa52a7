"""Plain resampling schemes: E[copies of i] = N W_i, and each copy is left the weight 1/N.

    systematic     A = ancestors of the N teeth (u + j)/N of a comb, one u ~ U[0, 1)
    multinomial    A = ancestors of N independent uniforms

Reference: Douc, Cappe and Moulines (2005), Comparison of resampling schemes for particle filtering,
section 2. Each scheme is a `Resampler`; with all particles dead it keeps the rows and the weights.
Target: leaves that of the weighted particles unchanged (unbiased). Knows nothing of particles, of
when to resample, or of where copies go (`pfjax.smc.wrappers`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._axes import vmap_axes
from pfjax.smc.weights import prefix_sum


def systematic(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Systematic resampling (Carpenter, Clifford and Fearnhead 1999): |copies of i - N W_i| < 1.

    Sort-free: counts the teeth below each cumulative weight, scatters each particle to its last
    tooth and fills in from the right. Float32 exceeds the bound by 0.004 at N = 2^16.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.0, 0.75, 0.0, 0.25]))
    >>> ancestors, left, resampled = systematic(jax.random.key(0), log_w, jnp.int32(1))
    >>> ancestors.tolist(), jnp.exp(left).tolist()
    ([1, 1, 1, 3], [0.25, 0.25, 0.25, 0.25])
    """
    del t
    return vmap_axes(_systematic, key.ndim)(key, log_w)


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
    return vmap_axes(_multinomial, key.ndim)(key, log_w)


def _systematic(
    key: Key[Array, ""], log_w: Float[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    n = log_w.shape[0]
    w = _linear(log_w)
    c = prefix_sum(w)
    u = jax.random.uniform(key, dtype=w.dtype)
    slots = jnp.arange(n, dtype=jnp.int32)
    end = jnp.clip(jnp.ceil(n * (c / c[-1]) - u), 0, n).astype(jnp.int32)
    # A parallel prefix sum is not monotone in float32, so c may grow across a weight of exactly 0:
    # only live particles may claim teeth, and the last live one claims what is left.
    last_live = n - 1 - jnp.argmax(w[::-1] > 0)
    end = jnp.where(slots == last_live, n, jnp.where(w > 0, end, 0))
    # Tooth j belongs to the first particle whose teeth end after j.
    last_tooth = jnp.where(end > 0, end - 1, n)
    first_ending = jnp.full(n, n, jnp.int32).at[last_tooth].min(slots, mode="drop")
    ancestors = jax.lax.cummin(first_ending, reverse=True)
    return _unless_all_dead(ancestors, log_w)


def _multinomial(
    key: Key[Array, ""], log_w: Float[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    n = log_w.shape[0]
    w = _linear(log_w)
    # Flat across dead particles, so that none of them can be found (see _systematic).
    c = jax.lax.cummax(jnp.where(w > 0, prefix_sum(w), 0.0))
    u = jax.random.uniform(key, (n,), w.dtype)
    ancestors = jnp.searchsorted(c, u * c[-1], side="right").astype(jnp.int32)
    return _unless_all_dead(ancestors, log_w)


def _linear(log_w: Float[Array, "n"]) -> Float[Array, "n"]:
    """Weights up to a factor, the largest 1; no gradient flows through the choice of ancestors."""
    log_w = jax.lax.stop_gradient(log_w)
    peak = jnp.max(log_w)
    return jnp.exp(log_w - jnp.where(jnp.isneginf(peak), 0.0, peak))


def _unless_all_dead(
    ancestors: Int[Array, "n"], log_w: Float[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    n = log_w.shape[0]
    alive = jnp.any(~jnp.isneginf(log_w))
    ancestors = jnp.where(alive, ancestors, jnp.arange(n, dtype=jnp.int32))
    # Written with log_w, so that an explicit mesh sees the axes of log_w.
    left = jnp.where(alive, jnp.where(log_w == log_w, -jnp.log(jnp.float32(n)), log_w), -jnp.inf)
    return ancestors, left, alive
