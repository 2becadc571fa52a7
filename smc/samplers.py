"""Sequential Monte Carlo samplers: from the prior to a posterior through a path of temperatures.

    gamma_t(x) = prior(x) L(x)^lambda_t     A ~ resampler(W_t-1)     x_t ~ K_t-1(x_t-1[A], .)
    w_t = w_left L(x_t)^(lambda_t - lambda_t-1)           K_t-1 leaves gamma_t-1 invariant

Reference: Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, section 3.3.2.3,
after Gilks and Berzuini (2001), Following a moving target.
L^0 is the indicator of L > 0. Knows nothing of how temperatures are chosen (`pfjax.smc.tempering`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax.smc._axes import particle_keys, per_problem, require_typed, split_in_two, vmap_axes
from pfjax.smc._calls import moved_by, resampled_by
from pfjax.smc._checks import require_a, require_count, require_function, require_plain
from pfjax.smc._weighing import start, weighed
from pfjax.smc.kernels import Kernel
from pfjax.smc.particle_filter import gather
from pfjax.smc.types import Algorithm, Info, Resampler, State
from pfjax.smc.weights import normalise
from pfjax.smc.wrappers import adaptive_systematic


class Posterior(NamedTuple):
    """A prior, drawn from and normalised, and a likelihood: functions of one particle.

    `log_prior` is read by the kernels alone, so its normalising constant does not matter.
    """

    sample_prior: Callable[[Key[Array, ""]], PyTree[Array]]
    log_prior: Callable[[PyTree[Array]], Float[Array, ""]]
    log_likelihood: Callable[[PyTree[Array]], Float[Array, ""]]


class Tempered(NamedTuple):
    """The particles of a sampler; the last two are the same in all rows of a problem.

    `step_size` starts at 1; only `tuned_move` changes or reads it.
    """

    position: PyTree[Array]
    log_prior: Float[Array, "*batch n"]
    log_likelihood: Float[Array, "*batch n"]
    inverse_temperature: Float[Array, "*batch n"]
    step_size: Float[Array, "*batch n"]


@runtime_checkable
class Rejuvenate(Protocol):
    """Resamples and moves, at the temperature that the particles have.

    Returns the state with the new particles and the log-weights that are left, not renormalised,
    the row each came from, whether the problem was resampled, and what the kernels told.
    """

    def __call__(
        self, key: Key[Array, "*batch"], state: State, posterior: Posterior, /
    ) -> tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], PyTree[Array]]: ...


@runtime_checkable
class NextTemperature(Protocol):
    """lambda_t, from the particles moved at lambda_t-1 and their normalised log-weights."""

    def __call__(
        self, log_w: Float[Array, "*batch n"], x: Tempered, t: Int[Array, "*batch"], /
    ) -> Float[Array, "*batch"]: ...


def log_power(
    log_likelihood: Float[Array, "*batch"], exponent: Float[Array, "*#batch"]
) -> Float[Array, "*batch"]:
    """log L^exponent, which is -inf for L = 0 whatever the exponent.

    >>> log_power(jnp.array([-2.0, -jnp.inf]), jnp.array([0.0])).tolist()
    [-0.0, -inf]
    """
    log_likelihood = jnp.asarray(log_likelihood)
    dead = jnp.isneginf(log_likelihood)
    exponent = jnp.asarray(exponent).astype(log_likelihood.dtype)
    return jnp.where(dead, -jnp.inf, exponent * jnp.where(dead, 0.0, log_likelihood))


def evaluate(
    posterior: Posterior, position: PyTree[Array], inverse_temperature: Float[Array, "*batch"]
) -> Tempered:
    """Particles at these positions, with the scores that are kept beside them."""
    axes = inverse_temperature.ndim
    return Tempered(
        position,
        vmap_axes(posterior.log_prior, axes)(position),
        vmap_axes(posterior.log_likelihood, axes)(position),
        inverse_temperature,
        jnp.ones_like(inverse_temperature),
    )


def move(
    kernel: Kernel, posterior: Posterior, key: Key[Array, ""], x: Tempered
) -> tuple[Tempered, PyTree[Array]]:
    """One particle after one transition that leaves prior L^lambda invariant, and how it went."""

    def log_density(position: PyTree[Array]) -> Float[Array, ""]:
        log_l = posterior.log_likelihood(position)
        return posterior.log_prior(position) + log_power(log_l, x.inverse_temperature)

    position, told = moved_by(kernel, key, x.position, log_density)
    moved = evaluate(posterior, position, x.inverse_temperature)
    return moved._replace(step_size=x.step_size), told


def resample_move(kernel: Kernel, resampler: Resampler = adaptive_systematic) -> Rejuvenate:
    """Resampling, then one transition of every particle (Gilks and Berzuini 2001)."""
    require_plain(resampler)
    require_function("kernel", kernel, "key, x, log_density", "such as smc.random_walk(0.5)")

    def rejuvenate(
        key: Key[Array, "*batch"], state: State, posterior: Posterior
    ) -> tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], PyTree[Array]]:
        k_resample, k_move = split_in_two(key)
        ancestors, left, resampled = resampled_by(resampler, k_resample, state.log_weights, state.t)
        keys = particle_keys(k_move, left.shape[-1])
        x = gather(state.particles, ancestors)
        x, told = vmap_axes(lambda k, row: move(kernel, posterior, k, row), keys.ndim)(keys, x)
        return state._replace(particles=x, log_weights=left), ancestors, resampled, told

    return rejuvenate


def sampler(
    posterior: Posterior, n: int, next_temperature: NextTemperature, rejuvenate: Rejuvenate
) -> Algorithm:
    """The sampler with n particles that `tempering` and `adaptive_tempering` are cases of.

    Target: prior(x) L(x)^lambda_t, by its weighted particles; E[exp(log_evidence)] is its integral
    if `next_temperature` does not look at the particles. Generation 0 is drawn from the prior and
    weighed by L^lambda_0. Raises `ValueError` for n < 1, a raw key, or scores of the wrong shape.
    """
    n = require_count("n", n)
    fix = "give it sample_prior, log_prior and log_likelihood, functions of one particle"
    require_a("posterior", posterior, Posterior, fix)
    require_function(
        "rejuvenate", rejuvenate, "key, state, posterior", "such as smc.resample_move(kernel)"
    )

    def init(key: Key[Array, "*batch"]) -> tuple[State, Info]:
        require_typed(key)
        _, k_move = split_in_two(key)
        keys = particle_keys(k_move, n)
        zeros = per_problem(key, jnp.zeros(n, jnp.float32))
        position = vmap_axes(posterior.sample_prior, keys.ndim)(keys)
        state = start(key, evaluate(posterior, position, zeros), n)
        _require_shapes(state.particles, zeros.shape)
        stay = per_problem(key, jnp.arange(n, dtype=jnp.int32))
        none = untold(key, lambda k, s: rejuvenated(rejuvenate, k, s, posterior)[3], key, state)
        return weigh(state, stay, per_problem(key, jnp.array(False)), none)

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        require_typed(key)
        return weigh(*rejuvenate(key, state._replace(t=state.t + 1), posterior))

    def weigh(
        state: State,
        ancestors: Int[Array, "*batch n"],
        resampled: Bool[Array, "*batch"],
        told: PyTree[Array],
    ) -> tuple[State, Info]:
        x: Tempered = state.particles
        warmer = next_temperature(normalise(state.log_weights), x, state.t)[..., None]
        log_g = log_power(x.log_likelihood, warmer - x.inverse_temperature)
        x = x._replace(inverse_temperature=jnp.broadcast_to(warmer, log_g.shape))
        state, info = weighed(state._replace(particles=x), log_g, ancestors, resampled)
        return state, info._replace(kernel=told)

    return Algorithm(init, step)


def untold(
    key: Key[Array, "*batch"], tell: Callable[..., PyTree[Array]], *arguments: PyTree[Array]
) -> PyTree[Array]:
    """What `tell` returns of the arguments, but zero: nothing has moved. Uses no key."""
    shapes = jax.eval_shape(tell, *arguments)
    return jax.tree.map(lambda a: per_problem(key, jnp.zeros(a.shape[key.ndim :], a.dtype)), shapes)


def rejuvenated(
    rejuvenate: Rejuvenate, key: Key[Array, "*batch"], state: State, posterior: Posterior
) -> tuple[State, Int[Array, "*batch n"], Bool[Array, "*batch"], PyTree[Array]]:
    """`rejuvenate(key, state, posterior)`; raises `ValueError` if it is a kernel."""

    def of_one() -> PyTree[Array]:
        axes = key.ndim + 1
        x = jax.tree.map(lambda a: a.reshape(-1, *a.shape[axes:])[0], state.particles.position)
        return rejuvenate(key.reshape(-1)[0], x, posterior.log_prior)  # pyright: ignore

    try:
        result = rejuvenate(key, state, posterior)
        if isinstance(result, tuple) and len(result) == 4 and isinstance(result[0], State):
            return result
        error = None
    except (TypeError, ValueError, AttributeError) as failure:
        error = failure
        try:
            jax.eval_shape(of_one)
        except Exception:
            raise failure from None
    raise ValueError(
        "rejuvenate: got a kernel, which moves one particle, want what resamples and moves all; "
        "write smc.resample_move(kernel) or smc.waste_free(kernel, num_chains)"
    ) from error


def _require_shapes(x: Tempered, shape: tuple[int, ...]) -> None:
    for name in ("log_prior", "log_likelihood"):
        got = getattr(x, name).shape
        if got != shape:
            raise ValueError(
                f"posterior.{name}: got shape {got} for particles of axes {shape}; "
                "return one number for one particle"
            )
