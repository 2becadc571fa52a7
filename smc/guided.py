"""Particles drawn from a proposal q instead of the kernels M of the model, and weighed for it.

    x_t ~ q_t(x_t-1, .)    G'_t = G_t(x_t) M_t(x_t-1, x_t) / q_t(x_t-1, x_t)

Reference: Doucet, Godsill and Andrieu (2000), On sequential Monte Carlo sampling methods for
Bayesian filtering, section II. Target: that of the model, for every q that is positive where M_t
G_t is. Knows nothing of densities: the proposal returns the log-ratio with each of its draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import kind, require_a, require_model
from pfjax.smc.feynman_kac import per_particle
from pfjax.smc.types import FeynmanKac

Draw = tuple[PyTree[Array], Float[Array, "*batch n"]]


class Proposal(NamedTuple):
    """q: every function returns new particles and log M/q at them, in float32."""

    init: Callable[[Key[Array, "*batch n"]], Draw]
    propagate: Callable[[Key[Array, "*batch n"], PyTree[Array], Int[Array, "*batch"]], Draw]


class Guided(NamedTuple):
    """Particles `x` of the model; `log_ratio` is log M_t/q_t of the last draw."""

    x: PyTree[Array]
    log_ratio: Float[Array, "*batch n"]


def lift_proposal(
    init: Callable[[Key[Array, ""]], Draw],
    propagate: Callable[[Key[Array, ""], PyTree[Array], Int[Array, ""]], Draw],
) -> Proposal:
    """The proposal of two functions of one particle, as `lift` makes a model."""

    def init_all(keys: Key[Array, "*batch n"]) -> Draw:
        return vmap_axes(init, keys.ndim)(keys)

    return Proposal(init_all, per_particle(propagate))


def guided(model: FeynmanKac, proposal: Proposal) -> FeynmanKac:
    """The model with its particles drawn from the proposal; they are `Guided(x, log_ratio)`.

    Target: that of `model`. Keeps `log_transition`, which is still that of the model: M_t G_t is
    unchanged, so ancestor and backward sampling look back with the weights they had.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> coin = smc.lift(
    ...     init=lambda key: jax.random.bernoulli(key, 0.25),
    ...     propagate=lambda key, x, t: x,
    ...     log_potential=lambda x, t: jnp.where(x, 0.0, -jnp.inf),
    ... )
    >>> heads = smc.lift_proposal(
    ...     init=lambda key: (jnp.array(True), jnp.log(0.25)),
    ...     propagate=lambda key, x, t: (x, jnp.float32(0.0)),
    ... )
    >>> pf = smc.particle_filter(smc.guided(coin, heads), 4)
    >>> round(float(jnp.exp(smc.run(jax.random.key(0), pf, 3)[0].log_evidence)), 4)
    0.25
    """

    require_model(model)
    fix = "make one with smc.lift_proposal"
    require_a("proposal", proposal, Proposal, fix)

    def init(keys: Key[Array, "*batch n"]) -> Guided:
        return _drawn("init", proposal.init(keys), keys)

    def propagate(keys: Key[Array, "*batch n"], p: Guided, t: Int[Array, "*batch"]) -> Guided:
        return _drawn("propagate", proposal.propagate(keys, p.x, t), keys)

    def weigh(p: Guided, t: Int[Array, "*batch"]) -> tuple[Guided, Float[Array, "*batch n"]]:
        x, log_g = model.weigh(p.x, t)
        return Guided(x, p.log_ratio), log_g + p.log_ratio

    log_m = model.log_transition
    return FeynmanKac(
        init,
        propagate,
        weigh,
        None if log_m is None else lambda x_prev, x, t: log_m(x_prev.x, x.x, t),
    )


def _drawn(name: str, draw: Draw, keys: Key[Array, "*batch n"]) -> Guided:
    """What a proposal returned; raises `ValueError` if the log-ratio is missing."""
    if not isinstance(draw, tuple) or len(draw) != 2 or jnp.shape(draw[1]) != keys.shape:
        raise ValueError(
            f"proposal.{name}: got {kind(draw)}, want the pair (particles, log M/q), one log-ratio for "
            "each particle; functions of one particle go through smc.lift_proposal"
        )
    return Guided(*draw)
