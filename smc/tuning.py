"""Kernels tuned from the particles: their spread sets the shape, the rate accepted the step.

    W-weighted mean m, covariance C of x_t-1     K_t-1 = build(spread, e)     x_t ~ K_t-1(x_t-1[A], .)
    log e' = log e + gain (mean acceptance of this move - target_rate)

Reference: Fearnhead and Taylor (2013), An adaptive sequential Monte Carlo sampler, section 2.2, for
the spread; Andrieu and Thoms (2008), A tutorial on adaptive MCMC, algorithm 4, for the step size.
Knows nothing of temperatures or of any kernel.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, split_in_two, vmap_axes
from pfjax.smc._calls import resampled_by
from pfjax.smc._checks import kind, require_a, require_plain
from pfjax.smc.kernels import Kernel
from pfjax.smc.particle_filter import gather
from pfjax.smc.samplers import Posterior, Rejuvenate, Tempered, move
from pfjax.smc.types import Resampler, State
from pfjax.smc.weights import normalise, total
from pfjax.smc.wrappers import adaptive_systematic

_Moved = tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], PyTree[Array]]


class Spread(NamedTuple):
    """Where weighted particles are: trees like one position, and d x d of the ravelled position.

    In float32. `std` is the root of the variance, not of the covariance; 0 where all particles that
    have weight agree, and everything is 0 if none has.
    """

    mean: PyTree[Array]
    std: PyTree[Array]
    covariance: Float[Array, "*batch d d"]


class Tuned(NamedTuple):
    """All that a tuned kernel is built from."""

    spread: Spread
    step_size: Float[Array, "*batch"]


Build = Callable[[Spread, Float[Array, ""]], Kernel]


def tuning(state: State) -> Tuned:
    """What `tuned_move` will build the next kernel from: as `collect`, what `frozen_move` wants.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> x = smc.Tempered(jnp.array([1.0, 5.0, 9.0]), *jnp.ones((4, 3)))
    >>> state = smc.start(jax.random.key(0), x, 3)
    >>> state = state._replace(log_weights=jnp.log(jnp.array([0.5, 0.5, 0.0])))
    >>> spread, step_size = tuning(state)
    >>> float(spread.mean), float(spread.std), spread.covariance.tolist(), float(step_size)
    (3.0, 2.0, [[4.0]], 1.0)
    """
    x: Tempered = state.particles
    spread = vmap_axes(_spread, state.t.ndim)(x.position, state.log_weights)
    return Tuned(spread, x.step_size[..., 0])


def tuned_move(
    build: Build,
    resampler: Resampler = adaptive_systematic,
    *,
    target_rate: float = 0.234,
    gain: float = 1.0,
) -> Rejuvenate:
    """`resample_move` whose kernel is built anew for every problem in every generation.

    `build(spread, step_size)` returns the kernel of one problem: the spread is that of its weighted
    particles before they are resampled; the step size starts at 1 and goes up by `gain` (on the log
    scale) times what the acceptance rate, averaged with the weights left, is above `target_rate`
    (0.234 is for random walks in many dimensions; MALA wants 0.57, HMC 0.65 to 0.8).

    Target: that of the sampler, consistently. As every kernel depends on the particles it moves, the
    evidence is biased at finite n; it is unbiased when run again with what was found held fixed:

        found = smc.run(key, algorithm, num_steps, collect=lambda state, _: smc.tuning(state))[1]
        again = smc.tempering(posterior, n, schedule, smc.frozen_move(build, found))

    Raises `ValueError` for a target rate outside (0, 1), a negative gain, or a kernel that does not
    tell its `acceptance_rate`, as `KernelInfo` does.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> posterior = smc.Posterior(
    ...     sample_prior=lambda key: 1e3 * jax.random.normal(key),
    ...     log_prior=lambda x: -0.5e-6 * x**2,
    ...     log_likelihood=lambda x: -0.5 * (x - 3.0) ** 2,
    ... )
    >>> def build(spread, step_size):
    ...     return smc.random_walk(2 * step_size * spread.std)
    >>> algorithm = smc.adaptive_tempering(posterior, 500, smc.tuned_move(build), fraction=0.5)
    >>> state, _ = smc.run_until(jax.random.key(0), algorithm, smc.at_posterior, 40)
    >>> bool(0.5 < smc.tuning(state).spread.std < 2.0)
    True
    """
    require_plain(resampler)
    if not 0 < target_rate < 1:
        raise ValueError(f"target_rate: got {target_rate}, want a number between 0 and 1")
    if not gain >= 0:
        raise ValueError(f"gain: got {gain}, want a number >= 0; 0 keeps the step size at 1")

    def rejuvenate(key: Key[Array, "*batch"], state: State, posterior: Posterior) -> _Moved:
        moved = _move(key, state, posterior, build, tuning(state), resampler)
        state, ancestors, resampled, told = moved
        x: Tempered = state.particles
        # Without a live particle the excess is 0: nothing is learnt.
        share = jnp.exp(normalise(state.log_weights)).astype(jnp.float32)
        excess = total(share * (_rates(told, share.shape) - target_rate))
        step_size = x.step_size * jnp.exp(gain * excess)[..., None]
        state = state._replace(particles=x._replace(step_size=step_size))
        return state, ancestors, resampled, told

    return rejuvenate


def frozen_move(
    build: Build, found: Tuned, resampler: Resampler = adaptive_systematic
) -> Rejuvenate:
    """`resample_move` with the kernel `build(*found[t - 1])` in generation t, the same in all problems.

    Leaves E[exp(log_evidence)] exact, as the kernels are fixed before the run. `found` has a row per
    generation, from a run of one problem; the last row stays.
    """
    require_plain(resampler)
    require_a("found", found, Tuned, "collect it with smc.tuning")
    found = jax.tree.map(jnp.asarray, found)
    if found.step_size.ndim != 1:
        raise ValueError(
            f"found: got step sizes of shape {found.step_size.shape}, want [steps], from a run of one "
            "problem; take one of several with jax.tree.map(lambda a: a[:, i], found)"
        )

    def rejuvenate(key: Key[Array, "*batch"], state: State, posterior: Posterior) -> _Moved:
        read = vmap_axes(lambda t: jax.tree.map(lambda rows: rows[t], found), state.t.ndim)
        return _move(key, state, posterior, build, read(state.t - 1), resampler)

    return rejuvenate


def _move(
    key: Key[Array, "*batch"],
    state: State,
    posterior: Posterior,
    build: Build,
    tuned: Tuned,
    resampler: Resampler,
) -> _Moved:
    k_resample, k_move = split_in_two(key)
    ancestors, left, resampled = resampled_by(resampler, k_resample, state.log_weights, state.t)
    keys = particle_keys(k_move, left.shape[-1])

    def of_problem(
        tuned: Tuned, keys: Key[Array, "n"], x: Tempered
    ) -> tuple[Tempered, PyTree[Array]]:
        kernel = build(*tuned)
        return jax.vmap(lambda k, row: move(kernel, posterior, k, row))(keys, x)

    x = gather(state.particles, ancestors)
    x, told = vmap_axes(of_problem, key.ndim)(tuned, keys, x)
    return state._replace(particles=x, log_weights=left), ancestors, resampled, told


def _rates(told: PyTree[Array], shape: tuple[int, ...]) -> Float[Array, "*batch n"]:
    rate = getattr(told, "acceptance_rate", None)
    if rate is None or jnp.shape(rate) != shape:
        raise ValueError(
            f"kernel: got {kind(told)} as what it tells, want an `acceptance_rate`, one number; "
            "write `return x, smc.KernelInfo(rate, step_size)`"
        )
    return jnp.where(rate >= 0, jnp.minimum(rate, 1.0), 0.0).astype(jnp.float32)


def _spread(position: PyTree[Array], log_w: Float[Array, "n"]) -> Spread:
    leaves, tree = jax.tree.flatten(position)
    w = jnp.exp(log_w).astype(jnp.float32)[None]
    flat = [leaf.astype(jnp.float32).reshape(leaf.shape[0], -1).T for leaf in leaves]
    # A dead particle may be anywhere, and 0 * inf is no number.
    rows = jnp.where(w > 0, jnp.concatenate(flat), 0.0)
    mean = total(w * rows)
    centred = jnp.where(w > 0, rows - mean[:, None], 0.0)
    std = jnp.sqrt(total(w * centred**2))
    # A row at a time: d d n numbers at once would not fit.
    covariance = jax.lax.map(lambda row: total(w * row[None] * centred), centred)

    ends = list(accumulate(part.shape[0] for part in flat))[:-1]

    def as_position(vector: Float[Array, "d"]) -> PyTree[Array]:
        parts = jnp.split(vector, ends)
        return tree.unflatten(p.reshape(x.shape[1:]) for p, x in zip(parts, leaves, strict=True))

    return Spread(as_position(mean), as_position(std), covariance)
