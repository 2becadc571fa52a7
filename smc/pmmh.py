"""Particle marginal Metropolis-Hastings: static parameters, whose likelihood a filter estimates.

    theta' ~ q(theta, .)    Z' = evidence of a filter for theta'    K ~ W_T-1, its lineage is the path
    accepted with min(1, p(theta') Z' q(theta', theta) / (p(theta) Z q(theta, theta')))

Reference: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods,
section 2.4.2. The old estimate Z is kept, never drawn anew: that makes it exact. A theta' whose
density, estimate or log-ratio is NaN or infinite is refused. Knows nothing of populations of
parameters (`smc_squared`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import require_typed, select, split_in, split_in_two, vmap_axes
from pfjax.smc._checks import require_a, require_count, require_plain
from pfjax.smc._paths import draw_slot, lineage, pick
from pfjax.smc.model_family import (
    ModelFamily,
    ThetaProposal,
    as_proposal,
    model_at,
    prior_at,
    proposed,
)
from pfjax.smc.particle_filter import particle_filter
from pfjax.smc.runners import run
from pfjax.smc.types import Algorithm, Info, Resampler, State
from pfjax.smc.weights import log_ratio, usable
from pfjax.smc.wrappers import adaptive_systematic


class MarginalChain(NamedTuple):
    """A theta with its log-prior, and log Z (as in `State`) and a path of the filter made for it.

    The path is a stack [steps, *batch, ...] or, in models with `rewind`, one particle [*batch, ...].
    """

    theta: PyTree[Array]
    log_prior: Float[Array, "*batch"]
    log_evidence: Float[Array, "*batch"]
    evidence_error: Float[Array, "*batch"]
    path: PyTree[Array]


class MarginalMove(NamedTuple):
    """The probability of acceptance, whether it was accepted, and the log-evidence of theta'.

    `status` is that of the filter for theta'. In generation 0, which is drawn, the first two are 0.
    """

    acceptance_rate: Float[Array, "*batch"]
    accepted: Bool[Array, "*batch"]
    log_evidence: Float[Array, "*batch"]
    status: Int[Array, "*batch"]


def pmmh(
    family: ModelFamily,
    n: int,
    num_steps: int,
    proposal: float | PyTree[Array] | ThetaProposal,
    resampler: Resampler = adaptive_systematic,
) -> Algorithm:
    """The kernel on theta and a path of num_steps generations; its state is a `MarginalChain`.

    Target: leaves p(theta) Q^theta(x_0:T-1) L^theta, T = num_steps, invariant, for every n and every
    unbiased resampler. `proposal` is a `ThetaProposal`, or the scale of a normal step: a number or a
    tree of them like theta. `init(key)` draws theta from the prior, `step` is one iteration, which
    tells a `MarginalMove`; axes of the key are independent chains. A compiled program that does not
    return paths does not store them. Raises `ValueError` for n or num_steps < 1, a raw key, a scale
    for integers, or a proposal that returns something else than a theta.

    >>> import jax, jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from pfjax import smc
    >>> y = jnp.array([0.3, -0.2, 1.1])
    >>> family = smc.ModelFamily(
    ...     sample_prior=lambda key: jax.random.uniform(key),
    ...     log_prior=lambda a: jnp.where((a > 0) & (a < 1), 0.0, -jnp.inf),
    ...     model=lambda a: smc.lift(
    ...         init=lambda key: jax.random.normal(key),
    ...         propagate=lambda key, x, t: a * x + jax.random.normal(key),
    ...         log_potential=lambda x, t: norm.logpdf(y[t], x, 1.0),
    ...     ),
    ... )
    >>> kernel = smc.pmmh(family, 32, 3, 0.3)
    >>> chain, thetas = smc.run(jax.random.key(0), kernel, 100, lambda chain, move: chain.theta)
    >>> thetas.shape, chain.path.shape
    ((100,), (3,))
    """
    n, num_steps = require_count("n", n), require_count("num_steps", num_steps)
    require_plain(resampler)
    fix = "give it sample_prior, log_prior and model, functions of one theta"
    require_a("family", family, ModelFamily, fix)
    propose = as_proposal(proposal)

    def estimate(
        key: Key[Array, "*batch"], theta: PyTree[Array]
    ) -> tuple[MarginalChain, Int[Array, "*batch"], tuple[int, ...]]:
        """Also the status of the filter, and the axes in front of the path's own."""
        k_filter, k_draw = split_in_two(key)
        model = model_at(family, theta, key.ndim)

        def collect(state: State, info: Info) -> tuple[Array, PyTree[Array]]:
            return info.ancestors, state.particles if model.rewind is None else ()

        algorithm = particle_filter(model, n, resampler)
        state, (ancestors, history) = run(k_filter, algorithm, num_steps, collect)
        slot = draw_slot(k_draw, state.log_weights)
        if model.rewind is None:
            slot, particles = lineage(ancestors, slot), history
        else:
            particles = state.particles
        chain = chain_of(family, theta, state)._replace(path=pick(particles, slot))
        return chain, state.status, slot.shape

    def init(key: Key[Array, "*batch"]) -> tuple[MarginalChain, MarginalMove]:
        require_typed(key)
        k_theta, k_filter = split_in_two(key)
        theta = jax.tree.map(jnp.asarray, vmap_axes(family.sample_prior, key.ndim)(k_theta))
        chain, status, _ = estimate(k_filter, theta)
        z = chain.log_evidence
        return chain, MarginalMove(jnp.zeros_like(z), jnp.zeros_like(z, bool), z, status)

    def step(key: Key[Array, "*batch"], chain: MarginalChain) -> tuple[MarginalChain, MarginalMove]:
        require_typed(key)
        k_propose, k_filter, k_accept = split_in(3, key)
        theta, log_q = proposed(propose, k_propose, chain.theta)
        new, status, axes = estimate(k_filter, theta)
        accepted, rate = accept(k_accept, new, chain, log_q)
        path = select(jnp.broadcast_to(accepted, axes), new.path, chain.path)
        rest = select(accepted, new._replace(path=()), chain._replace(path=()))
        return rest._replace(path=path), MarginalMove(rate, accepted, new.log_evidence, status)

    # The shape of an Algorithm, with chains for states.
    return Algorithm(init, step)  # pyright: ignore[reportArgumentType]


def chain_of(family: ModelFamily, theta: PyTree[Array], state: State) -> MarginalChain:
    """Each theta with the scores that its filter gives it, without a path."""
    log_prior = prior_at(family, theta, state.log_evidence)
    return MarginalChain(theta, log_prior, state.log_evidence, state.evidence_error, ())


def accept(
    key: Key[Array, "*batch"],
    new: MarginalChain,
    old: MarginalChain,
    log_q: Float[Array, "*batch"],
) -> tuple[Bool[Array, "*batch"], Float[Array, "*batch"]]:
    """Whether each new theta is accepted, and with which probability it was."""
    z, log_q = new.log_evidence, log_q.astype(new.log_evidence.dtype)
    gain = log_ratio(usable(z), usable(old.log_evidence)) + new.evidence_error - old.evidence_error
    log_a = log_ratio(usable(new.log_prior), usable(old.log_prior)) + gain + log_q
    possible = jnp.isfinite(z) & jnp.isfinite(new.log_prior) & jnp.isfinite(log_q)
    log_a = jnp.where(possible, log_a, -jnp.inf)
    uniform = vmap_axes(lambda k: jax.random.uniform(k, dtype=log_a.dtype), key.ndim)(key)
    return jnp.log(uniform) < log_a, jnp.exp(jnp.minimum(log_a, 0.0))
