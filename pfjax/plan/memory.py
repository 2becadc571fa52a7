"""Bytes on one device while a search runs: exact for what is allocated, an estimate for temporaries.

    weights + stop tables + prompt caches + particles            exact: shapes of the engine's functions
    + moved caches + step buffers + activations                  temporaries of a step

`moved`: resampling gathers rows into new buffers. Compiled for TPUs a step held one copy of both
caches beside the state (`pytest -m tpu` compares); on a CPU it holds less. `activations` is the largest
of three: logits, log-probabilities and their sums; scores, weights and gated unit of a block of the
PRM; the same of the prompts. Caches are counted at their last size, see `reasoning.run`; those of 8
bits as TPU programs read them, byte by byte (XLA:CPU converts one layer's at a time, inside the
loops; that copy is not counted). Knows nothing of devices.
"""

from typing import NamedTuple

import jax.numpy as jnp

from pfjax.plan.shapes import Workload, caches, nbytes, prm_step, split_bytes, table_bytes
from pfjax.plan.weights import Model, is_split, weight_bytes
from pfjax.reasoning.passes import group_size


class Memory(NamedTuple):
    """Bytes on one device, see the module docstring."""

    policy_weights: int
    prm_weights: int
    tables: int
    prompts: int
    particles: int
    moved: int
    buffers: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def memory(work: Workload) -> Memory:
    """Bytes on each device of a group."""
    found = work.shapes
    pool, context = found.pool, found.context
    state = pool.state
    x = pool.state.particles
    policy_cache, prm_cache = caches(work)
    rest = x._replace(policy_cache=(), reward_state=tuple(r[1:] for r in x.reward_state))
    lengths = [p._replace(kv=()) for p in (context.policy, *context.prm)]
    prompt = sum(map(nbytes, (*lengths, context.job, pool.resampled, pool.keys, pool.busy)))
    prompt += sum(map(nbytes, (state.log_evidence, state.evidence_error, state.t, state.status)))
    prompt += split_bytes(context.policy.kv, work.policy, work.model)
    buffers = split_bytes(found.policy_buffer, work.policy, work.model)
    if work.prm is not None and found.prm_buffer is not None:
        prompt += split_bytes(context.prm[0].kv, work.prm, work.model)
        buffers += split_bytes(found.prm_buffer, work.prm, work.model)
    row = sum(
        map(nbytes, (rest, pool.state.log_weights, pool.flight, pool.ancestors, pool.row_keys))
    )
    row += policy_cache + prm_cache
    weights = work.dtype, work.weight_format, work.model
    return Memory(
        policy_weights=weight_bytes(work.policy, *weights),
        prm_weights=weight_bytes(work.prm, *weights) if work.prm else 0,
        tables=table_bytes(_strips(work)) * work.policy.config.vocab_size,
        prompts=prompt * work.problems,
        particles=row * work.rows,
        moved=(policy_cache + prm_cache) * work.rows,
        buffers=buffers * work.rows,
        activations=_activations(work),
    )


def _strips(work: Workload) -> bool:
    return work.prm is not None and not work.prm.reads_text


def _activations(work: Workload) -> int:
    found = work.shapes
    parts = [3 * 4 * work.rows * work.policy.config.vocab_size]
    width = found.context.policy.kv.k[0].shape[-1]
    parts.append(_block(work.policy, work, work.problems, width, width))
    if work.prm is not None and found.prm_buffer is not None:
        prompt, buffer = (kv.k[0].shape[-1] for kv in (found.context.prm[0].kv, found.prm_buffer))
        columns = prompt + found.pool.state.particles.reward_state[0].kv.k[0].shape[-1] + buffer
        parts.append(_block(work.prm, work, work.problems, prompt, prompt))
        step, block = prm_step(work.prm, work.budget)
        rows = work.problems * group_size(work.problems, work.particles, step, block)
        parts.append(_block(work.prm, work, rows, block, columns))
    return max(parts)


def _block(model: Model, work: Workload, rows: int, tokens: int, columns: int) -> int:
    """Bytes of one layer at work on `tokens` new tokens a row that see `columns`."""
    config, itemsize = model.config, jnp.dtype(work.dtype).itemsize
    heads = config.num_heads // (work.model if is_split(config, "q_proj", work.model) else 1)
    inner = config.intermediate_size // (
        work.model if is_split(config, "up_proj", work.model) else 1
    )
    attention = heads * columns * (4 + itemsize)
    return (
        rows * tokens * (max(attention, 3 * inner * itemsize) + 4 * config.hidden_size * itemsize)
    )
