"""SMC^2: a population of static parameters, each with a particle filter of its own.

    w_t^m = w_left^m p_hat(y_t | y_0:t-1, theta^m)    L_t = L_t-1 sum_m w_t^m
    where thetas were resampled: theta^m ~ K(theta^m, .), `pmmh` on generations 0 to t - 1

Reference: Chopin, Jacob and Papaspiliopoulos (2013), SMC^2: an efficient algorithm for sequential
analysis of state space models, section 2.2; n and num_inner are its N_theta and N_x. Knows nothing
of how num_inner is chosen, nor of proposals that look at the population.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from pfjax.smc._axes import (
    fold_in,
    particle_keys,
    per_problem,
    require_typed,
    select,
    split_in,
    split_in_two,
    vmap_axes,
)
from pfjax.smc._calls import resampled_by
from pfjax.smc._checks import require_a, require_count, require_plain
from pfjax.smc._weighing import not_finite, start, weighed
from pfjax.smc.model_family import ModelFamily, ThetaProposal, as_proposal, model_at, proposed
from pfjax.smc.particle_filter import gather, particle_filter
from pfjax.smc.pmmh import MarginalMove, accept, chain_of
from pfjax.smc.types import NOT_FINITE, Algorithm, Info, Resampler, State
from pfjax.smc.wrappers import adaptive_systematic


class ThetaParticle(NamedTuple):
    """A theta and the state of its filter, whose log-evidence is log p_hat(y_0:t | theta)."""

    theta: PyTree[Array]
    filter: State


def smc_squared(
    family: ModelFamily,
    n: int,
    num_inner: int,
    proposal: float | PyTree[Array] | ThetaProposal,
    resampler: Resampler = adaptive_systematic,
    *,
    inner_resampler: Resampler = adaptive_systematic,
    num_moves: int = 1,
) -> Algorithm:
    """n thetas, each with a filter of num_inner particles; particles are `ThetaParticle`.

    Target: p(theta, x_0:t | y_0:t) for every t. E[exp(log_evidence)] = p(y_0:t) exactly, for every n
    and num_inner, if the times of resampling do not look at the particles, as with `every(k)`;
    moves at times that do (`ess_below`, the default) have a bias of order 1/n. `proposal` as in `pmmh`.
    Where thetas were resampled each makes num_moves moves, whose filters start anew and run to
    generation t - 1: a run of T generations that resamples r times costs O(r T n num_inner) more.
    `Info.kernel` has the `MarginalMove` of the last move, zero where there was none. Raises
    `ValueError` for n, num_inner or num_moves < 1, a raw key, or what `pmmh` refuses.

    >>> import jax, jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from pfjax import smc
    >>> y = jnp.array([0.3, -0.2, 1.1])
    >>> family = smc.ModelFamily(
    ...     sample_prior=lambda key: jax.random.normal(key),
    ...     log_prior=lambda a: norm.logpdf(a),
    ...     model=lambda a: smc.lift(
    ...         init=lambda key: jax.random.normal(key),
    ...         propagate=lambda key, x, t: a * x + jax.random.normal(key),
    ...         log_potential=lambda x, t: norm.logpdf(y[t], x, 1.0),
    ...     ),
    ... )
    >>> state, infos = smc.run(jax.random.key(0), smc.smc_squared(family, 16, 32, 0.5), 3)
    >>> state.particles.theta.shape, state.particles.filter.particles.shape
    ((16,), (16, 32))
    """
    n, num_inner = require_count("n", n), require_count("num_inner", num_inner)
    num_moves = require_count("num_moves", num_moves)
    require_plain(resampler)
    fix = "give it sample_prior, log_prior and model, functions of one theta"
    require_a("family", family, ModelFamily, fix)
    require_plain(inner_resampler, "inner_resampler")
    propose = as_proposal(proposal)

    def inner(theta: PyTree[Array], num_axes: int) -> Algorithm:
        return particle_filter(model_at(family, theta, num_axes), num_inner, inner_resampler)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        k_theta, k_filter = split_in_two(key)
        k_theta, k_filter = particle_keys(k_theta, n), particle_keys(k_filter, n)
        theta = vmap_axes(family.sample_prior, k_theta.ndim)(k_theta)
        filters, info = inner(theta, k_theta.ndim).init(k_filter)
        stay = per_problem(key, jnp.arange(n, dtype=jnp.int32))
        state = start(key, ThetaParticle(theta, filters), n)
        return _weigh(state, info, stay, per_problem(key, jnp.array(False)), _no_move(filters))

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_resample, k_move, k_filter = split_in(3, key)
        t = state.t + 1
        ancestors, left, resampled = resampled_by(resampler, k_resample, state.log_weights, t)
        x: ThetaParticle = gather(state.particles, ancestors)
        x, told = rejuvenate(k_move, x, resampled)
        filters, info = inner(x.theta, t.ndim + 1).step(particle_keys(k_filter, n), x.filter)
        x = x._replace(filter=filters)
        state = state._replace(particles=x, log_weights=left, t=t)
        return _weigh(state, info, ancestors, resampled, told)

    def rejuvenate(
        key: Key[Array, "*batch"], x: ThetaParticle, resampled: Bool[Array, "*batch"]
    ) -> tuple[ThetaParticle, MarginalMove]:
        keys = particle_keys(key, n)
        moving = jnp.broadcast_to(resampled[..., None], keys.shape)

        def move(
            i: Int[Array, ""], at: tuple[ThetaParticle, MarginalMove]
        ) -> tuple[ThetaParticle, MarginalMove]:
            return moved(fold_in(keys, i), at[0], moving)

        # No move, and no filter, where no problem was resampled.
        trips = jnp.where(jnp.any(resampled), jnp.int32(num_moves), jnp.int32(0))
        return jax.lax.fori_loop(jnp.int32(0), trips, move, (x, _no_move(x.filter)))

    def moved(
        keys: Key[Array, "*batch n"], x: ThetaParticle, moving: Bool[Array, "*batch n"]
    ) -> tuple[ThetaParticle, MarginalMove]:
        k_propose, k_filter, k_accept = split_in(3, keys)
        theta, log_q = proposed(propose, k_propose, x.theta)
        until = jnp.where(moving, x.filter.t, 0)
        filters = _run_until(k_filter, inner(theta, keys.ndim), until)
        new, old = chain_of(family, theta, filters), chain_of(family, x.theta, x.filter)
        accepted, rate = accept(k_accept, new, old, log_q)
        told = MarginalMove(rate, accepted, new.log_evidence, filters.status)
        x = select(accepted & moving, ThetaParticle(theta, filters), x)
        return x, select(moving, told, _no_move(x.filter))

    return Algorithm(init, step)


def _run_until(
    key: Key[Array, "*batch n"], algorithm: Algorithm, until: Int[Array, "*batch n"]
) -> State:
    """New filters in generation `until`, each in its own."""

    def advance(t: Int[Array, ""], state: State) -> State:
        return select(t <= until, algorithm.step(fold_in(key, t), state)[0], state)

    first = algorithm.init(fold_in(key, 0))[0]
    return jax.lax.fori_loop(jnp.int32(1), jnp.max(until) + 1, advance, first)


def _weigh(
    state: State,
    inner: Info,
    ancestors: Int[Array, "*batch n"],
    resampled: Bool[Array, "*batch"],
    told: MarginalMove,
) -> tuple[State, Info]:
    """Weighs each theta by the evidence that its filter has just found."""
    is_broken = state.particles.filter.status & NOT_FINITE > 0
    state = state._replace(status=state.status | not_finite(is_broken))
    state, info = weighed(state, inner.log_evidence_increment, ancestors, resampled)
    return state, info._replace(kernel=told)


def _no_move(filters: State) -> MarginalMove:
    zero = jnp.zeros_like(filters.log_evidence)
    return MarginalMove(zero, zero > 0, zero, jnp.zeros_like(filters.status))
