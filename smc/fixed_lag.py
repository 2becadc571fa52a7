"""Fixed-lag smoothing: a state is forgotten by the observations L steps after it.

    p(x_s | y_0:T-1) ~ p(x_s | y_0:r),  r = min(s + L, T - 1), by the ancestors of generation r and W_r

References: Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space
models, section 5; Olsson, Cappe, Douc and Moulines (2008), Sequential Monte Carlo smoothing with
application to parameter estimation in nonlinear state space models, for sums. A long lag loses
particles, a short one observations. Knows no densities: any model that a filter can run.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_ancestors, require_count, require_states
from pfjax.smc.additive import Additive, Summed, expected_sum
from pfjax.smc.feynman_kac import per_particle
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import State


def fixed_lag(states: State, ancestors: Int[Array, "steps *batch n"], lag: int) -> State:
    """Row s is x_s of the ancestors of the particles of generation r = min(s + lag, T - 1), with W_r.

    `states` and `ancestors` are stacked by `run(..., collect=lambda state, info: (state,
    info.ancestors))`. Target: p(x_s | y_0:r), with `log_evidence` of y_0:r; t is s. lag = 0 is the
    filter, lag >= steps - 1 its `trajectories`. Raises `ValueError` for lag < 0. Costs O(steps lag n).

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> pf, collect = smc.particle_filter(model, 64), lambda state, info: (state, info.ancestors)
    >>> _, (states, ancestors) = smc.run(jax.random.key(0), pf, 10, collect)
    >>> smoothed = smc.fixed_lag(states, ancestors, 3)
    >>> jnp.sum(jnp.exp(smoothed.log_weights) * smoothed.particles, axis=-1).shape
    (10,)
    """
    require_states(states)
    require_ancestors(ancestors)
    lag = require_count("lag", lag, at_least=0)
    num_steps = ancestors.shape[0]
    rows = jnp.arange(num_steps, dtype=jnp.int32)
    last = jnp.minimum(rows + lag, num_steps - 1)
    slots = jnp.arange(ancestors.shape[-1], dtype=ancestors.dtype)

    def back(
        i: Int[Array, ""], slots: Int[Array, "steps *batch n"]
    ) -> Int[Array, "steps *batch n"]:
        """One generation further, in the rows that have not come to their own."""
        at = last - i
        parents = jnp.take_along_axis(ancestors[at], slots, axis=-1)
        arrived = (at <= rows).reshape(-1, *(1,) * (slots.ndim - 1))
        return jnp.where(arrived, slots, parents)

    steps = jnp.int32(min(lag, num_steps - 1))
    slots = jax.lax.fori_loop(jnp.int32(0), steps, back, jnp.broadcast_to(slots, ancestors.shape))
    later = jax.tree.map(lambda leaf: leaf[last], states._replace(particles=()))
    return later._replace(particles=gather(states.particles, slots), t=states.t)


def fixed_lag_sum(
    states: State, ancestors: Int[Array, "steps *batch n"], lag: int, function: Additive
) -> Float[Array, "..."]:
    """E[S_T-1 | y_0:T-1] with each phi_s(x_s-1, x_s) given y_0:min(s + lag, T - 1) alone.

    Arguments and errors as in `fixed_lag`; for lag >= steps - 1 it is the mean over `trajectories`.
    """
    now, past = fixed_lag(states, ancestors, lag), fixed_lag(states, ancestors, lag + 1)
    first = vmap_axes(function.first, now.t.ndim)(_row(now.particles, 0))
    # Row s of the first and row s - 1 of the second are ancestors of the same particles.
    x_prev, x = (
        jax.tree.map(lambda leaf: leaf[:-1], past.particles),
        _row(now.particles, slice(1, None)),
    )
    later = per_particle(function.later)(x_prev, x, now.t[1:])
    sums = jnp.concatenate([first[None], later]).astype(now.log_weights.dtype)
    return jnp.sum(expected_sum(now._replace(particles=Summed(now.particles, sums))), axis=0)


def _row(particles: PyTree[Array], index: int | slice) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[index], particles)
