"""One block of tokens: whichever rows write, the caches of the others stay as they are."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import models
from pfjax.models import cache
from pfjax.reasoning import Budget, Sampling, automaton, particles, writing
from pfjax.reasoning.flight import begin

P, N, STEP, COLUMNS = 2, 4, 16, 24
LENGTH = np.array([[0, 3, 7, 9], [6, 2, 8, 1]], np.int32)
COUNT = np.array([[13, 14, 0, 12], [0, 5, 16, 15]], np.int32)
DONE = np.array([[True, True, False, True], [False, False, True, True]])


@pytest.fixture(scope="module")
def written():
    """(caches and flight before, the same after a block by slots); 24 columns have no room for 8 tokens
    behind three of the five rows that are done.
    """
    policy = models.load_policy(Path(__file__).parents[2] / "models" / "fixtures" / "grouped")
    config, draw = policy.config, np.random.default_rng(0)
    random = lambda kv: jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), kv)  # noqa: E731
    sizes = jnp.array([9, 5], jnp.int32)
    prefix = cache.Prefix(random(cache.empty(config, (P,), 9)), sizes, sizes + 40)
    pieces = [bytes([97 + i % 24]) for i in range(config.vocab_size)]
    table, budget = automaton.stop_table(pieces, []), Budget(STEP, 60, 4)
    x = particles.empty(
        config, sizes, jnp.ones(P, bool), N, budget=budget,
        columns=1, reward_state=(),
    )  # fmt: skip
    x = x._replace(length=jnp.asarray(LENGTH))
    flight = begin(x, budget)._replace(count=jnp.asarray(COUNT), done=jnp.asarray(DONE))
    before = random(cache.empty(config, (P, N), COLUMNS)), flight
    writer = writing.Writer(policy.decoder, prefix, table, Sampling(), budget)
    keys = jax.random.split(jax.random.key(1), (P, N))
    block = jax.jit(
        lambda slots: writing.block(writer, keys, x, *before, slots=slots), static_argnums=0
    )
    return before, {slots: block(slots) for slots in (1, 3)}


@pytest.mark.parametrize("slots", (1, 3))
def test_rows_that_are_done_stay_as_they_are(written, slots):
    """To the bit, although slots that no other row needs go to them."""
    before, after = written[0], written[1][slots]
    for old, new in zip(*(jax.tree.leaves(tree) for tree in (before, after)), strict=True):
        np.testing.assert_array_equal(np.asarray(new)[DONE], np.asarray(old)[DONE])


@pytest.mark.parametrize("slots", (1, 3))
def test_the_first_rows_that_are_not_done_write(written, slots):
    """Up to 8 tokens, behind what they had."""
    (_, old), (_, new) = written[0], written[1][slots]
    more = np.asarray(new.count - old.count)
    writes = ~DONE & (np.cumsum(~DONE, axis=1) <= slots)
    assert (more[writes] > 0).all() and not more[~writes].any()
    assert more.max() == 8
    for row in zip(*np.nonzero(writes), strict=True):
        np.testing.assert_array_equal(new.tokens[row][: COUNT[row]], old.tokens[row][: COUNT[row]])
