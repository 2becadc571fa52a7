"""Where the value of a partial solution comes from: v_t for every particle, new tokens only.

A RewardModel is a pair of functions over batches of particles:

    init(p, n)        -> state                     any pytree with leading axes [p, n]; moves with the particles
    score(state, x)   -> (state, v[p, n], Cost)    values of the newest steps, and what they cost

`process_reward` runs a PRM incrementally against its own KV cache: the step's tokens without the
delimiter, then the probe token, whose cache entry is kept (the form of Qwen2.5-Math-PRM).
`from_function` lifts any jax function of the tokens, `told` takes values that the host has found, and
`combined` makes one value of several. Values of rows without a new step are not looked at.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pfjax.models import cache
from pfjax.models.prm import RewardModule
from pfjax.reasoning import passes
from pfjax.reasoning.particles import Particles, last_step
from pfjax.reasoning.passes import PRMState, blocks
from pfjax.reasoning.strip import StripTable, strip


class Cost(NamedTuple):
    """Tokens that the newest steps added to what PRMs read, and values that the host was asked for."""

    tokens: Int[Array, "p n"]
    calls: Int[Array, "p n"]


class RewardModel(NamedTuple):
    """See the module docstring."""

    init: Callable[[int, int], PyTree[Array]]
    score: Callable[[PyTree[Array], Particles], tuple[PyTree[Array], Array, Cost]]


class Told(NamedTuple):
    """Values of the newest steps of every row, and how many of them the host was asked for."""

    value: Float[Array, "p n"]
    calls: Int[Array, "p n"]


def none() -> RewardModel:
    """Every value is 0 and costs nothing: plain sampling from the policy."""
    return _of_particles(lambda x: jnp.zeros_like(x.value))


def from_function(value: Callable[[Array, Array], Array]) -> RewardModel:
    """Values from `value(tokens int32[s], length int32[]) -> float32[]`, a pure function of one
    solution.
    """

    def of_one(tokens: Array, length: Array) -> Array:
        return jnp.asarray(value(tokens, length), jnp.float32)

    return _of_particles(lambda x: jax.vmap(jax.vmap(of_one))(x.tokens, x.length))


Ask = Callable[[Particles], Told]


def told(values: Told | Ask | None) -> RewardModel:
    """Values that the host has found, or is asked for; None while steps are written."""

    def score(state, x: Particles):
        if values is None:
            raise ValueError("there are no values; score steps after the host has read them.")
        known = values if isinstance(values, Told) else values(x)
        return state, known.value, Cost(jnp.zeros_like(x.length), known.calls)

    return RewardModel(lambda p, n: (), score)


def combined(
    parts: Sequence[RewardModel], value: Callable[[Sequence[Array]], Array]
) -> RewardModel:
    """`value` of the values of all parts."""

    def init(p: int, n: int) -> PyTree[Array]:
        return tuple(part.init(p, n) for part in parts)

    def score(states, x: Particles):
        found = [part.score(state, x) for part, state in zip(parts, states, strict=True)]
        costs = [cost for _, _, cost in found]
        total = Cost(
            *(jnp.sum(jnp.stack(c), axis=0, dtype=jnp.int32) for c in zip(*costs, strict=True))
        )
        return tuple(state for state, _, _ in found), value([v for _, v, _ in found]), total

    return RewardModel(init, score)


def _of_particles(value: Callable[[Particles], Array]) -> RewardModel:
    """A reward without a state, that costs nothing."""

    def score(state, x: Particles):
        none = jnp.zeros_like(x.length)
        return state, value(x), Cost(none, none)

    return RewardModel(lambda p, n: (), score)


def process_reward(
    prm: RewardModule,
    prefix: cache.Prefix,
    strip_by: StripTable,
    probe: Int[Array, ""],
    *,
    step_tokens: int,
    columns: int,
    kv_format: str | None = None,
) -> RewardModel:
    """A PRM with the policy's tokenizer, scored incrementally in blocks of at most 64 tokens.

    `columns` bounds a solution's PRM tokens (tokens and probes). The value is the float32 log-odds
    at the probe. `kv_format` as in `model.Settings`.
    """
    count, block = blocks(step_tokens)
    width = count * block
    dtype = cache.suffix_dtype(prefix, kv_format)

    def init(p: int, n: int) -> PRMState:
        kv = cache.empty(prm.config, (p, n), columns + width, dtype)
        return PRMState(kv, jnp.zeros((p, n), jnp.int32))

    def score(state: PRMState, x: Particles):
        tokens, count = strip(strip_by, *last_step(x, width))
        new = x.num_steps > x.scored
        count = jnp.where(new, count + 1, 0)
        at = jnp.arange(width, dtype=jnp.int32)[None, None]
        tokens = jnp.where(at == (count - 1)[..., None], probe, tokens)
        found = passes.read(prm, prefix, state, tokens, count=count, first=x.history, block=block)
        kv = cache.commit(state.kv, found.buffer, state.length)
        after = PRMState(kv, state.length + count)
        return after, found.value, Cost(found.cost, jnp.zeros_like(found.cost))

    return RewardModel(init, score)


def widen(state: PRMState, columns: int, step_tokens: int) -> PRMState:
    """A state whose cache holds `columns` and one step more."""
    count, block = blocks(step_tokens)
    return state._replace(kv=cache.widen(state.kv, columns + count * block))
