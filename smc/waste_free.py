"""Waste-free rejuvenation: few particles are resampled, and every point of their chains is kept.

    A_1..M ~ choice of M of N     x^m,1 = x[A_m]     x^m,p+1 ~ K(x^m,p, .)     N = M P
    each of the P points of chain m carries the weight w_left^m / P

Reference: Dau and Chopin (2022), Waste-free sequential Monte Carlo, algorithm 2.
Target: leaves that of the weighted particles unchanged (unbiased), as K does. Knows nothing of
temperatures.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, select, split_in_two, vmap_axes
from pfjax.smc._checks import require_choice, require_count, require_function
from pfjax.smc.choice import systematic_choice
from pfjax.smc.kernels import Kernel
from pfjax.smc.particle_filter import gather
from pfjax.smc.samplers import Posterior, Rejuvenate, Tempered, move
from pfjax.smc.types import Resampler, State


def waste_free(
    kernel: Kernel, num_chains: int, *, choose: Callable[[int], Resampler] = systematic_choice
) -> Rejuvenate:
    """num_chains particles are chosen, and each grows a chain of n / num_chains points.

    n kept particles cost n - num_chains transitions. The points of a chain are rows in a row; all
    have the ancestor that the chain started from. Resamples at every step. `Info.kernel` has the
    n / num_chains - 1 moves of every chain. Raises `ValueError` if num_chains does not divide n, or
    if no point would be moved.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda x: -0.5 * x**2,
    ...     log_likelihood=lambda x: -2.0 * (x - 1.5) ** 2,
    ... )
    >>> algorithm = smc.tempering(
    ...     posterior, 60, jnp.array([0.2, 1.0]), smc.waste_free(smc.random_walk(0.5), 6)
    ... )
    >>> _, infos = smc.run(jax.random.key(0), algorithm, 2)
    >>> infos.ancestors[1].reshape(6, 10).ptp(axis=1).tolist()
    [0, 0, 0, 0, 0, 0]
    """
    require_function("kernel", kernel, "key, x, log_density", "such as smc.random_walk(0.5)")
    num_chains = require_count("num_chains", num_chains)
    require_choice(choose)
    choose_chains = choose(num_chains)

    def rejuvenate(
        key: Key[Array, "*batch"], state: State, posterior: Posterior
    ) -> tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], PyTree[Array]]:
        length = _chain_length(state.log_weights.shape[-1], num_chains)
        k_choose, k_move = split_in_two(key)
        chosen, left, resampled = choose_chains(k_choose, state.log_weights, state.t)
        keys = particle_keys(k_move, num_chains)

        def grow(key: Key[Array, ""], start: Tempered) -> tuple[Tempered, PyTree[Array]]:
            return _chain(kernel, posterior, key, start, length)

        chains, told = vmap_axes(grow, keys.ndim)(keys, gather(state.particles, chosen))
        flat = vmap_axes(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), keys.ndim - 1)
        repeat = vmap_axes(lambda row: jnp.repeat(row, length), keys.ndim - 1)
        ancestors, left = repeat(chosen), repeat(left) - jnp.log(jnp.float32(length))
        # With every particle dead there is no chain to start: the rows stay.
        alive = ~jnp.all(jnp.isneginf(state.log_weights), axis=-1)
        stay = jnp.broadcast_to(jnp.arange(left.shape[-1], dtype=jnp.int32), ancestors.shape)
        kept = select(
            alive,
            (jax.tree.map(flat, chains), ancestors, left),
            (state.particles, stay, state.log_weights),
        )
        return state._replace(particles=kept[0], log_weights=kept[2]), kept[1], resampled, told

    return rejuvenate


def _chain(
    kernel: Kernel, posterior: Posterior, key: Key[Array, ""], start: Tempered, length: int
) -> tuple[Tempered, PyTree[Array]]:
    """The start and the length - 1 points after it, stacked; what the kernel told of the moves."""

    def advance(x: Tempered, i: Array) -> tuple[Tempered, tuple[Tempered, PyTree[Array]]]:
        x, told = move(kernel, posterior, jax.random.fold_in(key, i), x)
        return x, (x, told)

    _, (rest, told) = jax.lax.scan(advance, start, jnp.arange(1, length, dtype=jnp.int32))
    points = jax.tree.map(lambda first, more: jnp.concatenate([first[None], more]), start, rest)
    return points, told


def _chain_length(n: int, num_chains: int) -> int:
    if n % num_chains or n == num_chains:
        raise ValueError(
            f"num_chains: got {num_chains} for {n} particles, want a divisor of {n} below it"
        )
    return n // num_chains
