"""The auxiliary particle filter: ancestors are drawn with a forecast of their next potential.

    A ~ resampler(W_t-1 eta_t(x_t-1))     x_t ~ M_t(x_t-1[A], .)
    w_t = w_left (sum_i W_t-1^i eta_t(x_t-1^i)) G_t(x_t) / eta_t(x_t-1[A])

Reference: Pitt and Shephard (1999), Filtering via simulation: auxiliary particle filters, with one
resampling a step as in Carpenter, Clifford and Fearnhead (1999). The forecast is divided out after
the selection, so it changes the variance and not the target. Knows nothing of proposals.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._checks import require_function, require_plain
from pfjax.smc._weighing import not_finite, shifted
from pfjax.smc.particle_filter import gather, particle_filter
from pfjax.smc.types import Algorithm, FeynmanKac, Info, Move, Resampler, State
from pfjax.smc.weights import log_ratio, log_sum_exp, normalise
from pfjax.smc.wrappers import adaptive_systematic


@runtime_checkable
class Forecast(Protocol):
    """log eta_t(x_t-1): of the particles of generation t - 1, about generation t."""

    def __call__(
        self, x: PyTree[Array], t: Int[Array, "*batch"], /
    ) -> Float[Array, "*batch n"]: ...


def auxiliary_filter(
    model: FeynmanKac,
    n: int,
    log_eta: Forecast,
    resampler: Resampler = adaptive_systematic,
    *,
    move: Move = gather,
) -> Algorithm:
    """A particle filter with n particles that resamples by the first-stage weights W eta.

    Target: the path measure Q_t of `model`, by its weighted particles; E[exp(log_evidence)] = L_t
    exactly, if eta is 0 only where G_t and all that follows is 0. With M_t the optimal proposal and
    eta = G_t (fully adapted) all weights after resampling are equal. A criterion sees the
    first-stage weights. A forecast of NaN or +inf counts as 0 and sets `NOT_FINITE`. Raises
    `ValueError` as `particle_filter` does.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> y = jnp.array([0.3, -0.2, 1.1])
    >>> normal = jax.scipy.stats.norm
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + 0.5 * jax.random.normal(key),
    ...     log_potential=lambda x, t: normal.logpdf(y[t], x, 0.3),
    ... )
    >>> log_eta = smc.per_particle(lambda x, t: normal.logpdf(y[t], 0.9 * x, (0.25 + 0.09) ** 0.5))
    >>> algorithm = smc.auxiliary_filter(model, 100, log_eta)
    >>> smc.run(jax.random.key(0), algorithm, 3)[0].log_weights.shape
    (100,)
    """

    require_plain(resampler)
    require_function("log_eta", log_eta, "x, t", "which forecasts G_t of all particles x")

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        forecast = jnp.asarray(log_eta(state.particles, state.t + 1))
        if forecast.shape != state.log_weights.shape:
            raise ValueError(
                f"log_eta: got shape {forecast.shape} for weights of shape {state.log_weights.shape}, "
                "want one forecast per particle; map a function of one with smc.per_particle"
            )
        forecast = forecast.astype(state.log_weights.dtype)
        # A factor of eta cancels, so that its size need not cost digits.
        first_stage, peak, is_broken = shifted(state.log_weights, forecast)
        by_forecast = _by_forecast(first_stage, forecast - peak[..., None], resampler)
        state = state._replace(status=state.status | not_finite(is_broken))
        return particle_filter(model, n, by_forecast, move=move).step(key, state)

    return Algorithm(particle_filter(model, n, resampler, move=move).init, step)


def _by_forecast(
    first_stage: Float[Array, "*batch n"], log_eta: Float[Array, "*batch n"], resampler: Resampler
) -> Resampler:
    def resample(
        key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"]
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        total = log_sum_exp(first_stage)[..., None]
        ancestors, left, resampled = resampler(key, normalise(first_stage), t)
        forecast = jnp.take_along_axis(log_eta, ancestors, axis=-1)
        left = log_ratio(left + total, forecast)
        return ancestors, jnp.where(resampled[..., None], left, log_w), resampled

    return resample
