"""The least time that decoding and scoring take on a device: the slowest of three ceilings.

    seconds = max(bytes read / bandwidth,   operations / peak,   bytes sent / link)

Decoding reads the streamed weights and every allocated cache column once per token iteration, filled
or not; scoring runs a whole step in padded blocks through the PRM, of as many tokens as there is room
for if it reads text. Over a model axis of m devices the hidden states are all-reduced twice a layer
and leave each device 2 (m - 1) / m times, the logits are gathered and leave it (m - 1) / m times.
Weights and caches of 8 bits are multiplied as bfloat16; float32 is taken at half the bfloat16 peak.
Williams, Waterman and Patterson 2009, Roofline, doi 10.1145/1498765.1498785. A ceiling, not a
forecast: rows that wait for the longest step, launch gaps and sampling come on top. Knows nothing of
how much memory there is.
"""

from typing import NamedTuple

import jax.numpy as jnp

from pfjax.models import cache
from pfjax.plan.devices import Device
from pfjax.plan.shapes import Workload, caches, prm_step, split_bytes
from pfjax.plan.weights import Model, is_split, streamed


class Ceiling(NamedTuple):
    """Bytes read, operations and bytes sent by one device, and the seconds each takes."""

    bytes_read: int
    operations: int
    bytes_sent: int
    memory_seconds: float
    compute_seconds: float
    link_seconds: float

    @property
    def seconds(self) -> float:
        """The slowest of the three."""
        return max(self.memory_seconds, self.compute_seconds, self.link_seconds)

    @property
    def bound(self) -> str:
        """Which one that is: memory, compute or link."""
        if self.seconds == self.memory_seconds:
            return "memory"
        return "compute" if self.seconds == self.compute_seconds else "link"


class Roofline(NamedTuple):
    """Ceilings of one token iteration and of scoring one step, and of a generation of full steps.

    Tokens per second are those of all groups of devices together.
    """

    weight_bytes_streamed: int
    decode: Ceiling
    scoring: Ceiling | None
    move_seconds: float
    generation_seconds: float
    tokens_per_second: float
    tokens_per_second_with_scoring: float


def roofline(work: Workload, device: Device, groups: int) -> Roofline:
    """The ceilings of `groups` groups of devices that do the same work."""
    decode, scoring = _decode(work, device), _scoring(work, device)
    move = 2 * sum(caches(work)) * work.rows / device.bandwidth
    steps = work.budget.step_tokens
    generation = steps * decode.seconds + move + (scoring.seconds if scoring else 0.0)
    rows = groups * work.rows
    return Roofline(
        weight_bytes_streamed=_stream(work, work.policy),
        decode=decode,
        scoring=scoring,
        move_seconds=move,
        generation_seconds=generation,
        tokens_per_second=rows / decode.seconds,
        tokens_per_second_with_scoring=rows * steps / generation,
    )


def _decode(work: Workload, device: Device) -> Ceiling:
    found = work.shapes
    own = (found.pool.state.particles.policy_cache, found.policy_buffer)
    columns, read = _attended(work, work.policy, found.context.policy.kv, own)
    logits = 4 * work.rows * work.policy.config.vocab_size * (work.model - 1) // work.model
    operations, sent = _layers(work, work.policy, work.rows, columns)
    read += _stream(work, work.policy)
    return _ceiling(work, device, read, operations, sent + logits)


def _scoring(work: Workload, device: Device) -> Ceiling | None:
    found = work.shapes
    if work.prm is None or found.prm_buffer is None:
        return None
    own = (found.pool.state.particles.reward_state[0].kv, found.prm_buffer)
    columns, read = _attended(work, work.prm, found.context.prm[0].kv, own)
    width, block = prm_step(work.prm, work.budget)
    operations, sent = _layers(work, work.prm, work.rows * width, columns)
    return _ceiling(
        work, device, width // block * (_stream(work, work.prm) + read), operations, sent
    )


def _attended(
    work: Workload, model: Model, prompt: cache.KV, own: tuple[cache.KV, ...]
) -> tuple[int, int]:
    """(columns that a token sees, bytes of them that one pass reads)."""
    shared = split_bytes(prompt, model, work.model) * work.problems
    private = sum(split_bytes(kv, model, work.model) for kv in own) * work.rows
    return sum(kv.k[0].shape[-1] for kv in (prompt, *own)), shared + private


def _layers(work: Workload, model: Model, tokens: int, columns: int) -> tuple[int, int]:
    """(operations, bytes sent) of one device for so many tokens that each see so many columns."""
    config, size = model.config, work.model
    used = streamed(model, work.dtype, work.weight_format, size)
    heads = config.num_heads // (size if is_split(config, "q_proj", size) else 1)
    attention = 4 * heads * config.head_dim * columns * config.num_layers
    products = 2 * sum(p.local_size for p in used if len(p.shape) == 2)
    hidden = tokens * config.hidden_size * jnp.dtype(work.dtype).itemsize
    reduced = sum(is_split(config, name, size) for name in ("o_proj", "down_proj"))
    sent = reduced * config.num_layers * hidden * 2 * (size - 1) // size
    return tokens * (products + attention), sent


def _ceiling(work: Workload, device: Device, read: int, operations: int, sent: int) -> Ceiling:
    half = jnp.dtype(work.dtype).itemsize == 2
    peak = device.peak_bf16 if half else device.peak_bf16 / 2
    seconds = read / device.bandwidth, operations / peak, sent / device.link
    return Ceiling(read, operations, sent, *seconds)


def _stream(work: Workload, model: Model) -> int:
    used = streamed(model, work.dtype, work.weight_format, work.model)
    return sum(p.local_size * p.itemsize for p in used)
