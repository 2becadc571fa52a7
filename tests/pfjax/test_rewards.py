"""The PRM reads steps in blocks and in groups of rows of about one length."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pfjax
from pfjax import models
from pfjax.models import cache
from pfjax.reasoning import rewards
from pfjax.tasks import generate

P, N, BLOCK, BLOCKS, BEFORE = 2, 8, 4, 3, 5
NEVER = 10**9


@pytest.fixture(scope="module")
def found():
    """(values, buffer) by the least tokens of a group's block, for steps of 0 to 12 tokens behind
    suffixes of 0 to 5: in groups, and all rows at once.
    """
    prm = models.load_prm(Path(__file__).parents[1] / "models" / "fixtures" / "prm").module
    graph, weights = nnx.split(prm)
    draw = np.random.default_rng(0)
    count = draw.integers(0, BLOCKS * BLOCK + 1, (P, N)).astype(np.int32)
    count[0, :3] = 0, BLOCKS * BLOCK, BLOCK
    random = lambda kv: jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), kv)  # noqa: E731
    length = jnp.full(P, 6, jnp.int32)
    prefix = cache.Prefix(random(cache.empty(prm.config, (P,), 7)), length, length + 40)
    suffix = random(cache.empty(prm.config, (P, N), BEFORE + BLOCKS * BLOCK))
    state = rewards.PRMState(suffix, jnp.asarray(draw.integers(0, BEFORE + 1, (P, N)), jnp.int32))
    tokens = jnp.asarray(draw.integers(0, prm.config.vocab_size, (P, N, BLOCKS * BLOCK)), jnp.int32)

    def read(few: int):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewards, "FEW", few)
            fn = lambda w: rewards.read_blocks(  # noqa: E731
                nnx.merge(graph, w), prefix, state, tokens, jnp.asarray(count), BLOCK
            )
            return jax.jit(fn)(weights)

    return count, {few: read(few) for few in (0, NEVER)}


def test_groups_change_no_value(found):
    count, by_few = found
    groups, whole = (np.where(count > 0, by_few[few][0], 0) for few in (0, NEVER))
    np.testing.assert_allclose(groups, whole, atol=1e-5)
    assert len(np.unique(np.round(whole[count > 0], 4))) > 10


@pytest.mark.parametrize("part, axis", (("k", -1), ("v", -2)))
def test_groups_leave_every_row_its_cache(found, part, axis):
    count, by_few = found
    real = np.arange(BLOCKS * BLOCK) < count[..., None]
    there = np.expand_dims(real, (2, 3) if axis == -1 else (2, 4))
    groups, whole = (getattr(by_few[few][1], part) for few in (0, NEVER))
    for got, wanted in zip(groups, whole, strict=True):
        np.testing.assert_allclose(np.where(there, got, 0), np.where(there, wanted, 0), atol=1e-5)
        rows = np.asarray(wanted).reshape(P * N, -1)[count.ravel() > 0]
        assert len(np.unique(np.round(np.abs(rows).sum(1), 3))) > 10


@pytest.mark.slow
def test_a_search_in_groups_draws_the_same_particles(monkeypatch):
    """Steps of up to 16 tokens and a probe, read in blocks of 5: some take one block, some all."""
    monkeypatch.setattr(rewards, "blocks", lambda step_tokens: (-(-(step_tokens + 1) // 5), 5))
    puts, put_rows = [], rewards.put_rows
    monkeypatch.setattr(rewards, "put_rows", lambda *a: puts.append(0) or put_rows(*a))
    questions = [generate(i, "validation", (3, 4)).question for i in range(3)]

    def solve(few: int):
        monkeypatch.setattr(rewards, "FEW", few)
        solver = pfjax.load(tau=0.1, temperature=2.0)
        return solver.solve(questions, particles=8, key=3, batch=4)

    whole = solve(NEVER)
    assert not puts
    groups = solve(0)
    assert puts
    lengths = {len(node.tokens) for result in whole for node in result.tree.nodes}
    assert min(lengths) < 5 and max(lengths) > 10, lengths
    for a, b in zip(groups, whole, strict=True):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        assert [n.parent for n in a.tree.nodes] == [n.parent for n in b.tree.nodes]
        values = [[n.value for n in r.tree.nodes] for r in (a, b)]
        np.testing.assert_allclose(*values, atol=1e-4)
        assert len(a.ess) > 2 and not all(n.alive for n in a.tree.nodes)
