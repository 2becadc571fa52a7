"""Models with the same kernels and other potentials: what the particles are steered towards.

    twist             G'_t = G_t psi_t(x_t) / psi_t-1(x_t-1)          psi_-1 = psi_last = 1
    power             G'_t = G_t p_t^alpha / q_t                      q_t the kernel that draws
    tempered_target   G'_t = G_t^beta

References: Whiteley and Lee (2014), Twisted particle filters, section 3; Naesseth, Lindsten and
Schon (2019), Elements of sequential Monte Carlo, section 3.2; Del Moral, Doucet and Jasra (2006),
Sequential Monte Carlo samplers. Knows nothing of how psi or the log-probabilities are computed.
All functions are batched over particles: `per_particle` makes one from a function of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import per_problem
from pfjax.smc._checks import require_count, require_function, require_model
from pfjax.smc.types import FeynmanKac
from pfjax.smc.weights import dtype_of, log_ratio

Score = Callable[[PyTree[Array], Int[Array, "*batch"]], Float[Array, "*batch n"]]
Schedule = Callable[[Int[Array, "*batch"]], Float[Array, "*batch"]]


class Scored(NamedTuple):
    """Particles `x` of the model, their score, and that of their parents one generation before."""

    x: PyTree[Array]
    score: Float[Array, "*batch n"]
    parent_score: Float[Array, "*batch n"]


def twist(model: FeynmanKac, log_psi: Score, horizon: int) -> FeynmanKac:
    """Twisted potentials over generations 0 to horizon - 1; particles become `Scored`.

    Target: Q_t psi_t up to generation horizon - 2, and from horizon - 1 on that of `model`,
    evidence included, for every psi that is positive where the future is possible. `log_psi(x, t)`
    sees the particles after `model.weigh`. With psi_t(x) = E[prod_s>t G_s | x_t = x] and `guided`
    by q_t proportional to M_t G_t psi_t, every weight is the same and the evidence exact.

    Raises `ValueError` for a horizon below 1.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jnp.float32(2.0),
    ...     propagate=lambda key, x, t: x,
    ...     log_potential=lambda x, t: jnp.where(t == 3, x, 0.0),
    ... )
    >>> early = smc.twist(model, lambda x, t: 0.5 * x, horizon=4)
    >>> infos = smc.run(jax.random.key(0), smc.particle_filter(early, 8), 4)[1]
    >>> infos.log_evidence_increment.round(4).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    require_model(model)
    require_function("log_psi", log_psi, "x, t", "which scores all particles x")
    horizon = require_count("horizon", horizon)

    def score(x: PyTree[Array], t: Int[Array, "*batch"]) -> Float[Array, "*batch n"]:
        psi = _per_particle("log_psi", log_psi(x, t), x, t)
        return jnp.where(t[..., None] >= horizon - 1, 0.0, psi)

    twisted = _telescope(model, score)
    log_m = model.log_transition
    if log_m is None:
        return twisted

    def log_transition(
        x_prev: Scored, x: Scored, t: Int[Array, "*batch"]
    ) -> Float[Array, "*batch n"]:
        log_density = log_m(x_prev.x, x.x, t)
        dtype = dtype_of(log_density, x_prev.score)
        return _gain(log_density.astype(dtype), x_prev.score.astype(dtype))

    return twisted._replace(log_transition=log_transition)


def power(
    model: FeynmanKac,
    alpha: float | Schedule,
    log_prob: Callable[[PyTree[Array]], Float[Array, "*batch n"]],
    log_proposal: Callable[[PyTree[Array]], Float[Array, "*batch n"]] | None = None,
) -> FeynmanKac:
    """Samples p^alpha with particles that carry the log-probability of their own path.

    Target: p(x_0:t)^alpha(t) prod_s G_s(x_s), not normalised, where log p(x_0:t) is `log_prob(x)`
    and `log_proposal(x)` is log q(x_0:t) under the kernels of `model`, which draw; without it the
    model draws from p itself. alpha may be a function of t [*batch]. Particles become `Scored`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> p = jnp.log(jnp.array([0.8, 0.2]))
    >>> model = smc.lift(
    ...     init=lambda key: p[jax.random.categorical(key, p)],
    ...     propagate=lambda key, log_p, t: log_p + p[jax.random.categorical(key, p)],
    ...     log_potential=lambda log_p, t: 0.0,
    ... )
    >>> pf = smc.particle_filter(smc.power(model, 2.0, lambda log_p: log_p), 4096)
    >>> state = smc.run(jax.random.key(0), pf, 2)[0]
    >>> bool(abs(jnp.exp(state.log_evidence) - (0.8**2 + 0.2**2) ** 2) < 0.01)
    True
    """
    require_model(model)
    require_function("log_prob", log_prob, "x", "which scores all particles x")
    log_q = log_prob if log_proposal is None else log_proposal

    def score(x: PyTree[Array], t: Int[Array, "*batch"]) -> Float[Array, "*batch n"]:
        p = _per_particle("log_prob", log_prob(x), x, t)
        return log_ratio(_times(alpha, t, p), _per_particle("log_proposal", log_q(x), x, t))

    return _telescope(model, score)


def tempered_target(model: FeynmanKac, beta: float | Schedule) -> FeynmanKac:
    """Every potential raised to the power beta, or beta(t) for a function of t [*batch].

    Target: M_0 G_0^beta(0) prod_s M_s G_s^beta(s). Dead particles stay dead, for beta = 0 too.
    Keeps everything optional. For *resampling* with tempered weights, which changes no target, wrap
    the resampler instead.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.FeynmanKac(None, None, lambda x, t: (x, jnp.log(x)))
    >>> _, log_g = smc.tempered_target(model, 0.5).weigh(jnp.array([0.0, 9.0]), jnp.int32(0))
    >>> jnp.exp(log_g).round(4).tolist()
    [0.0, 3.0]
    """

    require_model(model)

    def weigh(
        x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> tuple[PyTree[Array], Float[Array, "*batch n"]]:
        x, log_g = model.weigh(x, t)
        return x, _times(beta, t, log_g)

    return model._replace(weigh=weigh)


def _per_particle(
    name: str, score: Float[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"]
) -> Float[Array, "*batch n"]:
    """The score as an array; raises `ValueError` unless it has one number per particle."""
    score = jnp.asarray(score)
    wanted = jnp.shape(jax.tree.leaves(x)[0])[: t.ndim + 1]
    if score.shape != wanted:
        raise ValueError(
            f"{name}: got shape {score.shape} for particles of axes {wanted}, want one number for each; "
            "map a function of one particle with smc.per_particle"
        )
    return score


def _telescope(model: FeynmanKac, score: Score) -> FeynmanKac:
    """G'_t = G_t exp(score_t(x_t) - score_t-1(x_t-1)), and a score of 0 before generation 0."""

    def init(keys: Key[Array, "*batch n"]) -> Scored:
        x = model.init(keys)
        t = per_problem(keys[..., 0], jnp.int32(0))
        seen = jax.eval_shape(lambda x, t: score(model.weigh(x, t)[0], t), x, t)
        zero = per_problem(keys, jnp.zeros((), dtype_of(seen)))
        return Scored(x, zero, zero)

    def propagate(keys: Key[Array, "*batch n"], p: Scored, t: Int[Array, "*batch"]) -> Scored:
        return Scored(model.propagate(keys, p.x, t), p.score, p.score)

    def weigh(p: Scored, t: Int[Array, "*batch"]) -> tuple[Scored, Float[Array, "*batch n"]]:
        x, log_g = model.weigh(p.x, t)
        new = score(x, t).astype(p.score.dtype)
        dtype = dtype_of(log_g, new)
        log_g = log_g.astype(dtype) + _gain(new, p.parent_score).astype(dtype)
        # The parent's score is kept, so that a particle weighed again weighs the same.
        return Scored(x, new, p.parent_score), log_g

    return FeynmanKac(init, propagate, weigh)


def _gain(
    score: Float[Array, "*batch n"], parent_score: Float[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """score - parent_score, where a score of -inf on either side kills."""
    return log_ratio(jnp.where(jnp.isneginf(parent_score), -jnp.inf, score), parent_score)


def _times(
    factor: float | Schedule, t: Int[Array, "*batch"], log_g: Float[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """factor(t) log_g, where a log_g of -inf stays -inf even if the factor is 0."""
    scale = jnp.asarray(factor(t))[..., None].astype(log_g.dtype) if callable(factor) else factor
    dead = jnp.isneginf(log_g)
    return jnp.where(dead, -jnp.inf, scale * jnp.where(dead, 0.0, log_g))
