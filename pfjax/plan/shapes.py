"""What the engine allocates, as abstract arrays, and what one device holds of it.

Shapes come from `jax.eval_shape` of the engine's own functions for one problem with one particle;
everything else is a multiple, because the leading axes of every array are problems and particles.
Key-value heads are divided over the model axis where it divides them, scales of int8 entries with
them. Knows nothing of weights.
"""

from functools import lru_cache
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pfjax import smc
from pfjax.engine.pool import Context, Pool
from pfjax.engine.run import bucket, pad
from pfjax.models import cache
from pfjax.models.config import DecoderConfig
from pfjax.models.prm import RewardModule
from pfjax.plan.weights import Model, is_split
from pfjax.reasoning import automaton, foreign, particles, rewards
from pfjax.reasoning.flight import begin
from pfjax.reasoning.passes import blocks
from pfjax.reasoning.strip import strip_table
from pfjax.settings.budget import Budget


class Workload(NamedTuple):
    """What one group of devices, a model axis of `model`, holds and does.

    `kv_format` is that of the particles' own caches; prompts and steps in progress are in `dtype`.
    """

    policy: Model
    prm: Model | None
    dtype: str
    weight_format: str | None
    model: int
    budget: Budget
    prompt_tokens: int
    particles: int
    problems: int
    kv_format: str | None = None

    @property
    def shapes(self) -> "Shapes":
        """What the engine allocates for one of its problems with one particle."""
        how = self.budget, self.prompt_tokens, self.dtype, self.kv_format
        return shapes(self.policy, self.prm, *how)

    @property
    def rows(self) -> int:
        """Particles of all problems of the group."""
        return self.particles * self.problems


class Shapes(NamedTuple):
    """What the engine allocates for one problem with one particle."""

    context: Context
    pool: Pool
    policy_buffer: cache.KV
    prm_buffer: cache.KV | None


class _Config(NamedTuple):
    """Stands in for a reward module: a cache is shaped by its config alone."""

    config: DecoderConfig


@lru_cache(maxsize=64)
def shapes(
    policy: Model,
    prm: Model | None,
    budget: Budget,
    prompt_tokens: int,
    dtype: str,
    kv_format: str | None = None,
) -> Shapes:
    """Abstract arrays of the engine for one problem and one particle."""
    kept = jnp.dtype(dtype)
    ids = [0] * prompt_tokens
    prompts = jax.eval_shape(lambda: pad([(ids,)], 1, bucket(prompt_tokens)))
    prm_columns = budget.prm_tokens

    def allocate() -> Shapes:
        prefix = _prefix(policy, prompts.policy.shape[1], kept)
        own = cache.suffix_dtype(prefix, kv_format)
        step = cache.empty(policy.config, (1, 1), budget.block, kept)
        if prm is None:
            context = Context(prefix, (), prefix.length)
            return Shapes(context, _pool(policy, budget, (), own), step, None)
        prm_prefix = _prefix(prm, prompts.policy.shape[1], kept)
        reward = _reward(prm, prm_prefix, budget, prm_columns, kv_format).init(1, 1)
        buffer = cache.empty(prm.config, (1, 1), prm_step(prm, budget)[0], kept)
        pool = _pool(policy, budget, (reward,), own)
        return Shapes(Context(prefix, (prm_prefix,), prefix.length), pool, step, buffer)

    return jax.eval_shape(allocate)


def prm_step(prm: Model, budget: Budget) -> tuple[int, int]:
    """Columns of a step in the PRM's buffer, and how many of them are read at a time."""
    if prm.reads_text:
        room = foreign.room(budget, prm.config.max_positions)
        return room.width, room.block
    count, block = blocks(budget.step_tokens)
    return count * block, block


def _pool(policy: Model, budget: Budget, reward: PyTree[Array], dtype: jnp.dtype) -> Pool:
    blank = particles.empty(
        policy.config,
        jnp.zeros(1, jnp.int32),
        jnp.ones(1, bool),
        1,
        budget=budget,
        columns=budget.max_tokens + budget.slack,
        reward_state=reward,
        dtype=dtype,
    )
    key, no = jax.random.split(jax.random.key(0), 1), jnp.zeros(1, bool)
    state = smc.start(key, blank, 1)
    stay = jnp.zeros((1, 1), jnp.int32)
    return Pool(state, begin(blank, budget), stay, no, key, key[:, None], no)


def _prefix(model: Model, width: int, dtype: jnp.dtype) -> cache.Prefix:
    length = jnp.zeros(1, jnp.int32)
    return cache.Prefix(cache.empty(model.config, (1,), width, dtype), length, length)


def _reward(
    prm: Model, prefix: cache.Prefix, budget: Budget, columns: int, kv_format: str | None
) -> rewards.RewardModel:
    module = cast(RewardModule, _Config(prm.config))
    if prm.reads_text:
        text = foreign.Text(foreign.room(budget, prm.config.max_positions))
        return foreign.text_reward(module, prefix, text, kv_format=kv_format)
    strip = strip_table([b""], [0])
    return rewards.process_reward(
        module,
        prefix,
        strip,
        jnp.int32(0),
        step_tokens=budget.step_tokens,
        columns=columns,
        kv_format=kv_format,
    )


def caches(work: Workload) -> tuple[int, int]:
    """Bytes on each device of one particle's policy cache and PRM cache."""
    x = work.shapes.pool.state.particles
    policy = split_bytes(x.policy_cache, work.policy, work.model)
    return policy, split_bytes(x.reward_state[0].kv, work.prm, work.model) if work.prm else 0


def kv_bytes(model: Model, dtype: str, size: int = 1, kv_format: str | None = None) -> int:
    """Cache bytes of one token, after the prompt, on one device of a model axis."""
    kept = jnp.dtype(kv_format or dtype)
    kv = jax.eval_shape(lambda: cache.empty(model.config, (1,), 1, kept))
    return split_bytes(kv, model, size)


def nbytes(tree: object) -> int:
    """Bytes of all leaves, arrays or abstract."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def split_bytes(kv: cache.KV, model: Model, size: int) -> int:
    """Bytes of a cache on one device of a model axis."""
    return nbytes(kv) // (size if is_split(model.config, "k_proj", size) else 1)


@lru_cache(maxsize=2)
def table_bytes(strips: bool) -> int:
    """Bytes a token id takes in the table that finds step ends, and the one that strips delimiters."""
    tables = jax.eval_shape(
        lambda: (automaton.stop_table([b""], [0]), strip_table([b""], [0]) if strips else ())
    )
    return nbytes(tables)
