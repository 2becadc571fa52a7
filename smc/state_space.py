"""The bootstrap model of a state-space model: hidden states move, observations weigh them.

    M_0 = p(x_0)    M_t = p(x_t | x_t-1)    G_t = p(y_t | x_t)    L_t = p(y_0:t)

Reference: Gordon, Salmond and Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state
estimation. `guided` replaces the blind moves by a proposal that has seen y_t. Knows nothing of
particular distributions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc.feynman_kac import lift
from pfjax.smc.types import FeynmanKac


def state_space(
    initial: Callable[[Key[Array, ""]], PyTree[Array]],
    transition: Callable[[Key[Array, ""], PyTree[Array], Int[Array, ""]], PyTree[Array]],
    log_observation: Callable[[PyTree[Array], PyTree[Array], Int[Array, ""]], Float[Array, ""]],
    observations: PyTree[Array],
    *,
    log_transition: Callable[[PyTree[Array], PyTree[Array], Int[Array, ""]], Float[Array, ""]]
    | None = None,
) -> FeynmanKac:
    """The bootstrap model of functions of one particle, as in `lift`.

    `log_observation(x, y, t)` is log p(y_t | x_t), with y the row t of every leaf of observations
    (numpy arrays and lists of numbers are leaves too); generations after the last row are forecasts
    (G_t = 1). All problems share the observations. Raises `ValueError` for leaves of different
    lengths. Target: p(x_0:t | y_0:t), with evidence p(y_0:t).

    >>> import jax, jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from pfjax import smc
    >>> model = smc.state_space(
    ...     initial=lambda key: jax.random.normal(key),
    ...     transition=lambda key, x, t: 0.9 * x + 0.5 * jax.random.normal(key),
    ...     log_observation=lambda x, y, t: norm.logpdf(y, x, 1.0),
    ...     observations=jnp.array([0.3, -0.2, 1.1]),
    ... )
    >>> model.weigh(jnp.zeros(2), jnp.int32(7))[1].tolist()
    [0.0, 0.0]
    """
    observations = jax.tree.map(jnp.asarray, observations, is_leaf=lambda y: isinstance(y, list))
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(observations)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"observations: got leaves with {sorted(lengths)} rows, want one row for every generation, "
            "the same number in every leaf"
        )
    ((num_rows,),) = lengths

    def log_potential(x: PyTree[Array], t: Int[Array, ""]) -> Float[Array, ""]:
        y = jax.tree.map(lambda rows: rows[t], observations)
        return jnp.where(t < num_rows, log_observation(x, y, t), 0.0)

    return lift(initial, transition, log_potential, log_transition=log_transition)
