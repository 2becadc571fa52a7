"""Rows that have written the same tokens are decoded once, and nothing that is drawn changes."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pfjax
from pfjax import models
from pfjax.models import cache
from pfjax.reasoning import Budget, Sampling, automaton, lanes, particles, writing
from pfjax.reasoning.flight import begin
from pfjax.tasks import generate

P, N, STEP, BEFORE = 3, 8, 6, 4
HISTORY = np.array([[0] * 8, [0, 0, 2, 2, 2, 2, 0, 0], [0, 0, 0, 0, 4, 4, 4, 4]], np.int32)

SHARES = ((1.0,), (0.05,), (0.25, 0.6))
WINDOWS = (None, pytest.param(5, marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=WINDOWS, ids=("full", "sliding"))
def written(request):
    """(buffer, flight, iterations in lanes and over all rows) of one block by shares of lanes.

    Rows of a problem with the same history have the same suffix. Row 5 of problem 1 is done, some
    steps end early, and temperature 0.7 keeps rows alike for a while.
    """
    policy = models.load_policy(Path(__file__).parents[1] / "models" / "fixtures" / "grouped")
    config, draw = policy.config, np.random.default_rng(0)
    if request.param is not None:
        sliding = tuple(i % 2 == 0 for i in range(config.num_layers))
        config = replace(config, sliding_window=request.param, sliding_layers=sliding)
    policy.decoder.config = config
    graph, weights = nnx.split(policy.decoder)
    random = lambda kv: jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), kv)  # noqa: E731
    suffix = random(cache.empty(config, (P, N), BEFORE + STEP))
    length = draw.integers(0, BEFORE + 1, (P, N)).astype(np.int32)
    for x in (length, *jax.tree.leaves(suffix)):
        for p in range(P):
            x[p] = x[p, HISTORY[p]]
    prompts, sizes = random(cache.empty(config, (P,), 9)), jnp.array([9, 5, 7], jnp.int32)
    prefix = jax.tree.map(jnp.asarray, cache.Prefix(prompts, sizes, sizes + 40))
    pieces = [bytes([97 + i % 24]) for i in range(config.vocab_size)]
    pieces[:6] = [b"\n\n"] * 6
    table = automaton.stop_table(pieces, [])
    budget = Budget(step_tokens=STEP, max_tokens=60, max_steps=4)
    x = particles.empty(
        config, jnp.array([3, 5, 8], jnp.int32), jnp.ones(P, bool), N, max_tokens=60, step_tokens=STEP,
        max_steps=4, columns=1, reward_state=(),
    )  # fmt: skip
    done = jnp.zeros((P, N), bool).at[1, 5].set(True)
    x = x._replace(length=jnp.asarray(length), history=jnp.asarray(HISTORY), finished=done)
    keys = jax.random.split(jax.random.key(1), (P, N))
    suffix = jax.tree.map(jnp.asarray, suffix)

    def write(shares):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lanes, "sizes", lambda p, n, *_: [int(s * p * n) for s in shares])
            rows = []
            extend = cache.extend

            def counted(decoder, tokens, *rest):
                jax.debug.callback(lambda n=tokens.shape[:2]: rows.append(n))
                return extend(decoder, tokens, *rest)

            patch.setattr(cache, "extend", counted)

            def fn(weights):
                decoder, sampling = nnx.merge(graph, weights), Sampling(temperature=0.7, top_k=3)
                writer = writing.Writer(decoder, prefix, table, sampling, budget, lanes=True)
                return writing._write(
                    writer, keys, x.length, x.history, suffix, begin(x, budget), STEP
                )

            buffer, flight = jax.block_until_ready(jax.jit(fn)(weights))
            jax.effects_barrier()
        return buffer, flight, rows

    return {s: write(s) for s in ((), *SHARES)}


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_lanes_change_no_token(written, shares):
    wanted, found = written[()][1], written[shares][1]
    for name in ("tokens", "count", "last", "done", "finished"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    np.testing.assert_allclose(found.log_prob, wanted.log_prob, atol=1e-5)
    assert len(np.unique(wanted.count)) > 3 and wanted.count[1, 5] == 0
    assert len({tuple(t) for t in np.asarray(wanted.tokens[0])}) > 3


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("part, axis", (("k", -1), ("v", -2)))
def test_lanes_leave_every_row_its_cache(written, shares, part, axis):
    """The columns of the tokens that went through the policy: all but the last of a step that ended."""
    (one, flight, _), (other, _, _) = written[()], written[shares]
    real = np.arange(STEP) < np.asarray(flight.count)[..., None]
    there = np.expand_dims(real, (2, 3) if axis == -1 else (2, 4))
    for wanted, got in zip(getattr(one, part), getattr(other, part), strict=True):
        np.testing.assert_allclose(np.where(there, got, 0), np.where(there, wanted, 0), atol=1e-5)


def test_which_loop_runs(written):
    """As many lanes as rows: none is over. Too few at once: all rows. Else some tokens each."""
    every, none, some = (written[s][2] for s in SHARES)
    assert set(every) == {(P * N, 1)} and set(none) == {(P, N)}
    assert set(some) == {(P * N // 4, 1), (int(0.6 * P * N), 1), (P, N)}
    assert len(every) == len(none) == len(some) == int(written[()][1].count.max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "step_tokens, how",
    (
        (12, {}),
        (40, {"together": 2}),
        (12, {"kv_format": "int8"}),
        (12, {"mesh": 2}),
        (40, {"together": 2, "slots": 3}),
    ),
    ids=str,
)
def test_a_search_with_lanes_draws_the_same_particles(monkeypatch, step_tokens, how):
    """Steps of one block and of several, at a common barrier and at barriers of their own."""
    if "mesh" in how:
        how = {"mesh": models.make_mesh(how["mesh"], 1)}
    questions = [generate(i, "validation", (2, 5)).question for i in range(5)]

    def solve(shares):
        monkeypatch.setattr(lanes, "SHARES", shares)
        monkeypatch.setattr(lanes, "LEAST", 1)
        budget = {"step_tokens": step_tokens, "max_tokens": 96}
        solver = pfjax.load(**budget, temperature=1.3, tau=0.3, **how)
        return solver.solve(questions, particles=8, key=5, batch=4)

    found = solve((0.125, 0.25))
    assert any(not n.alive for r in found for n in r.tree.nodes)
    for a, b in zip(solve(()), found, strict=True):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        assert [n.parent for n in a.tree.nodes] == [n.parent for n in b.tree.nodes]
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, atol=1e-4)
