"""Feynman-Kac models from functions of one particle.

    M_0 = init(key)    M_t = propagate(key, x, t)    G_t = exp(log_potential(x, t))

Reference: Chopin and Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 5.
Knows nothing of observations: an example closes over them and indexes them with t.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc.types import FeynmanKac


def lift(
    init: Callable[[Key[Array, ""]], PyTree[Array]],
    propagate: Callable[[Key[Array, ""], PyTree[Array], Int[Array, ""]], PyTree[Array]],
    log_potential: Callable[[PyTree[Array], Int[Array, ""]], Float[Array, ""]],
) -> FeynmanKac:
    """The batched model of three single-particle functions; only vmaps, over all axes of the keys.

    >>> import jax, jax.numpy as jnp
    >>> model = lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> x = model.init(jax.random.split(jax.random.key(0), (2, 5)))
    >>> model.weigh(x, jnp.zeros(2, jnp.int32))[1].shape
    (2, 5)
    """

    def propagate_all(
        keys: Key[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> PyTree[Array]:
        per_problem = jax.vmap(propagate, in_axes=(0, 0, None))
        return vmap_axes(per_problem, t.ndim)(keys, x, t)

    def weigh_all(
        x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> tuple[PyTree[Array], Float[Array, "*batch n"]]:
        per_problem = jax.vmap(log_potential, in_axes=(0, None))
        return x, vmap_axes(per_problem, t.ndim)(x, t)

    def init_all(keys: Key[Array, "*batch n"]) -> PyTree[Array]:
        return vmap_axes(init, keys.ndim)(keys)

    return FeynmanKac(init_all, propagate_all, weigh_all)
