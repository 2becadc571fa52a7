"""Forward smoothing of sums with a few draws from each backward kernel, at a cost of O(n M) a step.

    I_1..M ~ B_t(j, .)      T_t^j = (1/M) sum_k (T_t-1^I_k + phi_t(x_t-1^I_k, x_t^j))
    a draw: i ~ W_t-1, kept with probability m_t(x_t-1^i, x_t^j) / bound, else another; at last exact

References: Olsson and Westerborn (2017), Efficient particle-based online smoothing in general hidden
Markov models: the PaRIS algorithm, algorithm 2; Dau and Chopin (2023), On backward smoothing
algorithms, section 3, for accept-reject with a limit. M >= 2 keeps the error from growing as t^2.
Knows nothing of how the bound is found.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._ancestors import independent_draws
from pfjax.smc._axes import require_typed, split_in, split_in_two, vmap_axes
from pfjax.smc._checks import require_count
from pfjax.smc._paths import draw_slot, pick, repeat
from pfjax.smc.additive import Additive, Summed, begun, require_markov
from pfjax.smc.feynman_kac import per_particle
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import Algorithm, FeynmanKac, Info, LogTransition, State, bounded
from pfjax.smc.weights import total, usable

_Slots = Int[Array, "*batch nm"]
_Pending = Bool[Array, "*batch nm"]


def paris(
    model: FeynmanKac,
    algorithm: Algorithm,
    function: Additive,
    log_bound: float | Float[Array, ""],
    *,
    num_draws: int = 2,
    num_trials: int = 64,
) -> Algorithm:
    """`forward_smoothing` by num_draws draws a particle; particles are `Summed`.

    Target: that of `forward_smoothing`, whose sums are the means of these given the filter. `log_bound`
    is at least log m_t(x_prev, x) for all x_prev, x and t; where it is not, the target is none. Every
    draw has num_trials trials, all at once; those that need more are drawn from the whole kernel, one
    after another, at O(n) each. Worth it where n^2 pairs are too many to hold (n > 10 000). Raises
    `ValueError` for num_draws or num_trials < 1, and as `forward_smoothing`.

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
    num_trials = require_count("num_trials", num_trials)

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        state, info = algorithm.init(split_in_two(key)[0])
        return begun(function, state), info

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        k_filter, k_draw = split_in_two(key)
        before = state._replace(particles=state.particles.x)
        new, info = algorithm.step(k_filter, before)
        slots = _draw(k_draw, log_m, before, new, (log_bound, num_draws, num_trials))
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
    log_bound, num_draws, num_trials = how
    k_slot, k_accept, k_exact = split_in(3, key)
    n = before.log_weights.shape[-1]
    shape = (*key.shape, n * num_draws, num_trials)
    size = n * num_draws * num_trials
    tried = vmap_axes(lambda k, w: independent_draws(k, w, size), key.ndim)(
        k_slot, before.log_weights
    )
    tried = jnp.minimum(tried, n - 1)
    x = _repeated(new.particles, tried, num_draws * num_trials)
    log_a = log_m(gather(before.particles, tried), x, new.t) - log_bound
    u = vmap_axes(lambda k: jax.random.uniform(k, (size,), log_a.dtype), key.ndim)(k_accept)
    accepted = (jnp.log(u) < log_a).reshape(shape)
    found = jnp.argmax(accepted, axis=-1, keepdims=True)
    slots = jnp.take_along_axis(tried.reshape(shape), found, axis=-1)[..., 0]
    is_dead = jnp.repeat(jnp.isneginf(new.log_weights), num_draws, axis=-1)
    pending = ~(jnp.any(accepted, axis=-1) | is_dead)
    return _drawn_exactly(k_exact, log_m, before, new, slots, pending)


def _drawn_exactly(
    key: Key[Array, "*batch"],
    log_m: LogTransition,
    before: State,
    new: State,
    slots: _Slots,
    pending: _Pending,
) -> _Slots:
    """The slots, with those that are pending drawn one after another, in memory O(n)."""
    n, axes = before.log_weights.shape[-1], key.ndim
    num_draws = slots.shape[-1] // n
    put = vmap_axes(lambda rows, row, value: rows.at[row].set(value), axes)

    def draw(at: tuple[_Slots, _Pending]) -> tuple[_Slots, _Pending]:
        slots, pending = at
        row = jnp.argmax(pending, axis=-1).astype(jnp.int32)
        x = repeat(pick(new.particles, row // num_draws), n, axes)
        log_b = usable(before.log_weights + log_m(before.particles, x, new.t))
        slot = draw_slot(vmap_axes(jax.random.fold_in, axes)(key, row), log_b)
        # Where nothing is pending, row 0 keeps its slot.
        slot = jnp.where(pick(pending, row), slot, pick(slots, row))
        return put(slots, row, slot), put(pending, row, jnp.zeros_like(row, bool))

    return jax.lax.while_loop(lambda at: jnp.any(at[1]), draw, (slots, pending))[0]
