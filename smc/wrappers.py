"""Wrappers of resamplers: when, in which slots, and with which gradient a problem is resampled.

    when            A = arange, w unchanged         unless criterion(w, t)
    in_place        A[i] = i                        whenever particle i has a copy at all
    stop_gradient   w_left W[A] / constant(W[A])    the same numbers, another gradient

References: Liu and Chen (1995), Blind deconvolution via sequential imputations, for the effective
sample size rule; Murray, Lee and Jacob (2016), Parallel resampling in the particle filter, for the
permutation; Scibior and Wood (2021), Differentiable particle filtering without modifying the forward
pass, for the gradient. None changes the target. Knows nothing of particles or of how ancestors are drawn.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from pfjax.smc._axes import vmap_axes
from pfjax.smc._calls import resampled_by
from pfjax.smc._checks import is_share, require_count, require_criterion, require_resampler
from pfjax.smc.resampling import systematic
from pfjax.smc.types import Criterion, Resampler, marked_like
from pfjax.smc.weights import effective_sample_size, log_ratio, usable


def when(criterion: Criterion, resampler: Resampler) -> Resampler:
    """Resamples only the problems for which `criterion(log_w, t)` holds.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax.smc import systematic
    >>> log_w = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> resample = when(ess_below(0.75), systematic)
    >>> resample(jax.random.split(jax.random.key(0)), log_w, jnp.ones(2, jnp.int32))[0].tolist()
    [[0, 1], [0, 0]]
    """

    require_criterion(criterion)
    require_resampler(resampler)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        log_w = usable(log_w)
        ancestors, left, resampled = resampled_by(resampler, key, log_w, t)
        resampled = resampled & criterion(log_w, t)
        stay = jnp.broadcast_to(jnp.arange(log_w.shape[-1], dtype=jnp.int32), log_w.shape)
        chosen = resampled[..., None]
        return jnp.where(chosen, ancestors, stay), jnp.where(chosen, left, log_w), resampled

    return marked_like(resampler, resample)


def ess_below(fraction: float) -> Criterion:
    """Holds when the effective sample size is below `fraction` of the particles.

    Raises `ValueError` for a fraction outside (0, 1], such as a number of particles.
    """
    if not isinstance(fraction, jax.core.Tracer) and not is_share(fraction):
        raise ValueError(
            f"fraction: got {fraction!r}, want a fraction of the particles above 0 and at most 1; "
            "half of them is ess_below(0.5)"
        )

    def criterion(
        log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> Bool[Array, "*batch"]:
        del t
        return effective_sample_size(log_w) < fraction * log_w.shape[-1]

    return criterion


def every(k: int) -> Criterion:
    """Holds before generations k, 2k, 3k, ...; raises `ValueError` for k < 1."""
    k = require_count("k", k)

    def criterion(
        log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> Bool[Array, "*batch"]:
        del log_w
        return t % k == 0

    return criterion


def never(log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Holds for no problem: `when(never, r)` is sequential importance sampling."""
    del log_w
    return jnp.zeros_like(t, bool)


def in_place(resampler: Resampler) -> Resampler:
    """Permutes the slots so that every survivor keeps its own; further copies fill the dead slots.

    Counts and the pairs (ancestor, log-weight left) are those of `resampler`. Fewest rows move.

    >>> import jax, jax.numpy as jnp
    >>> def resampler(key, log_w, t):
    ...     return jnp.array([1, 1, 1, 3]), log_w, jnp.array(True)
    >>> in_place(resampler)(jax.random.key(0), jnp.zeros(4), jnp.int32(1))[0].tolist()
    [1, 1, 1, 3]
    >>> def resampler(key, log_w, t):
    ...     return jnp.array([0, 0, 1, 3]), log_w, jnp.array(True)
    >>> in_place(resampler)(jax.random.key(0), jnp.zeros(4), jnp.int32(1))[0].tolist()
    [0, 1, 0, 3]
    """

    require_resampler(resampler)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        ancestors, left, resampled = resampled_by(resampler, key, log_w, t)
        ancestors, left = vmap_axes(_survivors_stay, ancestors.ndim - 1)(ancestors, left)
        return ancestors, left, resampled

    return marked_like(resampler, resample)


def stop_gradient(resampler: Resampler) -> Resampler:
    """Lets the gradient see how ancestors depend on the weights; the forward pass is unchanged.

    A draw with probability P is differentiated as P / constant(P). With it E[grad Z_hat] = grad Z
    exactly, for every n, if particles are moved without parameters or by reparametrised draws, and
    grad log Z_hat is consistent. Without it the gradient of `run` holds the ancestors fixed: less
    noise, but biased at every n. Put it outside of other wrappers.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax.smc import multinomial
    >>> def first_weight(log_w):
    ...     return stop_gradient(multinomial)(jax.random.key(0), log_w, jnp.int32(1))[1][0]
    >>> jax.grad(first_weight)(jnp.log(jnp.array([0.0, 1.0]))).tolist()
    [0.0, 1.0]
    """

    require_resampler(resampler)

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        log_w = usable(log_w)
        ancestors, left, resampled = resampler(key, jax.lax.stop_gradient(log_w), t)
        log_p = vmap_axes(lambda rows, index: rows[index], ancestors.ndim - 1)(log_w, ancestors)
        # 0 in value; 0 in gradient too where the ancestor is dead.
        score = log_ratio(log_p, jax.lax.stop_gradient(log_p))
        return ancestors, left + jnp.where(jnp.isneginf(log_p), 0.0, score), resampled

    return marked_like(resampler, resample)


def _survivors_stay(
    ancestors: Int[Array, "n"], left: Float[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    n = ancestors.shape[0]
    slots = jnp.arange(n, dtype=jnp.int32)
    first_copy = jnp.full(n, n, jnp.int32).at[ancestors].min(slots)
    is_first = first_copy[ancestors] == slots
    is_free = first_copy == n
    # There are as many further copies as free slots: the k-th copy goes to the k-th free slot.
    free_rank, copy_rank = jnp.cumsum(jnp.stack([is_free, ~is_first]), 1, jnp.int32) - 1
    free_slot = jnp.zeros(n, jnp.int32).at[jnp.where(is_free, free_rank, n)].set(slots, mode="drop")
    target = jnp.where(is_first, ancestors, free_slot[copy_rank])
    return ancestors.at[target].set(ancestors), left.at[target].set(left)


adaptive_systematic: Resampler = when(ess_below(0.5), in_place(systematic))
"""The default of `particle_filter`: systematic, in place, when the ESS is below half of n."""
