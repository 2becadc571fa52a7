"""Markov kernels that move one particle and leave a density invariant.

    random walk Metropolis    x' = x + scale * normal, accepted with min(1, pi(x') / pi(x))

Reference: Robert and Casella (2004), Monte Carlo Statistical Methods, section 7.5.
Target: exp(log_density), whatever its normalising constant. Knows nothing of populations,
temperatures or weights; a kernel of another library is one line (see `Kernel`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from pfjax.smc._axes import split_in_two
from pfjax.smc._checks import require_count, require_function
from pfjax.smc.weights import log_ratio, usable

LogDensity = Callable[[PyTree[Array]], Float[Array, ""]]


class KernelInfo(NamedTuple):
    """The probability with which the move was accepted, and the step that was tried.

    Samplers report it as `Info.kernel`, a row for every particle; other kernels may tell other things.
    """

    acceptance_rate: Float[Array, "*batch"]
    step_size: PyTree[Array]


@runtime_checkable
class Kernel(Protocol):
    """Moves one particle, leaves the density exp(log_density) invariant, and tells how it went.

    Returns the particle and any tree of arrays, `()` if there is nothing to tell. A kernel of
    blackjax is one after this adapter:

        def hmc(key, x, log_density):
            algorithm = blackjax.hmc(log_density, 0.1, jnp.ones(2), num_integration_steps=5)
            state, info = algorithm.step(key, algorithm.init(x))
            return state.position, smc.KernelInfo(info.acceptance_rate, jnp.float32(0.1))
    """

    def __call__(
        self, key: Key[Array, ""], x: PyTree[Array], log_density: LogDensity, /
    ) -> tuple[PyTree[Array], PyTree[Array]]: ...


def random_walk(scale: float | PyTree[Array]) -> Kernel:
    """Random walk Metropolis with a normal step; the scale is a number, or a tree of them like x.

    A point of density 0, or NaN, is never moved to, and always left for one of positive density.

    >>> import jax, jax.numpy as jnp
    >>> kernel = random_walk({"a": 0.5, "b": jnp.array([1.0, 10.0])})
    >>> x = {"a": jnp.float32(0.0), "b": jnp.zeros(2)}
    >>> log_density = lambda x: -(x["a"] ** 2) - jnp.sum(jnp.abs(x["b"]))
    >>> moved, info = kernel(jax.random.key(0), x, log_density)
    >>> moved["b"].shape, bool(0 <= info.acceptance_rate <= 1)
    ((2,), True)
    """

    def kernel(
        key: Key[Array, ""], x: PyTree[Array], log_density: LogDensity
    ) -> tuple[PyTree[Array], KernelInfo]:
        k_step, k_accept = split_in_two(key)
        leaves, tree = jax.tree.flatten(x)
        scales = _scales(scale, x)
        proposal = tree.unflatten(
            leaf + s * jax.random.normal(jax.random.fold_in(k_step, i), leaf.shape, leaf.dtype)
            for i, (leaf, s) in enumerate(zip(leaves, scales, strict=True))
        )
        log_accept = log_ratio(usable(log_density(proposal)), usable(log_density(x)))
        accepted = jnp.log(jax.random.uniform(k_accept, dtype=log_accept.dtype)) < log_accept
        moved = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, x)
        rate = jnp.exp(jnp.minimum(log_accept, 0.0))
        return moved, KernelInfo(rate, jax.tree.map(jnp.float32, scale))

    return kernel


def repeated(kernel: Kernel, num_steps: int) -> Kernel:
    """The kernel, num_steps times in a row, telling the means of what it tells.

    Raises `ValueError` for num_steps < 1.

    >>> import jax, jax.numpy as jnp
    >>> kernel = repeated(lambda key, x, log_density: (x + 1, x), 5)
    >>> moved, seen = kernel(jax.random.key(0), jnp.int32(0), lambda x: 0.0)
    >>> int(moved), float(seen)
    (5, 2.0)
    """
    require_function("kernel", kernel, "key, x, log_density", "such as smc.random_walk(0.5)")
    num_steps = require_count("num_steps", num_steps)

    def all_steps(
        key: Key[Array, ""], x: PyTree[Array], log_density: LogDensity
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        def step(x: PyTree[Array], i: Array) -> tuple[PyTree[Array], PyTree[Array]]:
            return kernel(jax.random.fold_in(key, i), x, log_density)

        x, told = jax.lax.scan(step, x, jnp.arange(num_steps, dtype=jnp.int32))
        return x, jax.tree.map(lambda leaf: jnp.mean(leaf.astype(jnp.float32), axis=0), told)

    return all_steps


def _scales(scale: float | PyTree[Array], x: PyTree[Array]) -> list:
    """One scale for every leaf of x; raises `ValueError` for a tree that does not fit."""
    try:
        scales = jax.tree.leaves(jax.tree.broadcast(scale, x))
        fits = all(
            jnp.broadcast_shapes(jnp.shape(s), a.shape) == a.shape
            for s, a in zip(scales, jax.tree.leaves(x), strict=True)
        )
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"scale: got {jax.tree.map(jnp.shape, scale)} (shapes) for particles of "
            f"{jax.tree.map(jnp.shape, x)}, want a number, or a tree of scales like the particle"
        )
    return scales
