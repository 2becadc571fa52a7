"""The particle filter: resample, propagate, weigh, with carried weights.

    A ~ resampler(W_t-1)    x_t ~ M_t(x_t-1[A], .)    w_t = w_left G_t(x_t)
    L_t = L_t-1 sum_i w_t^i                           W_t = w_t / sum_i w_t^i

Reference: Doucet and Johansen (2009), A tutorial on particle filtering and smoothing, section 3.5.
Knows nothing of devices, caches or time limits; `move` alone knows how rows are copied.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, per_problem, require_typed, split_in_two, vmap_axes
from pfjax.smc._calls import drawn, moved, resampled_by, weighed_by
from pfjax.smc._checks import require_count, require_model, require_plain, require_resampler
from pfjax.smc._weighing import start, weighed
from pfjax.smc.types import Algorithm, FeynmanKac, Info, Move, Resampler, State
from pfjax.smc.wrappers import adaptive_systematic


def gather(particles: PyTree[Array], ancestors: Int[Array, "*batch n"]) -> PyTree[Array]:
    """Row `ancestors[..., j]` of every leaf, as row j.

    >>> import jax.numpy as jnp
    >>> gather({"x": jnp.array([[5, 6], [7, 8]])}, jnp.array([[1, 1], [0, 1]]))["x"].tolist()
    [[6, 6], [7, 8]]
    """
    take = vmap_axes(lambda rows, index: rows[index], ancestors.ndim - 1)
    return jax.tree.map(lambda leaf: take(leaf, ancestors), particles)


def particle_filter(
    model: FeynmanKac,
    n: int,
    resampler: Resampler = adaptive_systematic,
    *,
    move: Move = gather,
) -> Algorithm:
    """Sequential Monte Carlo with n particles.

    Target: the path measure Q_t of `model`, by its weighted particles; E[exp(log_evidence)] = L_t
    exactly, for every n, resampler of the contract, and criterion. Leading axes of the key are
    independent problems. Raises `ValueError` for n < 1, a raw key, or log G of the wrong shape.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: x,
    ...     log_potential=lambda x, t: jnp.where(t == 0, 0.0, jnp.log(2.0)),
    ... )
    >>> pf = smc.particle_filter(model, 8)
    >>> state, info = pf.init(jax.random.key(0))
    >>> state, info = pf.step(jax.random.key(1), state)
    >>> round(float(state.log_evidence), 4), int(state.t), float(info.ess)
    (0.6931, 1, 8.0)
    """
    require_plain(resampler)
    return any_filter(model, n, resampler, move)


def any_filter(model: FeynmanKac, n: int, resampler: Resampler, move: Move) -> Algorithm:
    """`particle_filter`, with a conditional resampler too."""
    require_model(model)
    require_resampler(resampler)
    n = require_count("n", n)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        _, k_move = split_in_two(key)
        first = start(key, drawn(model, particle_keys(k_move, n)), n)
        stay = per_problem(key, jnp.arange(n, dtype=jnp.int32))
        return weigh(first, stay, per_problem(key, jnp.array(False)))

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        if state.log_weights.shape[-1] != n:
            raise ValueError(
                f"state: got {state.log_weights.shape[-1]} particles, want the {n} of the filter"
            )
        state, ancestors, resampled, keys = resample(key, state, resampler, move)
        x = moved(model, keys, state.particles, state.t)
        return weigh(state._replace(particles=x), ancestors, resampled)

    def weigh(
        state: State, ancestors: Int[Array, "*batch n"], resampled: Bool[Array, "*batch"]
    ) -> tuple[State, Info]:
        x, log_g = weighed_by(model, state.particles, state.t, state.log_weights.shape)
        return weighed(state._replace(particles=x), log_g, ancestors, resampled)

    return Algorithm(init, step)


def resample(
    key: Key[Array, "*batch"], state: State, resampler: Resampler, move: Move = gather
) -> tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], Key[Array, "*batch n"]]:
    """The first third of a step: (state of generation t + 1, ancestors, resampled, keys to move with).

    The weights of the state are what the resampler left. `weighed` is the last third, so that a
    caller whose propagation takes many calls can stop in between.
    """
    require_typed(key)
    k_resample, k_move = split_in_two(key)
    t = state.t + 1
    ancestors, left, resampled = resampled_by(resampler, k_resample, state.log_weights, t)
    x = move(state.particles, ancestors)
    keys = particle_keys(k_move, state.log_weights.shape[-1])
    return state._replace(particles=x, log_weights=left, t=t), ancestors, resampled, keys
