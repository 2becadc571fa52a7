"""Parallel tempering: one kernel on paths at several temperatures, whose paths change places.

    chain k targets M_0 prod_t M_t exp(v(x) / tau_k)      v(x) = sum_t log G_t of the path
    x_k, x_k+1 swap with probability min(1, exp((1/tau_k - 1/tau_k+1) (v(x_k+1) - v(x_k))))

References: Geyer (1991), Markov chain Monte Carlo maximum likelihood; Syed, Bouchard-Cote,
Deligiannidis and Doucet (2022), Non-reversible parallel tempering, for even and odd pairs in turn.
The M_t cancel, so a swap costs only v. Knows nothing of how the temperatures are chosen.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import fold_in, per_problem, require_typed, split_in_two, vmap_axes
from pfjax.smc._checks import require_count, require_function, require_model
from pfjax.smc._paths import at, repeat
from pfjax.smc.conditional_filter import require_steps
from pfjax.smc.particle_gibbs import Sweep
from pfjax.smc.transformers import tempered_target
from pfjax.smc.types import Algorithm, FeynmanKac
from pfjax.smc.weights import add_exactly, log_ratio, usable

_Sum = tuple[Array, Array]  # a number, and what rounding took from it


class Replicas(NamedTuple):
    """The path of every chain, coldest first if the temperatures are, and the number of sweeps.

    Leaves of `paths` have the axis of the chains in front of those of a path.
    """

    paths: PyTree[Array]
    num_sweeps: Int[Array, "*batch"]


class Exchange(NamedTuple):
    """The sweep of every chain, then the swaps: pair k is chains k and k + 1.

    `log_potentials` are v of the paths in the order they have after the swaps.
    """

    sweeps: Sweep
    log_potentials: Float[Array, "chains *batch"]
    tried: Bool[Array, "pairs *batch"]
    swapped: Bool[Array, "pairs *batch"]


def parallel_tempering(
    model: FeynmanKac,
    temperatures: Sequence[float],
    kernel: Callable[[FeynmanKac], Algorithm],
    num_steps: int,
) -> Algorithm:
    """Chains at all temperatures in one vmapped program; a step is a sweep of each, then swaps.

    Target: leaves the product of the tempered path measures of num_steps generations invariant, if
    `kernel(model)` leaves that of the model it is given; temperature 1 is the model itself. Where
    G_t looks back, the kernel must not ask for `log_transition`, whose share of G_t stays as it is.
    The state is `Replicas`, the info an `Exchange`. Raises `ValueError` for temperatures that are
    not positive and finite.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -2.0 * (x**2 - 4.0) ** 2,
    ... )
    >>> pt = smc.parallel_tempering(
    ...     model, [1.0, 3.0, 9.0], lambda tempered: smc.particle_gibbs(tempered, 16, 5), 5
    ... )
    >>> state, swapped = smc.run(jax.random.key(0), pt, 50, lambda state, info: info.swapped)
    >>> state.paths.shape, swapped.shape
    ((3, 5), (50, 2))
    """
    require_model(model)
    require_function("kernel", kernel, "model", "which makes a kernel on its paths")
    num_steps = require_count("num_steps", num_steps)
    temperatures = [float(tau) for tau in temperatures]
    if not temperatures or not all(0 < tau < math.inf for tau in temperatures):
        raise ValueError(
            f"temperatures: got {list(temperatures)}, want at least one, all positive and finite"
        )
    betas = 1 / jnp.array(temperatures, jnp.float32)
    chains = jnp.arange(len(betas), dtype=jnp.int32)

    def tempered(beta: Float[Array, ""]) -> Algorithm:
        return kernel(tempered_target(model, lambda t: jnp.broadcast_to(beta, t.shape)))

    def init(key: Key[Array, "*batch"]) -> tuple[Replicas, Exchange]:
        require_typed(key)
        k_sweep, k_swap = split_in_two(key)
        paths, sweeps = jax.vmap(lambda k, beta: tempered(beta).init(fold_in(k_sweep, k)))(
            chains, betas
        )
        return exchange(k_swap, paths, sweeps, per_problem(key, jnp.int32(0)))

    def step(key: Key[Array, "*batch"], state: Replicas) -> tuple[Replicas, Exchange]:
        require_typed(key)
        k_sweep, k_swap = split_in_two(key)
        paths, sweeps = jax.vmap(
            lambda k, beta, path: tempered(beta).step(fold_in(k_sweep, k), path)
        )(chains, betas, state.paths)
        return exchange(k_swap, paths, sweeps, state.num_sweeps + 1)

    def exchange(
        key: Key[Array, "*batch"],
        paths: PyTree[Array],
        sweeps: PyTree,
        num_sweeps: Int[Array, "*b"],
    ) -> tuple[Replicas, Exchange]:
        v = jax.vmap(lambda path: _log_potential(model, path, num_steps, num_sweeps))(paths)
        order, tried, swapped = _swaps(key, betas, v, num_sweeps)
        paths = jax.tree.map(lambda leaf: _reorder(leaf, order, model.rewind is None), paths)
        info = Exchange(sweeps, jnp.take_along_axis(v[0], order, axis=0), tried, swapped)
        return Replicas(paths, num_sweeps), info

    # The shape of an Algorithm, with replicas for states.
    return Algorithm(init, step)  # pyright: ignore[reportArgumentType]


def _log_potential(
    model: FeynmanKac, path: PyTree[Array], num_steps: int, like: Int[Array, "*batch"]
) -> _Sum:
    """v = sum_t log G_t of a path, and what rounding took from it; `like` has the axes of t."""

    def log_g(t: Int[Array, ""]) -> Float[Array, "*batch"]:
        now = jnp.full_like(like, t)
        _, log_g = model.weigh(repeat(at(model, path, now), 1, now.ndim), now)
        return usable(log_g[..., 0])

    def add(v: _Sum, t: Int[Array, ""]) -> tuple[_Sum, None]:
        return add_exactly(*v, log_g(t)), None

    require_steps(model, path, num_steps)
    first = log_g(jnp.int32(0))
    later = jnp.arange(1, num_steps, dtype=jnp.int32)
    return jax.lax.scan(add, (first, jnp.zeros_like(first)), later)[0]


def _swaps(
    key: Key[Array, "*batch"],
    betas: Float[Array, "chains"],
    v: _Sum,
    num_sweeps: Int[Array, "*batch"],
) -> tuple[Int[Array, "chains *batch"], Bool[Array, "pairs *b"], Bool[Array, "pairs *b"]]:
    """Where each chain's path comes from, and which pairs tried and did swap."""

    def one(
        key: Key[Array, ""], v: _Sum, num_sweeps: Int[Array, ""]
    ) -> tuple[Int[Array, "chains"], Bool[Array, "pairs"], Bool[Array, "pairs"]]:
        chains = jnp.arange(len(betas), dtype=jnp.int32)
        (v, error), slope = v, betas[:-1] - betas[1:]
        gain = log_ratio(v[1:], v[:-1]) + (error[1:] - error[:-1])
        slope = slope.astype(gain.dtype)
        log_a = jnp.where(slope == 0, 0.0, slope * jnp.where(slope == 0, 0.0, gain))
        tried = (chains[:-1] + num_sweeps) % 2 == 0
        swapped = tried & (-jax.random.exponential(key, log_a.shape, log_a.dtype) < log_a)
        steps = swapped.astype(jnp.int32)
        return chains + jnp.pad(steps, (0, 1)) - jnp.pad(steps, (1, 0)), tried, swapped

    order, tried, swapped = vmap_axes(one, key.ndim)(
        key, jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), v), num_sweeps
    )
    order, tried, swapped = (jnp.moveaxis(x, -1, 0) for x in (order, tried, swapped))
    return order, tried, swapped


def _reorder(leaf: Array, order: Int[Array, "chains *batch"], has_steps: bool) -> Array:
    """Row k of the result is row order[k], for every problem."""

    def take(rows: Array, index: Int[Array, "chains"]) -> Array:
        return rows[index]

    for _ in range(order.ndim - 1):
        take = jax.vmap(take, in_axes=1, out_axes=1)
    take = jax.vmap(take, in_axes=(1, None), out_axes=1) if has_steps else take
    return take(leaf, order)
