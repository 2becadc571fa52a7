"""Iterated batch importance sampling: from the prior to a posterior, one observation at a time.

    gamma_t(x) = prior(x) prod_{s<=t} p(y_s | y_0:s-1, x)    A ~ resampler(W_t-1)
    x_t ~ K_t-1(x_t-1[A], .) if resampled, else x_t-1        K_t-1 leaves gamma_t-1 invariant
    w_t = w_left p(y_t | y_0:t-1, x_t)                       L_t = p(y_0:t)

Reference: Chopin (2002), A sequential particle filter method for static models, section 4.1.
Knows nothing of the data: it calls the likelihood of observation t, and of temperatures.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import (
    particle_keys,
    per_problem,
    require_typed,
    select,
    split_in_two,
    vmap_axes,
)
from pfjax.smc._calls import indexed, moved_by
from pfjax.smc._checks import require_a, require_count, require_function, require_plain
from pfjax.smc._weighing import start, weighed
from pfjax.smc.kernels import Kernel
from pfjax.smc.particle_filter import resample
from pfjax.smc.samplers import untold
from pfjax.smc.types import Algorithm, Horizon, Info, Resampler, State, bounded
from pfjax.smc.weights import total
from pfjax.smc.wrappers import adaptive_systematic


class PartialPosteriors(NamedTuple):
    """A prior, and the likelihood of one observation given those before it, of one particle.

    `log_likelihood(x, t)` is log p(y_t | y_0:t-1, x) for t = 0 to num_observations - 1. `log_prior`
    is read by the kernels alone, so its normalising constant does not matter.
    """

    sample_prior: Callable[[Key[Array, ""]], PyTree[Array]]
    log_prior: Callable[[PyTree[Array]], Float[Array, ""]]
    log_likelihood: Callable[[PyTree[Array], Int[Array, ""]], Float[Array, ""]]
    num_observations: int


def ibis(
    posteriors: PartialPosteriors,
    n: int,
    kernel: Kernel,
    resampler: Resampler = adaptive_systematic,
) -> Algorithm:
    """A sampler of n particles, which are positions, whose generation t has seen y_0 to y_t.

    Target: gamma_t, by its weighted particles; E[exp(log_evidence)] = p(y_0:t) exactly, for every n
    and every kernel that does not look at the particles, if the times of resampling do not look at
    them either, as with `every(k)`. Particles are moved only in problems that were resampled: at
    times that depend on them (`ess_below`, the default) that has a bias of order 1/n. Nothing is
    computed if no problem was (not under `vmap`); `Info.kernel` is zero where nothing moved. A
    density that a kernel asks for costs all num_observations likelihoods at once, whatever t. Raises
    `ValueError` for n < 1, no observation, a raw key, or likelihoods that are not one number; `run`
    does for more generations than observations.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> y = jnp.array([1, 0, 1, 1])
    >>> coin = smc.PartialPosteriors(
    ...     sample_prior=lambda key: jax.random.uniform(key),
    ...     log_prior=lambda x: jnp.where((x > 0) & (x < 1), 0.0, -jnp.inf),
    ...     log_likelihood=lambda x, t: jnp.log(jnp.where(y[t] == 1, x, 1 - x)),
    ...     num_observations=4,
    ... )
    >>> algorithm = smc.ibis(coin, 1000, smc.random_walk(0.2))
    >>> state, _ = smc.run(jax.random.key(0), algorithm, 4)
    >>> exact = jnp.log(1 / 20)  # B(4, 2)
    >>> bool(jnp.abs(state.log_evidence - exact) < 0.1)
    True
    """
    n = require_count("n", n)
    require_plain(resampler)
    fix = "give it sample_prior, log_prior, log_likelihood(x, t) and num_observations"
    require_a("posteriors", posteriors, PartialPosteriors, fix)
    require_function("kernel", kernel, "key, x, log_density", "such as smc.random_walk(0.5)")
    last = require_count("posteriors.num_observations", posteriors.num_observations)
    log_likelihood = indexed("posteriors.log_likelihood", posteriors.log_likelihood)
    posteriors = posteriors._replace(log_likelihood=log_likelihood)
    move = partial(_moved, kernel, posteriors)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        _, k_move = split_in_two(key)
        keys = particle_keys(k_move, n)
        state = start(key, vmap_axes(posteriors.sample_prior, keys.ndim)(keys), n)
        stay = per_problem(key, jnp.arange(n, dtype=jnp.int32))
        none = untold(key, lambda k, s: move(k, s)[1], keys, state)
        return _weighed(posteriors, state, stay, per_problem(key, jnp.array(False)), none)

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        state, ancestors, resampled, keys = resample(key, state, resampler)
        stay = state.particles, untold(key, lambda k, s: move(k, s)[1], keys, state)
        moved = jax.lax.cond(jnp.any(resampled), lambda: move(keys, state), lambda: stay)
        x, told = select(resampled, moved, stay)
        return _weighed(posteriors, state._replace(particles=x), ancestors, resampled, told)

    because = f"there are {last} observations"
    return bounded(Algorithm(init, step), Horizon(at_most=last, because=because))


def _moved(
    kernel: Kernel, posteriors: PartialPosteriors, keys: Key[Array, "*batch n"], state: State
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Every particle after one transition that leaves gamma_t-1 invariant, and how it went."""

    def of_one(
        key: Key[Array, ""], x: PyTree[Array], t: Int[Array, ""]
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        def log_density(x: PyTree[Array]) -> Float[Array, ""]:
            # All of them, and not a loop to t: that would have no gradient.
            each = jnp.arange(posteriors.num_observations, dtype=jnp.int32)
            terms = jax.vmap(lambda s: posteriors.log_likelihood(x, s))(each)
            return posteriors.log_prior(x) + total(jnp.where(each < t, terms, 0.0))

        return moved_by(kernel, key, x, log_density)

    t = jnp.broadcast_to(state.t[..., None], keys.shape)
    return vmap_axes(of_one, keys.ndim)(keys, state.particles, t)


def _weighed(
    posteriors: PartialPosteriors,
    state: State,
    ancestors: Int[Array, "*batch n"],
    resampled: Bool[Array, "*batch"],
    told: PyTree[Array],
) -> tuple[State, Info]:
    shape = state.log_weights.shape
    t = jnp.broadcast_to(state.t[..., None], shape)
    log_g = vmap_axes(posteriors.log_likelihood, len(shape))(state.particles, t)
    if log_g.shape != shape:
        raise ValueError(
            f"posteriors.log_likelihood: got shape {log_g.shape[len(shape) :]} for one particle "
            "and one observation, want one number"
        )
    state, info = weighed(state, log_g, ancestors, resampled)
    return state, info._replace(kernel=told)
