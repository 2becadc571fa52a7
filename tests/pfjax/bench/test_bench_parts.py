"""What `pfjax bench` measures: operations as the compiler counts them, ceilings, parts of a search."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pfjax.bench import Options, ceilings, parts
from pfjax.bench.case import Case, load
from pfjax.bench.ceilings import Rate
from pfjax.bench.fill import random_module
from pfjax.bench.operations import operations, prefill_operations
from pfjax.bench.timing import timed
from pfjax.models import DecoderConfig, cache
from pfjax.plan.weights import Model

FIXTURES = Path(__file__).parents[2] / "models" / "fixtures"


def model(tied: bool, head: str | None = None) -> Model:
    """Large enough that products are nearly all of the operations."""
    sizes = {"vocab_size": 1536, "hidden_size": 256, "intermediate_size": 704, "num_layers": 2}
    sizes |= {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "max_positions": 512}
    return Model("here", DecoderConfig(**sizes, tie_embeddings=tied), head)


def random_case(particles: int | None) -> Case:
    policy, prm = str(FIXTURES / "tied"), str(FIXTURES / "prm")
    lengths = {"max_tokens": 24, "step_tokens": 8}
    return load(Options(policy, prm, particles, random=True, small=True, **lengths).checked())


@pytest.fixture(scope="module")
def tiny() -> Case:
    return random_case(None)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", [None, "classes"])
def test_operations_of_a_token_are_the_compilers(tied, head):
    """Without the head, or with it once too often, they would be off by a sixth."""
    counted, rows, widths = model(tied, head), (2, 8), (32, 48, 16)
    module = random_module(counted, "float32")
    graph, weights = nnx.split(module)
    prefix, own, buffer = (
        cache.empty(counted.config, shape, width)
        for shape, width in zip(((2,), rows, rows), widths, strict=True)
    )

    def token(weights, prefix, own, buffer):
        merged = nnx.merge(graph, weights)
        decoder = merged.decoder if head else merged
        full = jnp.full(2, widths[0], jnp.int32)
        ids, length = jnp.zeros((*rows, 1), jnp.int32), jnp.full(rows, widths[1], jnp.int32)
        start = cache.Prefix(prefix, full, full + 64)
        hidden, buffer = cache.extend(decoder, ids, start, own, length, buffer, jnp.int32(0))
        return hidden if head else decoder.logits(hidden), buffer

    compiled = jax.jit(token).lower(weights, prefix, own, buffer).compile()
    counts = compiled.cost_analysis()
    assert counts["flops"] == pytest.approx(operations(counted, 16, sum(widths)), rel=0.03)


def test_operations_of_a_prefill_are_the_compilers():
    """Counting the last layer whole would add a third."""
    counted, width = model(True), 64
    graph, weights = nnx.split(random_module(counted, "float32"))

    def prefill(weights, tokens, length):
        return cache.prefill(nnx.merge(graph, weights), tokens, length)

    tokens, length = jnp.zeros((3, width), jnp.int32), jnp.full(3, width, jnp.int32)
    flops = jax.jit(prefill).lower(weights, tokens, length).compile().cost_analysis()["flops"]
    assert flops == pytest.approx(prefill_operations(counted, [width] * 3, width), rel=0.03)
    one = counted.config.num_heads * counted.config.head_dim
    fewer = prefill_operations(counted, [64], 64) - prefill_operations(counted, [64])
    assert fewer == 4 * one * (64 * 64 - (1 + 64) * 32)


def test_operations_are_those_of_plan(tiny):
    """One formula for a forecast and for a measurement."""
    roof = parts.ceiling(tiny, 1.0, 1.0)
    context, pool = jax.eval_shape(lambda: parts._arrays(tiny))
    columns = context.policy.kv.k[0].shape[-1] + pool.policy_cache.k[0].shape[-1]
    columns += tiny.budget.block
    assert roof.decode.operations == operations(tiny.policy, tiny.rows, columns)


def test_timed_calls_and_setups():
    calls, made = [], []
    seconds = timed(calls.append, lambda: made.append(0) or len(made), repeats=3)
    assert len(seconds) == 3 and min(seconds) > 0
    assert calls == [1, 2, 3, 4] and len(made) == 4
    assert len(timed(lambda: jnp.zeros(1), repeats=4)) == 4


def test_ceilings_count_bytes_and_operations():
    rates = ceilings.copies(2000, ("copied", "in place", "read"), repeats=2)
    assert [rate.amount for rate in rates.values()] == [16_000, 16_000, 8_000]
    assert ceilings.best_copy(rates).per_second == max(
        rates[kind].per_second for kind in ("copied", "in place")
    )
    assert ceilings.matmul(32, rows=4, repeats=2).amount == 2 * 4 * 32 * 32
    assert Rate("", 12, [1.0, 9.0, 3.0]).per_second == 4


def test_the_copy_in_place_writes_where_it_reads():
    kind = ceilings._KINDS["in place"]
    x = jnp.ones(4000)
    before = x.unsafe_buffer_pointer()
    y = jax.jit(kind.fn, donate_argnums=0).lower(x).compile()(x)
    assert y.unsafe_buffer_pointer() == before and float(y[0]) == 2


@pytest.mark.slow
def test_parts_count_what_every_row_does(tiny):
    decode, score, move = (part(tiny, 1) for part in (parts.decode, parts.score, parts.move))
    assert decode.tokens == tiny.rows == 8 and "of 8" in decode.what
    assert score.tokens == 8 * (8 + 1)
    assert move is not None
    changed = int(move.what.split()[0])
    row = sum(x.nbytes for x in jax.tree.leaves(parts._arrays(tiny)[1])) // 8
    assert 0 < changed < 8 and move.bytes_moved == 2 * changed * row
    prefill = parts.prefill(tiny, "policy", 1), parts.prefill(tiny, "prm", 1)
    assert [part.tokens for part in prefill] == [2 * 127, 2 * 128]
    for part in (decode, score, move, *prefill):
        assert math.isfinite(part.seconds) and part.seconds > 0


def test_parts_donate_their_caches_and_hand_them_on():
    held = jnp.ones(8)
    call = parts._donating(lambda held, more: (held + more, ()), held, jnp.ones(8))
    call()
    assert held.is_deleted() and float(call()[0]) == 3


def test_no_row_of_a_single_particle_moves():
    assert parts.move(random_case(1), 1) is None
