"""The first and the last line of every step: equal weights; multiply, add to the evidence, normalise.

    L_t = L_t-1 sum_i w_left^i G_t^i    W_t^i = w_left^i G_t^i / sum_j w_left^j G_t^j

The largest log G is taken out before anything is rounded, and log L_t is summed with compensation
(Knuth 1998, The Art of Computer Programming 2, theorem 4.2.2 B), so that neither weights nor
evidence lose digits where log G is large. A particle whose log G is NaN or +inf dies.
Reference: Doucet and Johansen (2009), A tutorial on particle filtering and smoothing, section 3.5.
Knows nothing of how the particles or the potentials came about.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import per_problem
from pfjax.smc.types import ALL_DEAD, NOT_FINITE, OK, Info, State
from pfjax.smc.weights import add_exactly, dtype_of, effective_sample_size, log_sum_exp, normalise


def start(key: Key[Array, "*batch"], particles: PyTree[Array], n: int) -> State:
    """n equally weighted particles of generation 0, not weighed yet; of the key only the axes count.

    >>> import jax
    >>> state = start(jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 4)), 4)
    >>> jnp.exp(state.log_weights[0]).tolist(), state.t.tolist()
    ([0.25, 0.25, 0.25, 0.25], [0, 0])
    """
    nothing = per_problem(key, jnp.float32(0))
    # The barrier: XLA adds constants to one another first, and log G - peak must be first.
    log_share = jax.lax.optimization_barrier(-jnp.log(jnp.float32(n)))
    return State(
        particles=particles,
        log_weights=per_problem(key, jnp.full(n, log_share)),
        log_evidence=nothing,
        t=per_problem(key, jnp.int32(0)),
        evidence_error=nothing,
        status=per_problem(key, jnp.int32(OK)),
    )


def weighed(
    state: State,
    log_g: Float[Array, "*batch n"],
    ancestors: Int[Array, "*batch n"],
    resampled: Bool[Array, "*batch"],
) -> tuple[State, Info]:
    """The state whose log-weights are what is left, multiplied by G and normalised."""
    state, log_w, increment = multiplied(state, log_g)
    info = Info(
        ancestors=ancestors,
        ess=effective_sample_size(log_w),
        resampled=resampled,
        log_evidence_increment=increment,
        status=state.status,
    )
    return state._replace(log_weights=normalise(log_w)), info


def multiplied(
    state: State, log_g: Float[Array, "*batch n"]
) -> tuple[State, Float[Array, "*batch n"], Float[Array, "*batch"]]:
    """The state with evidence and status after G, the new log-weights up to a factor, the increment.

    The weights of the state are still those before.
    """
    dtype = dtype_of(log_g)
    log_w, peak, is_broken = shifted(state.log_weights.astype(dtype), log_g.astype(dtype))
    rest = log_sum_exp(log_w)
    status = state.status | not_finite(is_broken)
    status = status | ALL_DEAD * jnp.isneginf(rest).astype(jnp.int32)
    total, error = add_exactly(state.log_evidence, state.evidence_error, peak, rest)
    state = state._replace(log_evidence=total, evidence_error=error, status=status)
    return state, log_w, peak + rest


def shifted(
    left: Float[Array, "*batch n"], log_g: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch"], Bool[Array, "*batch n"]]:
    """Log-weights w G / exp(peak), that peak (the largest log G of a live particle), what is broken.

    Broken are live particles whose log G is NaN or +inf, or what is left of whose weight is; they die.
    """
    is_dead = jnp.isneginf(left)
    is_broken = ~is_dead & ~((left < jnp.inf) & (log_g < jnp.inf))
    out = is_dead | is_broken
    log_g = jnp.where(out, -jnp.inf, log_g)
    peak = jax.lax.stop_gradient(jnp.max(log_g, axis=-1))
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return jnp.where(out, 0.0, left) + (log_g - peak[..., None]), peak, is_broken


def not_finite(is_broken: Bool[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """The bit `NOT_FINITE` of problems with a particle that is broken."""
    return NOT_FINITE * jnp.any(is_broken, axis=-1).astype(jnp.int32)
