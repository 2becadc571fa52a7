"""The last line of every step: multiply the weights, add to the evidence, normalise.

    L_t = L_t-1 sum_i w_left^i G_t^i    W_t^i = w_left^i G_t^i / sum_j w_left^j G_t^j

Reference: Doucet and Johansen (2009), A tutorial on particle filtering and smoothing, section 3.5.
Knows nothing of how the particles or the potentials came about.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pfjax.smc.types import ALL_DEAD, OK, Info, State
from pfjax.smc.weights import effective_sample_size, log_sum_exp, normalise


def weighed(
    state: State,
    log_g: Float[Array, "*batch n"],
    ancestors: Int[Array, "*batch n"],
    resampled: Bool[Array, "*batch"],
) -> tuple[State, Info]:
    """The state whose log-weights are what is left, multiplied by G and normalised."""
    log_w = state.log_weights + log_g
    increment = log_sum_exp(log_w)
    info = Info(
        ancestors=ancestors,
        ess=effective_sample_size(log_w),
        resampled=resampled,
        log_evidence_increment=increment,
        status=status(increment),
    )
    state = state._replace(
        log_weights=normalise(log_w), log_evidence=state.log_evidence + increment
    )
    return state, info


def status(increment: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """`ALL_DEAD` where the evidence is multiplied by 0."""
    return jnp.where(jnp.isneginf(increment), jnp.int32(ALL_DEAD), jnp.int32(OK))


def require_shape(log_g: Float[Array, "..."], shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless there is one log G per particle."""
    if log_g.shape != shape:
        raise ValueError(
            f"model.weigh: got log G of shape {log_g.shape}, want {shape}; "
            "return one number per particle, and one particle axis after the axes of the key"
        )
