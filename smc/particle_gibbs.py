"""Particle Gibbs: Markov chain Monte Carlo on whole paths.

    conditional filter given the path; K ~ W_T-1; the new path is the lineage of slot K
    conditional filter given the path; the new path is drawn backwards      (`backward_gibbs`)

References: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods,
sections 2.4.3 and 4.5; Lindsten, Jordan and Schon (2014), Particle Gibbs with ancestor sampling,
algorithm 2; Whiteley (2010), discussion of Andrieu et al., for backward sampling. A path is a stack
of particles [steps, *batch, ...] or, in models with `rewind`, one particle that holds its past
[*batch, ...]. Knows nothing of static parameters.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from pfjax.smc._axes import require_typed, select, split_in_two
from pfjax.smc._paths import draw_slot, lineage, pick
from pfjax.smc.backward import backward_slots
from pfjax.smc.conditional import adaptive_conditional
from pfjax.smc.conditional_filter import (
    ancestor_sampling_filter,
    conditional_particle_filter,
    require_conditional,
    require_log_transition,
    require_steps,
    with_new_past,
)
from pfjax.smc.particle_filter import any_filter, gather, particle_filter
from pfjax.smc.runners import run
from pfjax.smc.types import ALL_DEAD, Algorithm, FeynmanKac, Info, Move, Resampler, State


class Sweep(NamedTuple):
    """What happened in a sweep: the `Info` of every generation, and the slots of the new path.

    Slots of 0 are those of the reference: where all are 0 the path has not moved.
    """

    infos: Info
    slots: Int[Array, "steps *batch"]


def particle_gibbs(
    model: FeynmanKac,
    n: int,
    num_steps: int,
    resampler: Resampler = adaptive_conditional,
    *,
    ancestor_sampling: bool = False,
    move: Move = gather,
) -> Algorithm:
    """The kernel on paths of num_steps generations: its state is a path, a step is a sweep.

    Target: leaves the path measure Q_t of `model`, t = num_steps - 1, invariant, for every n and
    every *conditional* resampler; n = 1 does not move. `init(key)` is a path of a particle filter,
    `step(key, path)` returns the new path and its `Sweep`. If all die it is the path it was given.
    Raises `ValueError` for a plain resampler, or a path of another number of generations. What
    ancestor sampling asks of the model, and its errors: `ancestor_sampling_filter`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ...     log_transition=lambda x_prev, x, t: -0.5 * (x - 0.9 * x_prev) ** 2,
    ... )
    >>> kernel = smc.particle_gibbs(model, 8, num_steps=20, ancestor_sampling=True)
    >>> path, paths = smc.run(jax.random.key(0), kernel, 100, lambda path, sweep: path)
    >>> path.shape, paths.shape
    ((20,), (100, 20))
    """

    require_conditional(resampler)

    def init(key: Key[Array, "*batch"]) -> tuple[PyTree[Array], Sweep]:
        return _trace(key, model, particle_filter(model, n, move=move), num_steps)

    def step(key: Key[Array, "*batch"], path: PyTree[Array]) -> tuple[PyTree[Array], Sweep]:
        require_steps(model, path, num_steps)
        if ancestor_sampling:
            algorithm = ancestor_sampling_filter(model, n, path, num_steps, resampler, move=move)
        else:
            algorithm = conditional_particle_filter(model, n, path, resampler, move=move)
        new, sweep = _trace(key, model, algorithm, num_steps)
        return _unless_all_dead(model, sweep, path, new), sweep

    # The shape of an Algorithm, with paths for states.
    return Algorithm(init, step)  # pyright: ignore[reportArgumentType]


def backward_gibbs(
    model: FeynmanKac,
    n: int,
    num_steps: int,
    resampler: Resampler = adaptive_conditional,
    *,
    move: Move = gather,
) -> Algorithm:
    """`particle_gibbs` whose new path is drawn by `backward_sampling` instead of traced.

    Target, state and info: those of `particle_gibbs`. Raises `ValueError` for a model without
    `log_transition`, with `rewind` (use ancestor sampling), or made by `guided` or `twist`.
    """
    require_log_transition(model, "backward sampling")
    if model.rewind is not None:
        raise ValueError(
            "model.rewind: got a function, want None, because backward sampling is for models with "
            "the Markov property; use particle_gibbs(..., ancestor_sampling=True)"
        )

    require_conditional(resampler)

    def init(key: Key[Array, "*batch"]) -> tuple[PyTree[Array], Sweep]:
        return draw(key, particle_filter(model, n, move=move))

    def step(key: Key[Array, "*batch"], path: PyTree[Array]) -> tuple[PyTree[Array], Sweep]:
        require_steps(model, path, num_steps)
        pinned = with_new_past(model, path)
        new, sweep = draw(key, any_filter(pinned, n, resampler, move))
        return _unless_all_dead(model, sweep, path, new), sweep

    def draw(key: Key[Array, "*batch"], algorithm: Algorithm) -> tuple[PyTree[Array], Sweep]:
        require_typed(key)
        k_filter, k_draw = split_in_two(key)
        _, (states, infos) = run(k_filter, algorithm, num_steps, lambda state, info: (state, info))
        slots = backward_slots(k_draw, model, states, 1)[..., 0]
        return pick(states.particles, slots), Sweep(infos, slots)

    # The shape of an Algorithm, with paths for states.
    return Algorithm(init, step)  # pyright: ignore[reportArgumentType]


def _trace(
    key: Key[Array, "*batch"], model: FeynmanKac, algorithm: Algorithm, num_steps: int
) -> tuple[PyTree[Array], Sweep]:
    """Runs the filter and traces the lineage of one particle, drawn by its weight."""
    require_typed(key)
    k_filter, k_draw = split_in_two(key)

    def collect(state: State, info: Info) -> tuple[Info, PyTree[Array]]:
        return info, state.particles if model.rewind is None else ()

    state, (infos, history) = run(k_filter, algorithm, num_steps, collect)
    slot = draw_slot(k_draw, state.log_weights)
    slots = lineage(infos.ancestors, slot)
    path = pick(history, slots) if model.rewind is None else pick(state.particles, slot)
    return path, Sweep(infos, slots)


def _unless_all_dead(
    model: FeynmanKac, sweep: Sweep, path: PyTree[Array], new: PyTree[Array]
) -> PyTree[Array]:
    dead = sweep.infos.status[-1] & ALL_DEAD > 0
    if model.rewind is None:
        dead = jnp.broadcast_to(dead, sweep.slots.shape)
    return select(dead, path, new)
