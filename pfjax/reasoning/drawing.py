"""How tokens are drawn from logits, without sorting the vocabulary.

    p_v  proportional to  exp(z_v / temperature)  on the kept tokens, 0 elsewhere

Kept are, in this order and each on what the one before left: the top_k most likely tokens, the
smallest set of mass top_p (Holtzman et al. 2020, arXiv 1904.09751), tokens of at least min_p times
the largest probability (Nguyen et al. 2024, arXiv 2407.01082). Ties at a threshold are kept. The
thresholds are found by bisection on the bits of float32 numbers, so the sets are exact.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.settings.sampling import Sampling

MANY, PART = 2048, 128


def log_probs(logits: Float[Array, "*b v"], sampling: Sampling) -> Float[Array, "*b v"]:
    """float32 log-probabilities of the sampled distribution; -inf for tokens that are cut.

    All of a row are NaN if its logits are not numbers.

    >>> z = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    >>> [round(float(p), 3) for p in jnp.exp(log_probs(z, Sampling(top_p=0.7)))]
    [0.625, 0.375, 0.0, 0.0]
    """
    temperature, top_p, top_k, min_p = sampling.numbers()
    if temperature == 0:
        return _greedy(logits.astype(jnp.float32))
    logp = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    if 0 < top_k < logp.shape[-1]:
        logp = _cut(logp, lambda kept: jnp.sum(kept, axis=-1) >= top_k)
    if top_p < 1:
        mass = jnp.exp(logp)
        logp = _cut(logp, lambda kept: jnp.sum(jnp.where(kept, mass, 0.0), axis=-1) >= top_p)
    if min_p > 0:
        least = jnp.max(logp, axis=-1, keepdims=True) + jnp.log(jnp.float32(min_p))
        logp = jax.nn.log_softmax(jnp.where(logp >= least, logp, -jnp.inf))
    return logp


def _greedy(logits: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
    """All mass on the first of the largest logits."""
    top = jnp.argmax(logits, axis=-1)[..., None]
    index = jax.lax.broadcasted_iota(top.dtype, logits.shape, logits.ndim - 1)
    best = jnp.take_along_axis(logits, top, axis=-1)
    mass = jnp.where(jnp.isfinite(best), jnp.float32(0), jnp.float32(jnp.nan))
    return jnp.where(index == top, mass, -jnp.inf)


def _cut(
    logp: Float[Array, "*b v"], enough: Callable[[Bool[Array, "*b v"]], Bool[Array, "*b"]]
) -> Float[Array, "*b v"]:
    """logp on {logp >= the largest threshold that keeps enough}, normalised again."""
    # The bits of |logp| grow as logp falls, so the threshold is the least that are enough.
    bits = jax.lax.bitcast_convert_type(jnp.abs(jnp.minimum(logp, 0.0)), jnp.int32)
    low = jnp.full(logp.shape[:-1], -1, jnp.int32)
    high = jnp.full(logp.shape[:-1], 0x7F800000, jnp.int32)

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        fits = enough(bits <= middle[..., None])
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    _, least = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jax.nn.log_softmax(jnp.where(bits <= least[..., None], logp, -jnp.inf))


def draw(keys: Key[Array, "p n"], logp: Float[Array, "p n v"]) -> Int[Array, "p n"]:
    """One token a row by inverting the distribution function.

    One uniform a row, never a token of probability 0. Of many tokens first the part that the uniform
    falls into is found and then the token in it: masses are added up in one pass, not one after the other.
    """
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32)))(keys)
    if logp.shape[-1] <= MANY:
        ends = _accumulated(jnp.exp(logp))
        return _first_above(ends, uniform * jnp.max(ends, axis=-1))
    padding = [(0, 0), (0, 0), (0, -logp.shape[-1] % PART)]
    parts = jnp.pad(logp, padding, constant_values=-jnp.inf)
    parts = parts.reshape(*logp.shape[:-1], -1, PART)
    mass = jnp.sum(jnp.exp(parts), axis=-1)
    ends = _accumulated(mass)
    level = uniform * jnp.max(ends, axis=-1)
    part = _first_above(ends, level)[..., None]
    before = jnp.take_along_axis(ends - mass, part, axis=-1)[..., 0]
    own = jnp.exp(jnp.take_along_axis(parts, part[..., None], axis=-2)[..., 0, :])
    token = _first_above(_accumulated(own), jnp.maximum(level - before, 0.0))
    return part[..., 0] * PART + token


def _accumulated(mass: Float[Array, "p n v"]) -> Float[Array, "p n v"]:
    """The distribution function; 0 where there is no mass, since sums in blocks need not be flat there."""
    return jnp.where(mass > 0, jnp.cumsum(mass, axis=-1), 0.0)


def _first_above(ends: Float[Array, "p n v"], level: Float[Array, "p n"]) -> Int[Array, "p n"]:
    """The first entry above the level, and the largest if rounding has put that on a level with it."""
    total = jnp.max(ends, axis=-1)
    level = jnp.minimum(level, jnp.nextafter(total, jnp.zeros_like(total)))
    index = jax.lax.broadcasted_iota(jnp.int32, ends.shape, ends.ndim - 1)
    return jnp.min(jnp.where(ends > level[..., None], index, ends.shape[-1] - 1), axis=-1)
