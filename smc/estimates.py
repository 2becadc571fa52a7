"""How far an estimate of the evidence can be trusted: its variance from one run, and two bounds.

    V = 1 - (N / (N - 1))^(r + 1) sum_{i, j of different eves} W_i W_j    E[Z_hat^2 V] = Var[Z_hat]
    E[log Z_hat] <= log Z <= E*[log Z_hat]        E* by conditional SMC around an exact draw

r counts the resamplings. References: Lee and Whiteley (2018), Variance estimation in the particle
filter, theorem 1, after Chan and Lai (2013); Grosse, Ghahramani and Adams (2015), Sandwiching the
marginal likelihood using bidirectional Monte Carlo, section 3. Knows nothing of models.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pfjax.smc._axes import vmap_axes
from pfjax.smc.weights import log_sum_exp, prefix_sum


class EvidenceBounds(NamedTuple):
    """Means of log Z_hat over forward runs (below log Z) and conditional runs (above it)."""

    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    lower_error: Float[Array, "*batch"]
    upper_error: Float[Array, "*batch"]


def mean_log_evidence(log_evidence: Float[Array, "runs *batch"]) -> Float[Array, "*batch"]:
    """log of the mean of Z_hat over independent runs, which is unbiased for Z as each of them is.

    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(mean_log_evidence(jnp.log(jnp.array([1.0, 2.0, 6.0]))))), 4)
    3.0
    """
    num_runs = jnp.float32(log_evidence.shape[0])
    return log_sum_exp(jnp.moveaxis(log_evidence, 0, -1)) - jnp.log(num_runs)


def relative_variance(
    log_weights: Float[Array, "*batch n"],
    eves: Int[Array, "*batch n"],
    num_resamplings: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """V, the estimate from one run of Var[Z_hat / Z], and so nearly of Var[log Z_hat].

    `log_weights` and `eves` are of one generation (`State.log_weights`; a row of `eve_indices`),
    and `num_resamplings` is the number of resamplings up to it (the sum of `Info.resampled`).
    E[Z_hat^2 V] = Var[Z_hat] exactly for multinomial resampling at fixed times, for every N. Other
    schemes and adaptive times have no such proof here. V may be negative, is 1 once all particles
    have one eve, or are dead, and says little long before that. Raises `ValueError` for one
    particle.

    >>> import jax.numpy as jnp
    >>> log_w = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    >>> round(float(relative_variance(log_w, jnp.array([0, 0, 2, 3]), jnp.int32(0))), 4)
    0.12
    """
    num_resamplings = jnp.asarray(num_resamplings)
    if num_resamplings.shape != log_weights.shape[:-1] or eves.shape != log_weights.shape:
        raise ValueError(
            f"num_resamplings, eves: got shapes {num_resamplings.shape} and {eves.shape} for weights of "
            f"shape {log_weights.shape}, want one generation: a row of eve_indices, and "
            "infos.resampled.sum(0)"
        )
    n = log_weights.shape[-1]
    if n < 2:
        raise ValueError(f"log_weights: got {n} particle, want at least 2 to see any variance")

    def pairs(w: Float[Array, "n"], eve: Int[Array, "n"]) -> tuple[Array, Array]:
        """Weight of the pairs of one eve and of two; the factor of the second may be huge."""
        family = jnp.zeros_like(w).at[eve].add(w)
        before = jnp.concatenate([jnp.zeros_like(w[:1]), prefix_sum(family)[:-1]])
        return prefix_sum(family**2)[-1], 2 * prefix_sum(family * before)[-1]

    same, different = vmap_axes(pairs, eves.ndim - 1)(jnp.exp(log_weights), eves)
    generations = (num_resamplings + 1).astype(log_weights.dtype)
    # 1 - c different, without the cancellation of two numbers near 1.
    excess = jnp.expm1(-generations * jnp.log1p(-1 / jnp.float32(n)))
    dead = jnp.all(jnp.isneginf(log_weights), axis=-1)
    return jnp.where(dead, 1.0, same - excess * different)


def evidence_bounds(
    forward: Float[Array, "runs *batch"], conditional: Float[Array, "runs *batch"]
) -> EvidenceBounds:
    """A sandwich of log Z, with standard errors, from the log-evidences of independent runs.

    `forward` are those of any unbiased algorithm: E[log Z_hat] <= log Z by Jensen. `conditional`
    are those of conditional SMC around a path that is an exact draw from the target, a fresh one
    for each run: then E[1 / Z_hat] = 1 / Z, so E[log Z_hat] >= log Z. A reference path that is only
    nearly exact gives no bound. The gap is the sum of two divergences and closes as N grows.
    Raises `ValueError` for a single run. A model with exact draws, and 100 runs of both kinds:

    >>> import jax
    >>> from pfjax import smc
    >>> table = jnp.log(jnp.array([[0.8, 0.2], [0.3, 0.7]]))
    >>> hmm, seen = smc.HiddenMarkov(table[0], table, table), jnp.array([0, 1, 1, 0])
    >>> model = smc.hidden_markov(hmm, seen)
    >>> key, k_path = jax.random.split(jax.random.key(0))
    >>> paths = jax.vmap(lambda key: smc.posterior_path(key, hmm, seen), out_axes=1)(
    ...     jax.random.split(k_path, 100)
    ... )
    >>> keys = jax.random.split(key, 200)
    >>> below, _ = smc.run(keys[:100], smc.particle_filter(model, 8), 4)
    >>> above, _ = smc.run(keys[100:], smc.conditional_particle_filter(model, 8, paths), 4)
    >>> bounds = evidence_bounds(below.log_evidence, above.log_evidence)
    >>> bool(bounds.lower < smc.forward_algorithm(hmm, seen)[0][-1] < bounds.upper)
    True
    """

    def error(x: Float[Array, "runs *batch"]) -> Float[Array, "*batch"]:
        dead = jnp.any(jnp.isneginf(x), axis=0)
        spread = jnp.std(jnp.where(dead[None], 0.0, x), axis=0, ddof=1)
        return jnp.where(dead, jnp.inf, spread / jnp.sqrt(jnp.float32(x.shape[0])))

    for name, x in (("forward", forward), ("conditional", conditional)):
        if x.shape[0] < 2:
            raise ValueError(f"{name}: got {x.shape[0]} runs, want at least 2 for a standard error")
    return EvidenceBounds(
        jnp.mean(forward, axis=0), jnp.mean(conditional, axis=0), error(forward), error(conditional)
    )
