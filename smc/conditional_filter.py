"""Conditional Sequential Monte Carlo: a particle filter one of whose paths is given.

    x_t^0 = x_t of the reference    A_t^0 = 0
    A_t^0 ~ W_t-1^j m_t(x_t-1^j, x_t of the reference)      instead, with ancestor sampling

References: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods,
section 4.3; Lindsten, Jordan and Schon (2014), Particle Gibbs with ancestor sampling, algorithm 2,
and section 6 for models without the Markov property, whose particles hold their past. A reference
is a stack of particles [steps, *batch, ...] or, in models with `rewind`, one particle [*batch, ...].
Knows nothing of what becomes of the particles.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._axes import per_problem, split_in_two
from pfjax.smc._paths import at, draw_slot, first, put_first, repeat
from pfjax.smc.conditional import adaptive_conditional, name_of, with_parent
from pfjax.smc.guided import Guided
from pfjax.smc.particle_filter import any_filter, gather
from pfjax.smc.transformers import Scored
from pfjax.smc.types import (
    Algorithm,
    Conditional,
    FeynmanKac,
    Horizon,
    Info,
    LogTransition,
    Move,
    Resampler,
    State,
    bounded,
)


def conditional_particle_filter(
    model: FeynmanKac,
    n: int,
    reference: PyTree[Array],
    resampler: Resampler = adaptive_conditional,
    *,
    move: Move = gather,
) -> Algorithm:
    """The particle filter whose slot 0 follows the reference, for no more steps than it has.

    Target: the law of the other particles of `particle_filter(model, n)`, given one path of it.
    Raises `ValueError` unless the resampler is `Conditional`: `conditional(scheme)`, wrapped or not.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> cpf = smc.conditional_particle_filter(model, 8, jnp.array([0.5, 1.0, 1.5]))
    >>> smc.run(jax.random.key(0), cpf, 3, lambda state, info: state.particles)[1][:, 0].tolist()
    [0.5, 1.0, 1.5]
    """
    require_conditional(resampler)
    algorithm = any_filter(_pinned(model, reference), n, resampler, move)
    return bounded(algorithm, _as_long_as(model, reference))


def ancestor_sampling_filter(
    model: FeynmanKac,
    n: int,
    reference: PyTree[Array],
    num_steps: int,
    resampler: Resampler = adaptive_conditional,
    *,
    move: Move = gather,
) -> Algorithm:
    """`conditional_particle_filter` whose slot 0 draws a new past whenever it is resampled.

    Needs `model.log_transition`; in models with `rewind` also `splice`, `log_transition` is then
    the log-density of M_t alone, and step t weighs the num_steps - t generations left of n paths.
    Raises `ValueError` if a function is missing, or if G_t of `guided` and `twist` would remember
    the old past, for a plain resampler, or a reference of fewer than num_steps generations.
    """
    require_conditional(resampler)
    require_steps(model, reference, num_steps)
    log_m = require_log_transition(model, "ancestor sampling")
    if model.rewind is not None and model.splice is None:
        raise ValueError(
            "model.splice: got None, want a function, because the model has `rewind`: ancestor "
            "sampling puts the future of the reference on other pasts"
        )
    pinned = with_new_past(model, reference)

    def step(key: Key[Array, "*batch"], state: State) -> tuple[State, Info]:
        k_ancestor, k_filter = split_in_two(key)
        t = state.t + 1
        if model.rewind is None:
            others = repeat(at(model, reference, t), n, t.ndim)
            log_future = log_m(state.particles, others, t)
        else:
            log_future = _log_density_from(model, reference, state.particles, t, num_steps)
        parent = draw_slot(k_ancestor, state.log_weights + log_future)
        # Slot 0 chooses first: what the others may choose depends on it.
        algorithm = any_filter(pinned, n, with_parent(resampler, parent), move)
        return algorithm.step(k_filter, state)

    algorithm = Algorithm(any_filter(pinned, n, resampler, move).init, step)
    return bounded(algorithm, Horizon(at_most=num_steps, because="`num_steps` was that"))


def require_conditional(resampler: Resampler) -> None:
    """Raises `ValueError` for a resampler that may give slot 0 another parent."""
    if not isinstance(resampler, Conditional):
        raise ValueError(
            f"resampler: got {name_of(resampler)}, want a conditional one, because slot 0 must keep "
            "the reference; write conditional(scheme), or when(criterion, conditional(scheme))"
        )


def require_steps(model: FeynmanKac, path: PyTree[Array], num_steps: int) -> None:
    """Raises `ValueError` for a path of another number of generations, where that can be seen."""
    got = _num_steps(model, path)
    if got is not None and got != num_steps:
        raise ValueError(
            f"path: got {got} generations, want {num_steps} (num_steps); leaves have axes "
            "[steps, *batch, ...]"
        )


def _num_steps(model: FeynmanKac, path: PyTree[Array]) -> int | None:
    """The number of generations of a path, None where the particle holds them."""
    if model.rewind is not None:
        return None
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(path)]
    if not shapes or () in shapes or any(shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(
            f"reference: got leaves of shapes {shapes}, want arrays [steps, *batch, ...], the particle of "
            "every generation; stack a list with jnp.stack"
        )
    return shapes[0][0]


def _as_long_as(model: FeynmanKac, reference: PyTree[Array]) -> Horizon:
    return Horizon(at_most=_num_steps(model, reference), because="the reference is as long as that")


def require_log_transition(model: FeynmanKac, purpose: str) -> LogTransition:
    """`model.log_transition`; raises `ValueError` for a model without one."""
    if model.log_transition is None:
        raise ValueError(
            f"model.log_transition: got None, want a function: {purpose} needs the density of the "
            "kernel; give it to smc.lift(..., log_transition=...)"
        )
    return model.log_transition


def with_new_past(model: FeynmanKac, reference: PyTree[Array]) -> FeynmanKac:
    """The model with the reference in slot 0, put on whatever past slot 0 has."""
    splice = model.splice
    if splice is None:
        return _pinned(_without_memory(model), reference)
    pinned = _pinned(model, reference)

    def propagate(
        keys: Key[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> PyTree[Array]:
        past = repeat(first(x, t.ndim), 1, t.ndim)
        future = reference if model.rewind is not None else at(model, reference, t)
        one = splice(past, repeat(future, 1, t.ndim), t - 1)
        one = one if model.rewind is None else model.rewind(one, t)
        return put_first(model.propagate(keys, x, t), first(one, t.ndim), t.ndim)

    return pinned._replace(propagate=propagate)


def _pinned(model: FeynmanKac, reference: PyTree[Array]) -> FeynmanKac:
    """The model with the reference in slot 0."""

    def init(keys: Key[Array, "*batch n"]) -> PyTree[Array]:
        zero = per_problem(keys[..., 0], jnp.int32(0))
        return put_first(model.init(keys), at(model, reference, zero), zero.ndim)

    def propagate(
        keys: Key[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"]
    ) -> PyTree[Array]:
        return put_first(model.propagate(keys, x, t), at(model, reference, t), t.ndim)

    return FeynmanKac(init, propagate, model.weigh)


def _without_memory(model: FeynmanKac) -> FeynmanKac:
    """Refuses particles that keep a score of their parent, which another past would change."""

    def init(keys: Key[Array, "*batch n"]) -> PyTree[Array]:
        x = model.init(keys)
        if isinstance(x, Guided | Scored):
            raise ValueError(
                f"model.splice: got None, want a function, because particles are {type(x).__name__}"
                ", whose potential looks back; condition the model without `guided` and `twist`"
            )
        return x

    return model._replace(init=init)


def _log_density_from(
    model: FeynmanKac,
    reference: PyTree[Array],
    x: PyTree[Array],
    t: Int[Array, "*batch"],
    num_steps: int,
) -> Float[Array, "*batch n"]:
    """log prod_s>=t M_s G_s of the reference's future on the past of each particle."""
    rewind, splice, log_m = model.rewind, model.splice, model.log_transition
    assert rewind is not None and splice is not None and log_m is not None
    n = jax.tree.leaves(x)[0].shape[t.ndim]
    paths = splice(x, repeat(reference, n, t.ndim), t - 1)

    def log_density(s: Int[Array, ""]) -> Float[Array, "*batch n"]:
        now = jnp.full_like(t, s)
        y = rewind(paths, now)
        log_density = log_m(rewind(paths, now - 1), y, now) + model.weigh(y, now)[1]
        return jnp.where((now >= t)[..., None], log_density, 0.0)

    def add(
        sum_: Float[Array, "*batch n"], s: Int[Array, ""]
    ) -> tuple[Float[Array, "*batch n"], None]:
        return sum_ + log_density(s), None

    later = jnp.arange(2, num_steps, dtype=jnp.int32)
    return jax.lax.scan(add, log_density(jnp.int32(1)), later)[0]
