"""Feynman-Kac models from functions of one particle.

    M_0 = init(key)    M_t = propagate(key, x, t)    G_t = exp(log_potential(x, t))

Reference: Chopin and Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 5.
Knows nothing of observations: an example closes over them and indexes them with t.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._calls import indexed
from pfjax.smc.types import FeynmanKac


def lift(
    init: Callable[[Key[Array, ""]], PyTree[Array]],
    propagate: Callable[[Key[Array, ""], PyTree[Array], Int[Array, ""]], PyTree[Array]],
    log_potential: Callable[[PyTree[Array], Int[Array, ""]], Float[Array, ""]],
    *,
    log_transition: Callable[[PyTree[Array], PyTree[Array], Int[Array, ""]], Float[Array, ""]]
    | None = None,
) -> FeynmanKac:
    """The batched model of single-particle functions; only vmaps, over all axes of the keys.

    `log_transition(x_prev, x, t)` is the log-density of `propagate`; ancestor and backward sampling
    ask for it, a particle filter does not.

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

    def weigh(
        x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> tuple[PyTree[Array], Float[Array, "*batch n"]]:
        return x, per_particle(indexed("log_potential", log_potential))(x, t)

    def init_all(keys: Key[Array, "*batch n"]) -> PyTree[Array]:
        return vmap_axes(indexed("init", init), keys.ndim)(keys)

    return FeynmanKac(
        init_all,
        per_particle(indexed("propagate", propagate)),
        weigh,
        None if log_transition is None else per_particle(indexed("log_transition", log_transition)),
    )


def per_particle(function: Callable[..., PyTree[Array]]) -> Callable[..., PyTree[Array]]:
    """`function(*one_particle, t)`, mapped over all particles of all problems.

    >>> import jax.numpy as jnp
    >>> log_psi = per_particle(lambda x, t: jnp.where(t > 0, x[0], x[1]))
    >>> log_psi(jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]]), jnp.array([0, 1])).tolist()
    [[2.0], [3.0]]
    """

    def mapped(*arguments: PyTree[Array]) -> PyTree[Array]:
        t = arguments[-1]
        per_problem = jax.vmap(function, in_axes=(0,) * (len(arguments) - 1) + (None,))
        return vmap_axes(per_problem, t.ndim)(*arguments)

    return mapped
