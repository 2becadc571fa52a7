"""Three ways to run an algorithm that agree bit by bit: all at once, until done, step by step.

    state_0 = init(fold_in(key, 0))    state_t = step(fold_in(key, t), state_t-1)

There is nothing to cite. Knows nothing of particles or weights; `jax.jit` the caller, not these.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, PyTree

from pfjax.smc._axes import fold_in, require_typed, select
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
) -> tuple[State, PyTree[Array]]:
    """Runs generations 0 to num_steps - 1; the only runner with a reverse-mode gradient.

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
    """
    state, info = _start(key, algorithm, num_steps)
    first = collect(state, info)

    def advance(state: State, t: Array) -> tuple[State, PyTree[Array]]:
        state, info = algorithm.step(fold_in(key, t), state)
        return state, collect(state, info)

    state, rest = jax.lax.scan(advance, state, jnp.arange(1, num_steps))
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
    state, info = _start(key, algorithm, max_steps)
    infos = jax.tree.map(lambda row: jnp.broadcast_to(row, (max_steps, *row.shape)), info)

    def unfinished(carry: _Carry) -> Bool[Array, ""]:
        t, state, _, _ = carry
        return (t < max_steps) & ~jnp.all(done(state))

    def advance(carry: _Carry) -> _Carry:
        t, state, info, infos = carry
        ended, new = done(state), algorithm.step(fold_in(key, t), state)
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
    return state, select(jnp.arange(max_steps) < t, infos, after)


def iterate(
    key: Key[Array, "*batch"], algorithm: Algorithm, num_steps: int
) -> Iterator[tuple[State, Info]]:
    """Yields the state and `Info` of generations 0 to num_steps - 1, each as soon as it is made.

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
    state, info = _start(key, algorithm, num_steps)
    yield state, info
    step = jax.jit(algorithm.step)
    for t in range(1, num_steps):
        state, info = step(fold_in(key, t), state)
        yield state, info


def _start(key: Key[Array, "*batch"], algorithm: Algorithm, num_steps: int) -> tuple[State, Info]:
    require_typed(key)
    if num_steps < 1:
        raise ValueError(f"number of steps: got {num_steps}, want at least 1 (generation 0)")
    # Compiled as a whole in every runner: op by op, the last bits would differ between them.
    return jax.jit(algorithm.init)(fold_in(key, 0))


def _nothing_happens(info: Info) -> Info:
    n = info.ancestors.shape[-1]
    return info._replace(
        ancestors=jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), info.ancestors.shape),
        resampled=jnp.zeros_like(info.resampled),
        log_evidence_increment=jnp.zeros_like(info.log_evidence_increment),
    )
