"""The PRM reads steps in blocks and in groups of rows of about one length."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfjax import models
from pfjax.models import cache
from pfjax.reasoning import rewards

P, N, BLOCK, BLOCKS, BEFORE = 2, 8, 4, 3, 5


@pytest.fixture(scope="module")
def found():
    """(values, buffers) by groups, for steps of 0 to 12 tokens behind suffixes of 0 to 5."""
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

    def read(groups: int):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewards, "GROUPS", groups)
            patch.setattr(rewards, "FEW", 0)
            fn = lambda w: rewards.read_blocks(  # noqa: E731
                nnx.merge(graph, w), prefix, state, tokens, jnp.asarray(count), BLOCK
            )
            return jax.jit(fn)(weights)

    return count, {groups: read(groups) for groups in (1, 4)}


def test_groups_change_no_value(found):
    count, by_groups = found
    one, four = (np.where(count > 0, by_groups[g][0], 0) for g in (1, 4))
    np.testing.assert_allclose(four, one, atol=1e-5)
    assert len(np.unique(np.round(one[count > 0], 4))) > 10


def test_groups_leave_every_row_its_cache(found):
    count, by_groups = found
    real = np.arange(BLOCKS * BLOCK) < count[..., None]
    for one, four in zip(by_groups[1][1].v, by_groups[4][1].v, strict=True):
        there = real[:, :, None, :, None]
        np.testing.assert_allclose(np.where(there, four, 0), np.where(there, one, 0), atol=1e-5)
        assert np.abs(one).max() > 0.1
