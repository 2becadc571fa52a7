"""What the engine's programs hand on: problems in flight, and what the host keeps of them.

Every array has the problems of a group of devices in front. Knows nothing of how steps are made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pfjax import smc
from pfjax.models import cache
from pfjax.reasoning.flight import Flight
from pfjax.reasoning.move import is_cache
from pfjax.reasoning.particles import last_step


class Prompts(NamedTuple):
    """Padded prompts of p problems: the policy's without its last token, those of every PRM whole.

    `job` is the place of a problem in the list that the host works on.
    """

    policy: Int[Array, "p t"]
    policy_length: Int[Array, " p"]
    last: Int[Array, " p"]
    prm: tuple[Int[Array, "p u"], ...]
    prm_length: tuple[Int[Array, " p"], ...]
    active: Bool[Array, " p"]
    job: Int[Array, " p"]


class Context(NamedTuple):
    """Prompts' caches, read by all particles of a problem, and which problem it is."""

    policy: cache.Prefix
    prm: tuple[cache.Prefix, ...]
    job: Int[Array, " p"]


class Pool(NamedTuple):
    """p problems in flight.

    `state` is that of the filter after resampling, `flight` the steps in progress, `row_keys` what
    they are drawn with; `ancestors` and `resampled` tell how the step began. `busy` is False for
    places without a problem.
    """

    state: smc.State
    flight: Flight
    ancestors: Int[Array, "p n"]
    resampled: Bool[Array, " p"]
    keys: Key[Array, " p"]
    row_keys: Key[Array, "p n"]
    busy: Bool[Array, " p"]


class Snapshot(NamedTuple):
    """What the host keeps of one generation of c problems."""

    step: Int[Array, "c n w"]
    new_tokens: Int[Array, "c n"]
    new_reward_tokens: Int[Array, "c n"]
    new_reward_calls: Int[Array, "c n"]
    value: Float[Array, "c n"]
    log_weights: Float[Array, "c n"]
    finished: Bool[Array, "c n"]
    truncated: Bool[Array, "c n"]
    log_prob: Float[Array, "c n"]
    log_evidence: Float[Array, " c"]
    info: smc.Info


class Found(NamedTuple):
    """What one call of `advance` found.

    `problem` is each problem's place in its group of devices, places past the last mean none;
    `decoded` [1] counts rows times tokens of all loops: rows that are done and empty places too.
    """

    problem: Int[Array, " c"]
    decoded: Int[Array, " 1"]
    snapshot: Snapshot


def snapshot(state: smc.State, info: smc.Info, step_tokens: int) -> Snapshot:
    """What the host keeps of a generation of [p, n] particles, weighed and not yet resampled."""
    x = state.particles
    tokens, _ = last_step(x, step_tokens)
    return Snapshot(
        step=tokens,
        new_tokens=x.new_tokens,
        new_reward_tokens=x.new_reward_tokens,
        new_reward_calls=x.new_reward_calls,
        value=x.value,
        log_weights=state.log_weights,
        finished=x.finished,
        truncated=x.truncated,
        log_prob=x.log_prob,
        log_evidence=state.log_evidence,
        info=info,
    )


def ready(busy: Bool[Array, " p"], flight: Flight) -> Bool[Array, " p"]:
    """Problems whose particles have all written their steps."""
    return busy & jnp.all(flight.done, axis=1)


def take(tree: PyTree[Array], places: Int[Array, " c"]) -> PyTree[Array]:
    """The problems at `places`."""
    return jax.tree.map(lambda x: x[places], tree)


def put(tree: PyTree[Array], part: PyTree[Array], places: Int[Array, " c"]) -> PyTree[Array]:
    """`part` at `places`; places past the last are dropped."""
    return jax.tree.map(lambda x, new: x.at[places].set(new, mode="drop"), tree, part)


def put_around_caches(
    tree: PyTree[Array], part: PyTree[Array], places: Int[Array, " c"]
) -> PyTree[Array]:
    """`put`, but caches in `tree` keep what they hold."""
    write = lambda x, new: x if is_cache(x) else put(x, new, places)  # noqa: E731
    return jax.tree.map(write, tree, part, is_leaf=is_cache)
