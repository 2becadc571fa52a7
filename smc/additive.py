"""Smoothing of sums over a path, by the backward kernels of a filter, offline and online.

    S_t = phi_0(x_0) + sum_s phi_s(x_s-1, x_s)     B_t(j, i) = W_t-1^i m_t(x_t-1^i, x_t^j) / (sum over i)
    T_t^j = sum_i B_t(j, i) (T_t-1^i + phi_t(x_t-1^i, x_t^j))        E[S_t | y_0:t] = sum_j W_t^j T_t^j

Reference: Del Moral, Doucet and Singh (2010), Forward smoothing using sequential Monte Carlo,
algorithm SMC-FS. Costs O(n^2) a step, `paris` less; the particles are those of the filter. For
models with the Markov property, without `rewind`. Knows nothing of how the filter resamples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import vmap_axes
from pfjax.smc._checks import require_a, require_algorithm, require_model, require_states
from pfjax.smc.backward import log_transitions, smoothing_weights
from pfjax.smc.conditional_filter import require_log_transition
from pfjax.smc.feynman_kac import per_particle
from pfjax.smc.types import Algorithm, FeynmanKac, Info, LogTransition, State, bounded
from pfjax.smc.weights import normalise, total, usable


class Additive(NamedTuple):
    """phi_0(x_0) and phi_t(x_t-1, x_t, t): numbers or arrays, of one particle and its ancestor."""

    first: Callable[[PyTree[Array]], Float[Array, "*k"]]
    later: Callable[[PyTree[Array], PyTree[Array], Int[Array, ""]], Float[Array, "*k"]]


class Summed(NamedTuple):
    """Particles x of a model, and for each T_t [*batch, n, *k], the mean of S_t over its pasts."""

    x: PyTree[Array]
    sums: Float[Array, "..."]


def forward_smoothing(model: FeynmanKac, algorithm: Algorithm, function: Additive) -> Algorithm:
    """`algorithm`, a filter on the particles of `model`, whose particles become `Summed`.

    Target: that of the filter; `expected_sum(state)` is E[S_t | y_0:t] as n goes to infinity, in
    memory that does not grow with t. The run is that of `algorithm` itself, bit by bit. Raises
    `ValueError` for a model without `log_transition` or with `rewind`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ...     log_transition=lambda x_prev, x, t: -0.5 * (x - 0.9 * x_prev) ** 2,
    ... )
    >>> products = smc.Additive(lambda x: x * 0.0, lambda x_prev, x, t: x_prev * x)
    >>> pf = smc.forward_smoothing(model, smc.particle_filter(model, 64), products)
    >>> _, means = smc.run(jax.random.key(0), pf, 10, lambda state, info: smc.expected_sum(state))
    >>> means.shape, float(means[0])
    ((10,), 0.0)
    """
    require_algorithm(algorithm)
    require_a("function", function, Additive, "write smc.Additive(first, later)")
    log_m = require_markov(model, "forward smoothing")

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        state, info = algorithm.init(key)
        return begun(function, state), info

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        before = state._replace(particles=state.particles.x)
        new, info = algorithm.step(key, before)
        log_b = backward_kernel(log_m, before, new)
        earlier = jnp.expand_dims(state.particles.sums, new.t.ndim)
        sums = earlier + _values(function, before, new)
        mean = _total(_weighted(jnp.exp(log_b), sums), new.t.ndim + 1)
        return new._replace(particles=Summed(new.particles, mean)), info

    return bounded(Algorithm(init, step), algorithm.horizon)


def expected_sum(state: State) -> Float[Array, "..."]:
    """sum_j W_t^j T_t^j [*batch, *k], of a state whose particles are `Summed`; 0 if all are dead."""
    weights, sums = jnp.exp(state.log_weights), state.particles.sums
    return _total(_weighted(weights, sums), state.log_weights.ndim - 1)


def smoothed_sum(model: FeynmanKac, states: State, function: Additive) -> Float[Array, "..."]:
    """E[S_T-1 | y_0:T-1] by a stored filter, as n goes to infinity; that of `forward_smoothing`.

    Its shape is [*batch, *k] for a phi of shape [*k]. `states` is stacked by `run(...,
    collect=lambda state, info: state)`. Goes backwards, with the weights of `smoothing_weights`;
    errors as in `forward_smoothing`. Costs O(steps n^2).
    """
    require_model(model)
    require_states(states)
    require_a("function", function, Additive, "write smc.Additive(first, later)")
    log_m = require_markov(model, "smoothing")
    log_s = smoothing_weights(model, states)

    def add(
        sum_: Float[Array, "..."], rows: tuple[State, State, Float[Array, "*batch n"]]
    ) -> tuple[Float[Array, "..."], None]:
        before, after, log_s = rows
        pairs = jnp.exp(log_s[..., None] + backward_kernel(log_m, before, after))
        values, axes = _weighted(pairs, _values(function, before, after)), after.t.ndim
        return sum_ + _total(_total(values, axes + 1), axes), None

    before, after = (jax.tree.map(lambda x, s=s: x[s], states) for s in (slice(-1), slice(1, None)))
    first = jax.tree.map(lambda x: x[0], states)
    start = expected_sum(begun(function, first._replace(log_weights=log_s[0])))
    return jax.lax.scan(add, start, (before, after, log_s[1:]), reverse=True)[0]


def begun(function: Additive, state: State) -> State:
    """Generation 0, whose sums are phi_0."""
    first = vmap_axes(function.first, state.log_weights.ndim)(state.particles)
    first = first.astype(state.log_weights.dtype)
    return state._replace(particles=Summed(state.particles, first))


def backward_kernel(log_m: LogTransition, before: State, after: State) -> Float[Array, "*b m n"]:
    """log B(j, i), from particle j of the state after to particle i of the one before."""
    log_pairs = log_transitions(log_m, before.particles, after.particles, after.t)
    return normalise(usable(before.log_weights[..., None, :] + log_pairs))


def require_markov(model: FeynmanKac, purpose: str) -> LogTransition:
    """`model.log_transition`; raises `ValueError` for a model without, or one with `rewind`."""
    if model.rewind is not None:
        raise ValueError(
            f"model.rewind: got a function, want None, because {purpose} is for models with the "
            "Markov property; a particle that holds its path has the sum of its path"
        )
    return require_log_transition(model, purpose)


def _values(function: Additive, before: State, after: State) -> Float[Array, "..."]:
    """phi of all pairs."""
    later = per_particle(function.later)
    values = log_transitions(later, before.particles, after.particles, after.t)
    return values.astype(after.log_weights.dtype)


def _weighted(weights: Float[Array, "*axes"], values: Float[Array, "..."]) -> Float[Array, "..."]:
    """The products, 0 where the weight is, whatever the value."""
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    return jnp.where(weights > 0, weights * values, 0.0)


def _total(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    return total(jnp.moveaxis(values, axis, -1))
