"""Models with static parameters theta: a prior, a model for every theta, and steps between thetas.

    p(theta) Q_t^theta(dx_0:t) L_t^theta        q(theta, dtheta')

Reference: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods,
section 2.1. Knows nothing of how theta is found (`pmmh`, `smc_squared`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_function
from pfjax.smc.kernels import random_walk
from pfjax.smc.types import FeynmanKac


class ModelFamily(NamedTuple):
    """A prior, drawn from and evaluated, and a model for every theta: functions of one theta.

    theta is any tree of arrays. `log_prior` is read by Metropolis-Hastings alone, so its normalising
    constant does not matter.
    """

    sample_prior: Callable[[Key[Array, ""]], PyTree[Array]]
    log_prior: Callable[[PyTree[Array]], Float[Array, ""]]
    model: Callable[[PyTree[Array]], FeynmanKac]


@runtime_checkable
class ThetaProposal(Protocol):
    """Draws one theta' ~ q(theta, .); returns it and log q(theta', theta) / q(theta, theta')."""

    def __call__(
        self, key: Key[Array, ""], theta: PyTree[Array], /
    ) -> tuple[PyTree[Array], Float[Array, ""]]: ...


def model_at(family: ModelFamily, theta: PyTree[Array], num_axes: int) -> FeynmanKac:
    """The model whose problems, behind `num_axes` axes, have each its own theta.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> move = lambda theta: smc.lift(lambda key: theta, lambda key, x, t: x, lambda x, t: x)
    >>> family = ModelFamily(lambda key: jnp.float32(0), lambda theta: jnp.float32(0), move)
    >>> keys = jax.random.split(jax.random.key(0), (2, 3))
    >>> model_at(family, jnp.array([5.0, 7.0]), 1).init(keys).tolist()
    [[5.0, 5.0, 5.0], [7.0, 7.0, 7.0]]
    """

    def each(name: str) -> Callable:
        def of_one(theta: PyTree[Array], *arguments: PyTree[Array]) -> PyTree[Array]:
            return getattr(family.model(theta), name)(*arguments)

        return lambda *arguments: vmap_axes(of_one, num_axes)(theta, *arguments)

    kinds = _model_of_one(family, theta, num_axes)
    return FeynmanKac(
        *(None if f is None else each(name) for name, f in kinds._asdict().items())  # pyright: ignore[reportArgumentType]
    )


def _model_of_one(family: ModelFamily, theta: PyTree[Array], num_axes: int) -> FeynmanKac:
    """Which functions there are, which does not depend on theta; they are not to be called."""
    found = []
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[num_axes:], x.dtype), theta)
    jax.eval_shape(lambda theta: found.append(family.model(theta)), one)
    if not isinstance(found[0], FeynmanKac):
        raise ValueError(
            f"family.model: got a {type(found[0]).__name__}, want a FeynmanKac for every theta; make "
            "one with smc.lift"
        )
    return found[0]


def as_proposal(proposal: float | PyTree[Array] | ThetaProposal) -> ThetaProposal:
    """The proposal itself, or the normal step of that scale, a number or a tree of them like theta."""
    if callable(proposal):
        fix = "which returns theta' and its log-ratio, or the scale of a normal step"
        require_function("proposal", proposal, "key, theta", fix)
        return proposal
    walk = random_walk(proposal)

    def propose(key: Key[Array, ""], theta: PyTree[Array]) -> tuple[PyTree[Array], Array]:
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(theta)):
            raise ValueError(
                "proposal: got a scale for a theta that is not floating point, want a function of "
                "(key, theta) that returns theta' and its log-ratio"
            )
        # A walk on a flat density is never refused.
        return walk(key, theta, lambda _: jnp.float32(0))[0], jnp.float32(0)

    return propose


def proposed(
    propose: ThetaProposal, keys: Key[Array, "*batch"], theta: PyTree[Array]
) -> tuple[PyTree[Array], Float[Array, "*batch"]]:
    """New thetas and their log-ratios; raises `ValueError` unless they are trees like theta."""
    result = vmap_axes(propose, keys.ndim)(keys, theta)
    is_pair = isinstance(result, tuple) and len(result) == 2
    if not is_pair or jax.tree.map(jax.typeof, result[0]) != jax.tree.map(jax.typeof, theta):
        raise ValueError(
            "proposal: got something else than (theta', log-ratio) with a theta' of the shapes and "
            "dtypes of theta; a symmetric step returns `theta_new, jnp.float32(0)`"
        )
    return result


def prior_at(
    family: ModelFamily, theta: PyTree[Array], like: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The log-prior of every theta, in the dtype of `like`."""
    log_prior = jnp.asarray(vmap_axes(family.log_prior, like.ndim)(theta))
    if jnp.shape(log_prior) != like.shape:
        raise ValueError(
            f"family.log_prior: got shape {jnp.shape(log_prior)[like.ndim :]}, want one number for one "
            "theta"
        )
    return log_prior.astype(like.dtype)
