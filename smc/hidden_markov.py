"""A reference model with exact answers: the finite hidden Markov model and its forward algorithm.

    alpha_t(x) = G_t(x) sum_x' alpha_t-1(x') M(x', x)      psi_t(x) = sum_x' M(x, x') G_t+1(x') psi_t+1(x')
    L_t = sum_x alpha_t(x)                                 p(x_t | all y) = alpha_t(x) psi_t(x) / L_T

Reference: Rabiner (1989), A tutorial on hidden Markov models, section III. All in log space; -inf
is a legal log-probability. The exact functions take one series. Knows nothing of learning.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from pfjax.smc._checks import require_a
from pfjax.smc.guided import Draw, Proposal, lift_proposal
from pfjax.smc.state_space import state_space
from pfjax.smc.types import FeynmanKac
from pfjax.smc.weights import log_sum_exp, normalise


class HiddenMarkov(NamedTuple):
    """Log-probabilities of the first state, of moves [from, to], and of symbols [state, symbol]."""

    log_initial: Float[Array, "k"]
    log_transition: Float[Array, "k k"]
    log_emission: Float[Array, "k m"]


def hidden_markov(parameters: HiddenMarkov, observations: Int[Array, "steps"]) -> FeynmanKac:
    """The bootstrap model; a particle is the number of its state (int32).

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> log = lambda *rows: jnp.log(jnp.array(rows))
    >>> stay = log([0.7, 0.3], [0.4, 0.6])
    >>> parameters = smc.HiddenMarkov(log(0.6, 0.4), stay, log([0.9, 0.1], [0.2, 0.8]))
    >>> model = smc.hidden_markov(parameters, jnp.array([0, 1, 1]))
    >>> state, _ = smc.run(jax.random.key(0), smc.particle_filter(model, 4096), 3)
    >>> log_evidence, _ = smc.forward_algorithm(parameters, jnp.array([0, 1, 1]))
    >>> bool(abs(state.log_evidence - log_evidence[2]) < 0.05)
    True
    """
    p, observations = parameters, symbols_of(parameters, observations)

    def draw(key: Key[Array, ""], logits: Float[Array, "k"]) -> Int[Array, ""]:
        return jax.random.categorical(key, logits).astype(jnp.int32)

    return state_space(
        initial=lambda key: draw(key, p.log_initial),
        transition=lambda key, x, t: draw(key, p.log_transition[x]),
        log_observation=lambda x, y, t: p.log_emission[x, y],
        observations=observations,
        log_transition=lambda x_prev, x, t: p.log_transition[x_prev, x],
    )


def hidden_markov_proposal(
    parameters: HiddenMarkov,
    observations: Int[Array, "steps"],
    log_psi: Float[Array, "steps k"] | None = None,
) -> Proposal:
    """q_t(x' | x) proportional to M(x, x') G_t(x') psi_t(x'), for `guided`.

    Without psi it is the locally optimal proposal; with the value function, and the model twisted
    by it, every weight is the same. Generations after the last observation are drawn from the model.
    """
    p, observations = parameters, symbols_of(parameters, observations)
    gain = p.log_emission[:, observations].T + (0.0 if log_psi is None else log_psi)

    def draw(key: Key[Array, ""], log_m: Float[Array, "k"], t: Int[Array, ""]) -> Draw:
        logits = log_m + _row(gain, t)
        x = jax.random.categorical(key, logits).astype(jnp.int32)
        # A state without a future can only die; its logits are all -inf.
        total = log_sum_exp(logits)
        return x, total - jnp.where(jnp.isneginf(total), 0.0, _row(gain, t)[x])

    return lift_proposal(
        init=lambda key: draw(key, p.log_initial, jnp.int32(0)),
        propagate=lambda key, x, t: draw(key, p.log_transition[x], t),
    )


def forward_algorithm(
    parameters: HiddenMarkov, observations: Int[Array, "steps"]
) -> tuple[Float[Array, "steps"], Float[Array, "steps k"]]:
    """Exact log p(y_0:t) and log p(x_t | y_0:t), for every t."""
    p, observations = parameters, symbols_of(parameters, observations)

    def step(
        ahead: Float[Array, "k"], y: Int[Array, ""]
    ) -> tuple[Float[Array, "k"], tuple[Float[Array, ""], Float[Array, "k"]]]:
        log_alpha = ahead + p.log_emission[:, y]
        return log_sum_exp((log_alpha[:, None] + p.log_transition).T), (
            log_sum_exp(log_alpha),
            normalise(log_alpha),
        )

    return jax.lax.scan(step, p.log_initial, observations)[1]


def value_function(
    parameters: HiddenMarkov, observations: Int[Array, "steps"]
) -> Float[Array, "steps k"]:
    """Exact log psi_t(x) = log p(y_t+1:T | x_t = x), for every t: the optimal twist.

    >>> import jax.numpy as jnp
    >>> p = HiddenMarkov(jnp.zeros(1), jnp.zeros((1, 1)), jnp.log(jnp.array([[0.5, 0.25]])))
    >>> jnp.exp(value_function(p, jnp.array([0, 0, 1]))).tolist()
    [[0.125], [0.25], [1.0]]
    """
    p, observations = parameters, symbols_of(parameters, observations)

    def step(
        log_psi: Float[Array, "k"], y: Int[Array, ""]
    ) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
        return log_sum_exp(p.log_transition + (p.log_emission[:, y] + log_psi)[None]), log_psi

    first, later = jax.lax.scan(step, jnp.zeros_like(p.log_initial), observations[1:], reverse=True)
    return jnp.concatenate([first[None], later])


def forward_backward(
    parameters: HiddenMarkov, observations: Int[Array, "steps"]
) -> Float[Array, "steps k"]:
    """Exact log p(x_t | all observations), for every t."""
    _, log_filter = forward_algorithm(parameters, observations)
    return normalise(log_filter + value_function(parameters, observations))


def posterior_path(
    key: Key[Array, ""], parameters: HiddenMarkov, observations: Int[Array, "steps"]
) -> Int[Array, "steps"]:
    """One exact draw of x_0:T given all observations: forward, with the value function as twist."""
    p, observations = parameters, symbols_of(parameters, observations)
    gain = p.log_emission[:, observations].T + value_function(p, observations)

    def step(
        log_m: Float[Array, "k"], at: tuple[Int[Array, ""], Float[Array, "k"]]
    ) -> tuple[Float[Array, "k"], Int[Array, ""]]:
        t, log_gain = at
        x = jax.random.categorical(jax.random.fold_in(key, t), log_m + log_gain)
        return p.log_transition[x], x.astype(jnp.int32)

    times = jnp.arange(observations.shape[0], dtype=jnp.int32)
    return jax.lax.scan(step, p.log_initial, (times, gain))[1]


def _row(gain: Float[Array, "steps k"], t: Int[Array, ""]) -> Float[Array, "k"]:
    """Row t, or 0 after the last one."""
    return jnp.where(t < gain.shape[0], gain.at[t].get(mode="clip"), 0.0)


def symbols_of(parameters: HiddenMarkov, observations: Int[Array, "steps"]) -> Int[Array, "steps"]:
    """The symbols as an array; raises `ValueError` unless they are integers that the model emits."""
    require_a("parameters", parameters, HiddenMarkov, "its three tables are of log-probabilities")
    m = parameters.log_emission.shape[-1]
    symbols = jnp.asarray(observations)
    is_known = not isinstance(observations, jax.core.Tracer)
    outside = is_known and not all(0 <= y < m for y in np.ravel(observations))
    if symbols.ndim != 1 or not jnp.issubdtype(symbols.dtype, jnp.integer) or outside:
        raise ValueError(
            f"observations: got {symbols.dtype} of shape {symbols.shape}, want one integer from 0 to "
            f"{m - 1} (the symbols of log_emission) for every generation"
        )
    return symbols.astype(jnp.int32)
