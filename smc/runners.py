"""Three ways to run an algorithm that agree bit by bit: all at once, until done, step by step.

    state_0 = init(fold_in(key, 0))    state_t = step(fold_in(key, t), state_t-1)

A run in two parts is the run in one: `run` and `iterate` go on from a state they are given.

There is nothing to cite. Knows nothing of particles or weights; `jax.jit` the caller, not these.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from pfjax.smc._axes import fold_in, select, vmap_axes
from pfjax.smc._calls import collected, ended_by
from pfjax.smc._checks import require_function, require_run
from pfjax.smc.types import Algorithm, Info, State

_Carry = tuple[Array, State, Info, Info]


def _only_info(state: State, info: Info) -> Info:
    del state
    return info


def run(
    key: Key[Array, "*batch"],
    algorithm: Algorithm,
    num_steps: int,
    collect: Callable[[State, Info], PyTree[Array]] = _only_info,
    *,
    state: State | None = None,
) -> tuple[State, PyTree[Array]]:
    """Runs generations 0 to num_steps - 1; the only runner with a reverse-mode gradient.

    With `state`, num_steps further generations after it, of each problem after its own; with the
    key that it was made with, they are those that a longer run would have made. States without t
    (paths of a Markov kernel) count as generation 0: give their next part another key. Raises
    `ValueError` for num_steps < 1, or outside the algorithm's horizon: a schedule can be run in parts
    only as `bounded(algorithm, Horizon())`.

    Returns the last state and `collect(state, info)` of every generation, stacked in front. The
    state is the weighted one, before it is resampled. By default the second item is the `Info`;
    for more, collect a pair: `collect=lambda state, info: (info, state.particles)`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jax.random.normal(key),
    ...     propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
    ...     log_potential=lambda x, t: -0.5 * (x - 1.0) ** 2,
    ... )
    >>> pf = smc.particle_filter(model, 16)
    >>> state, infos = run(jax.random.key(0), pf, 10)
    >>> state.particles.shape, infos.ess.shape
    ((16,), (10,))
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> _, xs = run(keys, pf, 10, collect=lambda state, info: state.particles)
    >>> xs.shape
    (10, 3, 16)
    >>> state, _ = run(jax.random.key(0), pf, 4)
    >>> state, infos = run(jax.random.key(0), pf, 6, state=state)
    >>> int(state.t), infos.ess.shape
    (9, (6,))
    """
    require_run(key, algorithm, num_steps, state)
    begun = None if state is None else _generation(state)

    def advance(state: State, t: Array) -> tuple[State, PyTree[Array]]:
        state, info = algorithm.step(_key_of(key, t, begun), state)
        return state, collected(collect, state, info)

    later = jnp.arange(1, num_steps + (state is not None), dtype=jnp.int32)
    if state is not None:
        return jax.lax.scan(advance, state, later)
    state, info = _start(key, algorithm)
    first = collected(collect, state, info)
    state, rest = jax.lax.scan(advance, state, later)
    return state, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def run_until(
    key: Key[Array, "*batch"],
    algorithm: Algorithm,
    done: Callable[[State], Bool[Array, "..."]],
    max_steps: int,
) -> tuple[State, Info]:
    """Runs until `done(state)`, or for max_steps generations; the loop ends with the last problem.

    `done` is a flag per problem, and then a problem that is done keeps its state exactly while
    others go on; or one flag for all, which spares that copy. Returns the state and max_steps rows
    of `Info`. In the rows after a problem's end nothing happens: `ancestors` are arange, the
    increment is 0, nothing is resampled, ESS and status stay; `state.t` tells the last real row.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jnp.int32(0),
    ...     propagate=lambda key, x, t: x + 1,
    ...     log_potential=lambda x, t: 0.0,
    ... )
    >>> state, infos = run_until(jax.random.key(0), smc.particle_filter(model, 4),
    ...                          lambda state: jnp.all(state.particles >= 3, -1), 10)
    >>> int(state.t), infos.ess.shape
    (3, (10,))
    """
    require_run(key, algorithm, max_steps, is_until=True)
    require_function("done", done, "state", "which tells which problems are done")
    state, info = _start(key, algorithm)
    infos = jax.tree.map(lambda row: jnp.broadcast_to(row, (max_steps, *row.shape)), info)

    def unfinished(carry: _Carry) -> Bool[Array, ""]:
        t, state, _, _ = carry
        return (t < max_steps) & ~jnp.all(ended_by(done, state))

    def advance(carry: _Carry) -> _Carry:
        t, state, info, infos = carry
        ended, new = ended_by(done, state), algorithm.step(fold_in(key, t), state)
        if ended.ndim:
            new = select(ended, (state, _nothing_happens(info)), new)
        state, info = new
        return t + 1, state, info, jax.tree.map(lambda rows, row: rows.at[t].set(row), infos, info)

    t, state, info, infos = jax.lax.while_loop(
        unfinished, advance, (jnp.int32(1), state, info, infos)
    )
    after = jax.tree.map(
        lambda row: jnp.broadcast_to(row, (max_steps, *row.shape)), _nothing_happens(info)
    )
    return state, select(jnp.arange(max_steps, dtype=jnp.int32) < t, infos, after)


def iterate(
    key: Key[Array, "*batch"],
    algorithm: Algorithm,
    num_steps: int,
    *,
    state: State | None = None,
) -> Iterator[tuple[State, Info]]:
    """Yields the state and `Info` of every generation as soon as it is made; otherwise like `run`.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> model = smc.lift(
    ...     init=lambda key: jnp.int32(0),
    ...     propagate=lambda key, x, t: x + t,
    ...     log_potential=lambda x, t: 0.0,
    ... )
    >>> pf = smc.particle_filter(model, 2)
    >>> [int(state.particles[0]) for state, info in iterate(jax.random.key(0), pf, 4)]
    [0, 1, 3, 6]
    """
    require_run(key, algorithm, num_steps, state, is_until=True)
    return _generations(key, algorithm, num_steps, state)


def _generations(
    key: Key[Array, "*batch"], algorithm: Algorithm, num_steps: int, state: State | None
) -> Iterator[tuple[State, Info]]:
    begun = None if state is None else _generation(state)
    if state is None:
        num_steps -= 1
        state, info = _start(key, algorithm)
        yield state, info
    step = jax.jit(algorithm.step)
    for t in range(1, num_steps + 1):
        state, info = step(_key_of(key, t, begun), state)
        yield state, info


def _start(key: Key[Array, "*batch"], algorithm: Algorithm) -> tuple[State, Info]:
    # Compiled as a whole in every runner: op by op, the last bits would differ between them.
    return jax.jit(algorithm.init)(fold_in(key, 0))


def _key_of(
    key: Key[Array, "*batch"], t: int | Int[Array, ""], begun: Int[Array, "*batch"] | None
) -> Key[Array, "*batch"]:
    """The key of the t-th generation after the one of which the run began, or of generation t."""
    if begun is None:
        return fold_in(key, t)
    return vmap_axes(jax.random.fold_in, key.ndim)(key, jnp.broadcast_to(begun + t, key.shape))


def _generation(state: State) -> Int[Array, "*batch"]:
    """Of a state; 0 of a path of a Markov kernel, which does not count."""
    return state.t if isinstance(state, State) else jnp.int32(0)


def _nothing_happens(info: Info) -> Info:
    n = info.ancestors.shape[-1]
    return info._replace(
        ancestors=jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), info.ancestors.shape),
        resampled=jnp.zeros_like(info.resampled),
        log_evidence_increment=jnp.zeros_like(info.log_evidence_increment),
    )
