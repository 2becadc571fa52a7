"""Conditional resampling: the law of a scheme given that the parent of slot 0 is particle 0.

    A ~ r(. | W, A_0 = 0)      r = the scheme with its slots rotated at random, so P(A_0 = i) = W_i

Where the order of the rows matters (systematic, stratified) r takes them in random order: then no
slot is special, and the reference may stay in slot 0. Pinning A_0 = 0 and drawing the others as
usual is right for multinomial only. Any order of the other slots, as by `in_place`, is as good.
References: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods; Chopin
and Singh (2015), On particle Gibbs sampling; Karppinen, Singh and Vihola (2024), Conditional
particle filters with bridge backward sampling. Knows nothing of the reference but its slot, 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from pfjax.smc._ancestors import ancestors_from_ends, equally_weighted, independent_draws
from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_axes
from pfjax.smc._fixed_point import exact_prefix_sum, expected_copies, running_copies
from pfjax.smc.killing import killing
from pfjax.smc.resampling import multinomial, stratified, systematic
from pfjax.smc.residual import residual
from pfjax.smc.types import Conditional, Resampler, marked_like
from pfjax.smc.weights import total, usable
from pfjax.smc.wrappers import ess_below, when

_Law = Callable[[Key[Array, ""], Float[Array, "n"]], Int[Array, "n"]]


def conditional(resampler: Resampler) -> Conditional:
    """The conditional law of a plain scheme; raises `ValueError` if none is known.

    Adaptive resampling is `when(criterion, conditional(scheme))`; the criterion must not depend on
    the order of the particles. A dead reference stays in slot 0, and dead.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> log_w = jnp.log(jnp.array([0.1, 0.0, 0.9]))
    >>> conditional(smc.systematic)(jax.random.key(0), log_w, jnp.int32(1))[0].tolist()
    [0, 2, 2]
    """
    law = _CONDITIONAL.get(resampler)
    if law is None:
        known = ", ".join(map(name_of, _CONDITIONAL))
        raise ValueError(
            f"resampler: got {name_of(resampler)}, want a scheme whose conditional law is known ({known}); "
            "write when(criterion, conditional(scheme)), not conditional(when(criterion, scheme))"
        )
    return law


def name_of(resampler: Resampler) -> str:
    """What a message calls it."""
    resampler = resampler.law if isinstance(resampler, Conditional) else resampler
    return getattr(resampler, "__qualname__", repr(resampler))


@Conditional
def conditional_multinomial(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Slots are independent: the others are drawn as usual (Andrieu et al. 2010, section 4.3)."""
    del t
    return _resample(_multinomial, key, log_w)


@Conditional
def conditional_systematic(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """The tooth of slot 0 is uniform on the interval of particle 0 and places the whole comb."""
    del t
    return _resample(_systematic, key, log_w)


@Conditional
def conditional_stratified(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """The point of slot 0 is uniform on the interval of particle 0, the others have a stratum each."""
    del t
    return _resample(_stratified, key, log_w)


@Conditional
def conditional_residual(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Slot 0 is one of the floor(N W_0) copies, or else the first of the multinomial draws."""
    del t
    return _resample(_residual, key, log_w)


@Conditional
def conditional_killing(
    key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Slot 0 is particle 0 that survived, or one that died and was replaced by it."""
    del t
    return _resample(_killing, key, log_w)


def with_parent(resampler: Resampler, parent: Int[Array, "*batch"]) -> Resampler:
    """The conditional `resampler` with particle `parent` in the place of particle 0.

    Problems that are not resampled keep every slot's own parent, that of slot 0 included.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> log_w = jnp.log(jnp.array([0.5, 0.0, 0.5]))
    >>> resample = with_parent(conditional(smc.systematic), jnp.int32(2))
    >>> resample(jax.random.key(0), log_w, jnp.int32(1))[0][0].item()
    2
    """

    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        slots = jnp.broadcast_to(jnp.arange(log_w.shape[-1], dtype=jnp.int32), log_w.shape)
        names = jnp.where(slots == parent[..., None], 0, slots)
        names = jnp.where(slots == 0, parent[..., None], names)
        exchanged = jnp.take_along_axis(log_w, names, axis=-1)
        ancestors, left, resampled = resampler(key, exchanged, t)
        chosen = resampled[..., None]
        ancestors = jnp.where(chosen, jnp.take_along_axis(names, ancestors, axis=-1), slots)
        return ancestors, jnp.where(chosen, left, log_w), resampled

    return marked_like(resampler, resample)


def _multinomial(key: Key[Array, ""], log_w: Float[Array, "n"]) -> Int[Array, "n"]:
    return independent_draws(key, log_w, log_w.shape[0])


def _systematic(key: Key[Array, ""], log_w: Float[Array, "n"]) -> Int[Array, "n"]:
    k_order, k_tooth = jax.random.split(key)
    n = log_w.shape[0]
    return _comb(k_order, k_tooth, log_w, lambda s, u: jnp.broadcast_to(u, (n,)))


def _stratified(key: Key[Array, ""], log_w: Float[Array, "n"]) -> Int[Array, "n"]:
    k_order, k_tooth, k_others = jax.random.split(key, 3)
    others = jax.random.bits(k_others, log_w.shape, jnp.uint32)
    slots = jnp.arange(log_w.shape[0], dtype=jnp.int32)
    return _comb(k_order, k_tooth, log_w, lambda s, u: jnp.where(slots == s, u, others))


def _comb(
    k_order: Key[Array, ""],
    k_tooth: Key[Array, ""],
    log_w: Float[Array, "n"],
    teeth: Callable[[Int[Array, ""], UInt[Array, ""]], UInt[Array, "n"]],
) -> Int[Array, "n"]:
    """Ancestors of teeth k + u_k / 2^32, given that a uniform point of particle 0 is tooth s."""
    n = log_w.shape[0]
    order = jax.random.permutation(k_order, jnp.arange(n, dtype=jnp.int32))
    whole, part = expected_copies(log_w[order], n)
    end, end_part = running_copies(whole, part)
    place = jnp.argmax(order == 0).astype(jnp.int32)
    above, above_part = _uniform_below(k_tooth, whole[place], part[place])
    # Unsigned numbers wrap around: borrow below the end of particle 0, carry above its start.
    start_part = end_part[place] - part[place]
    u = start_part + above_part
    borrow, carry = (end_part[place] < part[place]), (u < start_part)
    s = end[place] - whole[place] - borrow.astype(jnp.int32) + above + carry.astype(jnp.int32)
    ends = end + (teeth(s, u).at[end].get(mode="clip") < end_part).astype(jnp.int32)
    slots = jnp.arange(n, dtype=jnp.int32)
    return order[ancestors_from_ends(ends, n)][(slots + s) % n]


def _residual(key: Key[Array, ""], log_w: Float[Array, "n"]) -> Int[Array, "n"]:
    n = log_w.shape[0]
    k_first, k_slot, k_others = jax.random.split(key, 3)
    whole, part = expected_copies(log_w, n)
    end = exact_prefix_sum(whole)
    slots = jnp.arange(n, dtype=jnp.int32)
    drawn = independent_draws(k_others, jnp.log(part.astype(jnp.float32)), n)
    ancestors = jnp.where(slots < end[-1], ancestors_from_ends(end, n), drawn)
    copy, _ = _uniform_below(k_first, whole[0], part[0])
    last = jnp.maximum(n, end[-1] + 1)
    draw = jax.random.randint(k_slot, (), end[-1], last, jnp.int32)
    return ancestors[(slots + jnp.where(copy < whole[0], copy, draw)) % n]


def _killing(key: Key[Array, ""], log_w: Float[Array, "n"]) -> Int[Array, "n"]:
    n = log_w.shape[0]
    k_first, k_survive, k_replace = jax.random.split(key, 3)
    survival = jnp.exp(log_w - jnp.max(log_w))
    slots = jnp.arange(n, dtype=jnp.int32)
    # The own slot of particle 0 holds it also when it survives: 1/max W times as often as drawn.
    mass = 1 - survival + jnp.where(slots == 0, total(survival), 0.0)
    first = jax.random.categorical(k_first, jnp.log(mass)).astype(jnp.int32)
    survives = jax.random.uniform(k_survive, (n,), jnp.float32) < survival
    replaced = independent_draws(k_replace, log_w, n)
    return jnp.where(survives, slots, replaced)[(slots + first) % n]


def _uniform_below(
    key: Key[Array, ""], whole: Int[Array, ""], part: UInt[Array, ""]
) -> tuple[Int[Array, ""], UInt[Array, ""]]:
    """A uniform fixed-point number below whole + part / 2^32; 0 below 0."""
    k_whole, k_part, k_below = jax.random.split(key, 3)
    bound = whole.astype(jnp.float32) + part.astype(jnp.float32) / 2.0**32
    u_whole, u_part = (jax.random.uniform(k, dtype=jnp.float32) for k in (k_whole, k_part))
    drawn = jnp.floor(u_whole * bound).astype(jnp.int32)
    below = jnp.floor(u_part * part.astype(jnp.float32)).astype(jnp.uint32)
    anything = jax.random.bits(k_below, dtype=jnp.uint32)
    return jnp.minimum(drawn, whole), jnp.where(drawn < whole, anything, below)


def _resample(
    law: _Law, key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"]
) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """The contract around a law: slot 0, all dead, and the weight 1/N that each copy is left."""

    def one(
        key: Key[Array, ""], log_w: Float[Array, "n"]
    ) -> tuple[Int[Array, "n"], Float[Array, "n"], Bool[Array, ""]]:
        slots = jnp.arange(log_w.shape[0], dtype=jnp.int32)
        alive = jnp.any(~jnp.isneginf(log_w))
        drawn = law(key, jnp.where(alive, jax.lax.stop_gradient(log_w), 0.0))
        ancestors, left, _ = equally_weighted(jnp.where(slots == 0, 0, drawn), log_w)
        return ancestors, jnp.where(jnp.isneginf(log_w[ancestors]), -jnp.inf, left), alive

    require_axes(key, log_w)
    return vmap_axes(one, key.ndim)(key, usable(log_w))


_CONDITIONAL: dict[Resampler, Conditional] = {
    multinomial: conditional_multinomial,
    systematic: conditional_systematic,
    stratified: conditional_stratified,
    residual: conditional_residual,
    killing: conditional_killing,
}

adaptive_conditional: Resampler = when(ess_below(0.5), conditional_systematic)
"""The default of `particle_gibbs`: conditional systematic when the ESS is below half of n."""
