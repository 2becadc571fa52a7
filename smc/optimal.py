"""Optimal resampling without replacement: keep n of m particles, none twice.

    sum_i min(W_i / c, 1) = n        W_i > c: kept, with W_i        W_i <= c: kept with W_i / c, weight c

Reference: Fearnhead and Clifford (2003), On-line inference for hidden Markov models via particle
filters, section 3; it minimises the expected squared error of the weights. The light ones are kept
by systematic sampling, as there. Target: leaves that of the weighted particles unchanged
(unbiased). Knows nothing of particles, nor of how m candidates were made from n.
"""

import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._ancestors import ancestors_from_ends
from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_axes
from pfjax.smc._fixed_point import Copies, exact_prefix_sum, expected_copies, running_copies
from pfjax.smc.types import Resampler
from pfjax.smc.weights import log_sum_exp, usable


def optimal(n: int) -> Resampler:
    """Keeps n of the m >= n particles that `log_w` has; each row is chosen at most once.

    The result has n rows: ancestors in [0, m), sorted, and left-over weights max(W_i, c). If at
    most n are alive nothing is drawn (`resampled` is False): all live ones are kept with their
    weights, and the slots left over get dead ones; for m = n that is the identity. Raises
    `ValueError` for n < 1 and for fewer than n particles.

    >>> import jax, jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.1, 0.6, 0.1, 0.1, 0.1]))
    >>> ancestors, left, _ = optimal(3)(jax.random.key(0), log_w, jnp.int32(1))
    >>> len(set(ancestors.tolist())), 1 in ancestors.tolist(), round(float(jnp.exp(left).sum()), 6)
    (3, True, 1.0)
    """
    if not hasattr(n, "__index__") or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: got {n!r}, want the number of particles to keep, at least 1")
    n = operator.index(n)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch m"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        del t
        require_axes(key, log_w)
        if log_w.shape[-1] < n:
            raise ValueError(f"log_w: got {log_w.shape[-1]} particles, want at least the {n} kept")
        return vmap_axes(lambda k, w: _optimal(k, w, n), key.ndim)(key, usable(log_w))

    return resample


def _optimal(
    key: Key[Array, ""], log_w: Float[Array, "m"], n: int
) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
    heavy, light = _heavy(log_w, n)
    alive = ~jnp.isneginf(log_w)
    drawn = _comb(key, light, n)
    num_dead_kept = jnp.maximum(n - jnp.sum(alive, dtype=jnp.int32), 0)
    dead_kept = ~alive & (exact_prefix_sum((~alive).astype(jnp.int32)) <= num_dead_kept)
    kept = (heavy | drawn | dead_kept).astype(jnp.int32)
    ancestors = ancestors_from_ends(exact_prefix_sum(kept), n)
    num_light = jnp.maximum(n - jnp.sum(heavy, dtype=jnp.int32), 1)
    log_c = log_sum_exp(jnp.where(heavy, -jnp.inf, log_w)) - jnp.log(num_light.astype(jnp.float32))
    left = jnp.where(heavy | ~alive, log_w, log_c)
    return ancestors, left[ancestors], jnp.sum(alive) > n


def _heavy(log_w: Float[Array, "m"], n: int) -> tuple[Bool[Array, "m"], Copies]:
    """The particles kept for certain, and 2^s times the probabilities W_i / c < 1 of the others.

    Keeping one raises W_i / c of the others, so certain ones are taken off until there is none.
    """
    shift = _shift(n)

    def others(heavy: Bool[Array, "m"]) -> tuple[Bool[Array, "m"], Copies]:
        num_light = n - jnp.sum(heavy, dtype=jnp.int32)
        return heavy, expected_copies(jnp.where(heavy, -jnp.inf, log_w), num_light << shift)

    def certain(carry: tuple[Bool[Array, "m"], Copies]) -> Bool[Array, "m"]:
        return carry[1][0] >= 2**shift

    alive = ~jnp.isneginf(log_w)
    return jax.lax.while_loop(
        lambda carry: jnp.any(certain(carry)),
        lambda carry: others(carry[0] | certain(carry)),
        others(alive & (jnp.sum(alive) <= n)),
    )


def _comb(key: Key[Array, ""], light: Copies, n: int) -> Bool[Array, "m"]:
    """Which of the light particles a comb with teeth 2^s apart hits."""
    shift = _shift(n)
    whole, part = running_copies(*light)
    fraction = (whole.astype(jnp.uint32) << (32 - shift)) | (part >> shift)
    teeth = (whole >> shift) + (jax.random.bits(key, dtype=jnp.uint32) < fraction).astype(jnp.int32)
    return teeth > jnp.pad(teeth[:-1], (1, 0))


def _shift(n: int) -> int:
    """s: probabilities are held 2^s times as large, so that many small ones keep their digits."""
    return 24 - n.bit_length()
