"""Smoothing with the particles of a stored filter, whose genealogy is not followed.

    J_T-1 ~ W_T-1      J_t ~ W_t^j m_t+1(x_t^j, x_t+1 of the path)           backward sampling
    W_t|T^i = W_t^i sum_j W_t+1|T^j m_t+1(x_t^i, x_t+1^j) / sum_l W_t^l m_t+1(x_t^l, x_t+1^j)

References: Godsill, Doucet and West (2004), Monte Carlo smoothing for nonlinear time series,
algorithm 1; Doucet, Godsill and Andrieu (2000), On sequential Monte Carlo sampling methods for
Bayesian filtering, section V, for the weights. Consistent as n grows, with a bias of order 1/n;
`backward_gibbs` has none. For models with the Markov property, without `rewind`. Paths that follow
the genealogy are `trajectories`. Knows nothing of how the filter was run.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import fold_in, particle_keys, require_typed
from pfjax.smc._checks import require_count, require_states
from pfjax.smc._paths import draw_slot, repeat
from pfjax.smc.conditional_filter import require_log_transition
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import FeynmanKac, LogTransition, State
from pfjax.smc.weights import log_ratio, log_sum_exp, usable


def backward_sampling(
    key: Key[Array, "*batch"], model: FeynmanKac, states: State, num_paths: int
) -> PyTree[Array]:
    """num_paths paths, leaves [steps, *batch, num_paths, ...], independent given the filter.

    `states` is stacked by `run(..., collect=lambda state, info: state)`, of any filter on the
    particles of `model`. Target: Q_t of the last generation as n goes to infinity. Raises
    `ValueError` for a model without `log_transition`. Costs O(steps n num_paths).

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ...     log_transition=lambda x_prev, x, t: -0.5 * (x - 0.9 * x_prev) ** 2,
    ... )
    >>> pf, collect = smc.particle_filter(model, 64), lambda state, info: state
    >>> _, states = smc.run(jax.random.key(0), pf, 10, collect)
    >>> smc.backward_sampling(jax.random.key(1), model, states, 5).shape
    (10, 5)
    """
    slots = backward_slots(key, model, states, num_paths)
    return jax.vmap(gather)(states.particles, slots)


def smoothing_weights(model: FeynmanKac, states: State) -> Float[Array, "steps *batch n"]:
    """Log-weights with which the particles of every generation target its marginal of Q_T-1.

    `states` and errors as in `backward_sampling`. Nothing is drawn; costs O(steps n^2).
    """
    require_states(states)
    log_m = require_log_transition(model, "smoothing")

    def back(
        carry: tuple[State, Float[Array, "*batch n"]], state: State
    ) -> tuple[tuple[State, Float[Array, "*batch n"]], Float[Array, "*batch n"]]:
        after, log_s = carry
        log_pairs = log_transitions(log_m, state.particles, after.particles, after.t)
        reached = log_sum_exp(state.log_weights[..., None, :] + log_pairs)
        # What no particle can have led to has no past to share its weight with.
        share = usable(log_ratio(log_s[..., None] + log_pairs, reached[..., None]))
        log_s = state.log_weights + log_sum_exp(jnp.swapaxes(share, -1, -2))
        return (state, log_s), log_s

    last = jax.tree.map(lambda leaf: leaf[-1], states)
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    log_s = jax.lax.scan(back, (last, last.log_weights), before, reverse=True)[1]
    return jnp.concatenate([log_s, last.log_weights[None]])


def backward_slots(
    key: Key[Array, "*batch"], model: FeynmanKac, states: State, num_paths: int
) -> Int[Array, "steps *batch num_paths"]:
    """The slots J of the paths; where no past is possible, or all are dead, slot 0."""
    require_typed(key)
    require_states(states)
    num_paths = require_count("num_paths", num_paths)
    log_m = require_log_transition(model, "backward sampling")

    def draw(t: Int[Array, ""], log_w: Float[Array, "*batch m n"]) -> Int[Array, "*batch m"]:
        log_w = jnp.broadcast_to(log_w, (*key.shape, num_paths, log_w.shape[-1]))
        return draw_slot(particle_keys(fold_in(key, t), num_paths), log_w)

    def back(
        carry: tuple[Int[Array, "*batch"], PyTree[Array]], row: tuple[Int[Array, ""], State]
    ) -> tuple[tuple[Int[Array, "*batch"], PyTree[Array]], Int[Array, "*batch m"]]:
        (t_after, x_after), (t, state) = carry, row
        log_pairs = log_transitions(log_m, state.particles, x_after, t_after)
        slots = draw(t, state.log_weights[..., None, :] + log_pairs)
        return (state.t, gather(state.particles, slots)), slots

    last = jax.tree.map(lambda leaf: leaf[-1], states)
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    num_steps = states.t.shape[0]
    slots = draw(jnp.int32(num_steps - 1), last.log_weights[..., None, :])
    start = last.t, gather(last.particles, slots)
    rows = jnp.arange(num_steps - 1, dtype=jnp.int32), before
    earlier = jax.lax.scan(back, start, rows, reverse=True)[1]
    return jnp.concatenate([earlier, slots[None]])


def log_transitions(
    log_m: LogTransition, x: PyTree[Array], x_after: PyTree[Array], t_after: Int[Array, "*batch"]
) -> Float[Array, "*batch m n"]:
    """log m_t+1 from each particle x to each particle x_after."""
    axes = t_after.ndim
    n = jax.tree.leaves(x)[0].shape[axes]

    def to_one(target: PyTree[Array]) -> Float[Array, "*batch n"]:
        return log_m(x, repeat(target, n, axes), t_after)

    return jax.vmap(to_one, in_axes=axes, out_axes=axes)(x_after)
