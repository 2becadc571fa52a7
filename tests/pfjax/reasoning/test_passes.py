"""The PRM reads each distinct partial solution once, in blocks and in groups of rows of one length."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pfjax
from pfjax import models
from pfjax.models import cache
from pfjax.reasoning import passes
from pfjax.settings.sampling import Sampling
from pfjax.tasks import generate

P, N, BLOCK, BLOCKS, BEFORE = 2, 8, 4, 3, 5
NEVER = 10**9


@pytest.fixture(scope="module")
def found():
    """What is read by the least tokens of a pass, for steps of 0 to 12 tokens behind suffixes of 0 to
    5: some rows at a time, and all at once. Rows 4 and 6 of problem 0 are copies of row 3, and row 7
    of problem 1 has the step of row 2 behind another suffix.
    """
    prm = models.load_prm(Path(__file__).parents[2] / "models" / "fixtures" / "prm").module
    graph, weights = nnx.split(prm)
    draw = np.random.default_rng(0)
    count = draw.integers(1, BLOCKS * BLOCK + 1, (P, N)).astype(np.int32)
    count[0, :4] = 0, BLOCKS * BLOCK, BLOCK, 7
    count[1, 2] = 9
    random = lambda kv: jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), kv)  # noqa: E731
    length = jnp.full(P, 6, jnp.int32)
    prompts = jax.tree.map(jnp.asarray, random(cache.empty(prm.config, (P,), 7)))
    prefix = cache.Prefix(prompts, length, length + 40)
    suffix = random(cache.empty(prm.config, (P, N), BEFORE + BLOCKS * BLOCK))
    before = draw.integers(0, BEFORE + 1, (P, N)).astype(np.int32)
    tokens = draw.integers(0, prm.config.vocab_size, (P, N, BLOCKS * BLOCK)).astype(np.int32)
    first = np.tile(np.arange(N, dtype=np.int32), (P, 1))
    first[0, [4, 6]] = 3
    for x in (count, before, tokens, *jax.tree.leaves(suffix)):
        x[0, [4, 6]] = x[0, 3]
    count[1, 7], tokens[1, 7] = count[1, 2], tokens[1, 2]
    state = jax.tree.map(jnp.asarray, passes.PRMState(suffix, before))

    def read(few: int):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passes, "FEW", few)
            rest = {"count": jnp.asarray(count), "first": jnp.asarray(first), "block": BLOCK}
            fn = lambda w: passes.read(  # noqa: E731
                nnx.merge(graph, w), prefix, state, jnp.asarray(tokens), **rest
            )
            return jax.jit(fn)(weights)

    return count, {few: read(few) for few in (1, 20, NEVER)}


@pytest.mark.parametrize("few", (1, 20))
def test_passes_change_no_value(found, few):
    """A group of two rows at a time, three of them, and all at once."""
    count, by_few = found
    some, whole = (np.where(count > 0, by_few[f].value, 0) for f in (few, NEVER))
    np.testing.assert_allclose(some, whole, atol=1e-5)
    assert len(np.unique(np.round(whole[count > 0], 4))) == count.size - 3
    assert abs(whole[1, 7] - whole[1, 2]) > 1e-3


@pytest.mark.parametrize("few", (1, 20))
@pytest.mark.parametrize("part, axis", (("k", -1), ("v", -2)))
def test_passes_leave_every_row_its_cache(found, part, axis, few):
    count, by_few = found
    real = np.arange(BLOCKS * BLOCK) < count[..., None]
    there = np.expand_dims(real, (2, 3) if axis == -1 else (2, 4))
    some, whole = (getattr(by_few[f].buffer, part) for f in (few, NEVER))
    for got, wanted in zip(some, whole, strict=True):
        np.testing.assert_allclose(np.where(there, got, 0), np.where(there, wanted, 0), atol=1e-5)
        rows = np.asarray(wanted).reshape(P * N, -1)[count.ravel() > 0]
        assert len(np.unique(np.round(np.abs(rows).sum(1), 3))) > 10


def test_copies_cost_nothing(found):
    count, by_few = found
    wanted = count.copy()
    wanted[0, [4, 6]] = 0
    for result in by_few.values():
        np.testing.assert_array_equal(result.cost, wanted)


def test_copies_take_what_was_read(found):
    """To the bit, not computed again."""
    read = found[1][1]
    for array in (read.value, *read.buffer.k, *read.buffer.v):
        for row in (4, 6):
            np.testing.assert_array_equal(array[0, row], array[0, 3])


@pytest.mark.slow
def test_a_search_in_passes_draws_the_same_particles(monkeypatch):
    """Steps of up to 16 tokens and a probe, read in blocks of 5: some take one block, some all."""
    monkeypatch.setattr(passes, "blocks", lambda step_tokens: (-(-(step_tokens + 1) // 5), 5))
    monkeypatch.setattr("pfjax.reasoning.rewards.blocks", passes.blocks)
    puts, put = [], passes._put
    monkeypatch.setattr(passes, "_put", lambda *a: puts.append(0) or put(*a))
    questions = [generate(i, "validation", (3, 4)).question for i in range(3)]

    def solve(few: int):
        monkeypatch.setattr(passes, "FEW", few)
        solver = pfjax.load(tau=0.1, sampling=Sampling(2.0))
        return solver.solve(questions, particles=8, key=3, batch=4)

    whole = solve(NEVER)
    assert not puts
    some = solve(1)
    assert puts
    lengths = {len(node.tokens) for result in whole for node in result.tree.nodes}
    assert min(lengths) < 5 and max(lengths) > 10, lengths
    for a, b in zip(some, whole, strict=True):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        assert [n.parent for n in a.tree.nodes] == [n.parent for n in b.tree.nodes]
        values = [[n.value for n in r.tree.nodes] for r in (a, b)]
        np.testing.assert_allclose(*values, atol=1e-4)
        assert a.counts.prm_tokens == b.counts.prm_tokens
        assert len(a.ess) > 2 and not all(n.alive for n in a.tree.nodes)
