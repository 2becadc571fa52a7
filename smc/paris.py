"""Forward smoothing of sums with a few draws from each backward kernel, at a cost of O(n M) a step.

    I_1..M ~ B_t(j, .)      T_t^j = (1/M) sum_k (T_t-1^I_k + phi_t(x_t-1^I_k, x_t^j))
    a draw: i ~ W_t-1, kept with probability m_t(x_t-1^i, x_t^j) / bound, else another

Reference: Olsson and Westerborn (2017), Efficient particle-based online smoothing in general hidden
Markov models: the PaRIS algorithm, algorithm 2; accept-reject by Douc, Garivier, Moulines and Olsson
(2011). M >= 2 keeps the error from growing as t^2. Knows nothing of how the bound is found.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._ancestors import independent_draws
from pfjax.smc._axes import fold_in, particle_keys, require_typed, split_in_two, vmap_axes
from pfjax.smc._checks import require_count
from pfjax.smc._paths import draw_slot
from pfjax.smc.additive import Additive, Summed, backward_kernel, begun, require_markov
from pfjax.smc.feynman_kac import per_particle
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import Algorithm, FeynmanKac, Info, LogTransition, State, bounded
from pfjax.smc.weights import total

_Slots = Int[Array, "*batch nm"]
_Pending = Bool[Array, "*batch nm"]


def paris(
    model: FeynmanKac,
    algorithm: Algorithm,
    function: Additive,
    log_bound: float | Float[Array, ""],
    *,
    num_draws: int = 2,
    max_trials: int = 64,
) -> Algorithm:
    """`forward_smoothing` by num_draws draws a particle; particles are `Summed`.

    Target: that of `forward_smoothing`, whose sums are the means of these given the filter. `log_bound`
    is at least log m_t(x_prev, x) for all x_prev, x and t; where it is not, the target is none. What
    max_trials rounds of trials have not drawn is drawn in O(n^2), for all, without an error. Raises
    `ValueError` for num_draws or max_trials < 1, and as `forward_smoothing`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ...     log_transition=lambda x_prev, x, t: -0.5 * (x - 0.9 * x_prev) ** 2,
    ... )
    >>> products = smc.Additive(lambda x: x * 0.0, lambda x_prev, x, t: x_prev * x)
    >>> pf = smc.paris(model, smc.particle_filter(model, 64), products, log_bound=0.0)
    >>> _, means = smc.run(jax.random.key(0), pf, 10, lambda state, info: smc.expected_sum(state))
    >>> means.shape
    (10,)
    """
    log_m = require_markov(model, "forward smoothing")
    num_draws = require_count("num_draws", num_draws)
    max_trials = require_count("max_trials", max_trials)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        state, info = algorithm.init(split_in_two(key)[0])
        return begun(function, state), info

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_filter, k_draw = split_in_two(key)
        before = state._replace(particles=state.particles.x)
        new, info = algorithm.step(k_filter, before)
        slots = _draw(k_draw, log_m, before, new, (log_bound, num_draws, max_trials))
        x_prev, x = gather(before.particles, slots), _repeated(new.particles, slots, num_draws)
        later = per_particle(function.later)(x_prev, x, new.t)
        sums = gather(state.particles.sums, slots) + later.astype(new.log_weights.dtype)
        axis = new.t.ndim + 1
        sums = sums.reshape(*new.log_weights.shape, num_draws, *sums.shape[axis:])
        mean = total(jnp.moveaxis(sums, axis, -1)) / num_draws
        return new._replace(particles=Summed(new.particles, mean)), info

    return bounded(Algorithm(init, step), algorithm.horizon)


def _repeated(particles: PyTree[Array], slots: _Slots, num_draws: int) -> PyTree[Array]:
    """Every particle num_draws times in a row."""
    rows = jnp.arange(slots.shape[-1], dtype=jnp.int32) // num_draws
    return gather(particles, jnp.broadcast_to(rows, slots.shape))


def _draw(
    key: Key[Array, "*batch"],
    log_m: LogTransition,
    before: State,
    new: State,
    how: tuple[float | Float[Array, ""], int, int],
) -> _Slots:
    """num_draws slots of the state before for every particle, side by side; any for a dead one."""
    log_bound, num_draws, max_trials = how
    k_trial, k_exact = split_in_two(key)
    n = before.log_weights.shape[-1]
    alive = jnp.repeat(~jnp.isneginf(new.log_weights), num_draws, axis=-1)
    nobody = jnp.zeros_like(alive, jnp.int32)
    x = _repeated(new.particles, nobody, num_draws)
    drawn = vmap_axes(lambda k, w: independent_draws(k, w, n * num_draws), key.ndim)

    def unfinished(at: tuple[Int[Array, ""], _Slots, _Pending]) -> Bool[Array, ""]:
        return (at[0] < max_trials) & jnp.any(at[2])

    def trial(
        at: tuple[Int[Array, ""], _Slots, _Pending],
    ) -> tuple[Int[Array, ""], _Slots, _Pending]:
        i, slots, pending = at
        k_slot, k_accept = split_in_two(fold_in(k_trial, i))
        tried = jnp.minimum(drawn(k_slot, before.log_weights), n - 1)
        log_a = log_m(gather(before.particles, tried), x, new.t) - log_bound
        shape = (n * num_draws,)
        u = vmap_axes(lambda k: jax.random.uniform(k, shape, log_a.dtype), key.ndim)(k_accept)
        accepted = pending & (jnp.log(u) < log_a)
        return i + 1, jnp.where(accepted, tried, slots), pending & ~accepted

    _, slots, pending = jax.lax.while_loop(unfinished, trial, (jnp.int32(0), nobody, alive))

    def exact() -> _Slots:
        log_b = jnp.repeat(backward_kernel(log_m, before, new), num_draws, axis=-2)
        return draw_slot(particle_keys(k_exact, n * num_draws), log_b)

    return jax.lax.cond(jnp.any(pending), lambda: jnp.where(pending, exact(), slots), lambda: slots)
