"""What a PRM that reads text is given, how much room it has, and what the device does meanwhile."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_prms import FIXTURES, policy, prm, spelled_out

import pfjax
from pfjax import models
from pfjax.bench import Options
from pfjax.bench.case import load
from pfjax.engine import run
from pfjax.engine.text_engine import TextEngine
from pfjax.models.formats import PRM_KINDS
from pfjax.plan import sources
from pfjax.reasoning import foreign, particles
from pfjax.reasoning.asked import step_text
from pfjax.search import Execution
from pfjax.search.loading import resolve
from pfjax.settings.budget import Budget

BUDGET = Budget(step_tokens=12, max_tokens=60, max_steps=7)


def test_who_reads_text():
    embedded = models.load_prm(resolve("embedded:prm"))
    assert not foreign.reads_text(policy(), embedded)
    assert foreign.reads_text(policy(), replace(embedded, kind=spelled_out(embedded.kind)))
    assert foreign.reads_text(policy(), replace(embedded, kind=models.QWEN_ONCE))
    assert foreign.reads_text(policy(), prm("qwen")) and prm("qwen").format.plain


@pytest.mark.parametrize("name", PRM_KINDS)
def test_plan_knows_which_kinds_read_text(name):
    assert prm(name).format.plain == (name in sources.PLAIN)


def test_bench_refuses_prms_that_read_text(tmp_path):
    """Of the same head and tokenizer, by what config.json notes."""
    config = json.loads((FIXTURES / "prm" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pfjax_prm": "qwen-once"}))
    options = Options(str(FIXTURES / "tied"), str(tmp_path), random=True, small=True).checked()
    with pytest.raises(
        models.CheckpointError, match="reads text .*one of kind 'qwen' or 'skywork'"
    ):
        load(options)


def steps(rows: list[list[int]], before: list[int]) -> foreign.Steps:
    tokens = np.zeros((1, len(rows), 12), np.int32)
    for i, row in enumerate(rows):
        tokens[0, i, : len(row)] = row
    count, zero = np.array([[len(row) for row in rows]]), np.zeros((1, len(rows)), np.int32)
    behind = np.full((1, len(rows), 3), -1, np.int32)
    return foreign.Steps(tokens, count, np.array([before]), zero, np.array([5]), behind)


@pytest.mark.parametrize("name", ("rlhflow", "math-shepherd", "qwen-once"))
def test_what_the_prm_is_given(name):
    """Without delimiter, EOS and white space; `after` behind an earlier step only; nothing for no step."""
    own, model = policy().tokenizer, prm(name)
    (eos,) = own.encode("=")  # not a special token, which would be no text anyway
    ids = [own.encode(text) for text in ("Ann has 3.\n\n", " 4 + 5 = 9.")]
    read = foreign.Reader(partial(step_text, replace(policy(), eos_ids=(eos,))), model)(
        steps([ids[0], [*ids[1], eos], [], [eos]], [0, 2, 1, 1])
    )
    form = model.format
    assert read == [
        form.step("Ann has 3.", True) + list(form.probe),
        list(form.after) + form.step("4 + 5 = 9.", False) + list(form.probe),
        [],
        list(form.after) + form.step("", False) + list(form.probe),
    ]


def test_a_character_that_began_in_the_step_before_is_read_whole():
    """Its first bytes are the last tokens behind; without them the rest is no character."""
    own, model = policy().tokenizer, prm("math-shepherd")
    bytes_of = own.encode("\u00e9")
    assert len(bytes_of) == 2 and own.decode(bytes_of[1:]) == "\ufffd"
    asked = steps([[bytes_of[1], *own.encode(" = 9.")]], [1])
    behind = np.array([[[*own.encode("A")[-1:], *own.encode("B")[-1:], bytes_of[0]]]], np.int32)
    read = foreign.Reader(partial(step_text, policy()), model)
    form = model.format
    (found,) = read(asked._replace(behind=behind))
    assert found == list(form.after) + form.step("\u00e9 = 9.", False) + list(form.probe)
    assert read(asked) != [found]


def test_the_last_tokens_of_solutions():
    tokens = jnp.array([[[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]]])
    blank = particles.Particles(*[()] * len(particles.Particles._fields))
    x = blank._replace(tokens=tokens, length=jnp.array([[4, 2, 0]]))
    assert particles.last_tokens(x, 3).tolist() == [[[2, 3, 4], [-1, 5, 6], [-1, -1, -1]]]


def test_room_doubles_up_to_the_context():
    room = foreign.room(BUDGET, 300, around=5)
    assert room == foreign.Reading(solution=125, step=23, block=17, dropped=0, most=300)
    assert room.holding(125, 23) == room and room.holding(126, 5).solution == 250
    twice = room.holding(126, 24)
    assert twice == room._replace(solution=250, step=46)
    assert twice.holding(251, 299) == room._replace(solution=300, step=299)
    assert foreign.room(BUDGET, 20, around=5)[:2] == (20, 20)


def test_a_step_without_room_is_not_read():
    """Five tokens of the question and some of the solution before it; one more is one too many."""
    own, model = policy().tokenizer, prm("skywork")
    asked = steps([own.encode("Ann has 3."), own.encode("Ann has 3."), []], [1, 1, 1])
    (fits, other, _) = foreign.Reader(partial(step_text, policy()), model)(asked)
    assert fits and fits == other
    before = model.config.max_positions - 5 - len(fits)
    asked = asked._replace(length=np.array([[before, before + 1, before + 1]]))
    assert foreign.Reader(partial(step_text, policy()), model)(asked) == [fits, None, []]


def test_a_solution_ends_with_a_step_that_is_not_read():
    x = particles.empty(
        policy().config, jnp.zeros(1, jnp.int32), jnp.ones(1, bool), 3,
        budget=BUDGET, columns=1, reward_state=(),
    )  # fmt: skip
    x = x._replace(num_steps=x.num_steps + 2, scored=x.scored + 1)
    room = foreign.room(BUDGET, 300)
    x = foreign.ended(x, foreign.Text(room, None, jnp.array([[4, -1, 0]])))
    only = [[False, True, False]]
    assert x.finished.tolist() == x.truncated.tolist() == only
    assert x.scored.tolist() == [[1, 2, 1]]


def engine(**fields) -> TextEngine:
    how = Execution(**fields)
    made = pfjax.Solver(policy(), prm("rlhflow"), budget=BUDGET, execution=how).engine("pf", 4, 3)
    assert isinstance(made, TextEngine)
    return made


def test_the_context_of_the_prm_is_the_room_of_its_text():
    """A rotary embedding that goes by the length of the sequence has to know it."""
    made = engine()
    prompts = run.pad([([1, 2, 3], [1, 2, 3, 4])], 3, 8)
    keys = jax.random.split(jax.random.key(0), 3)

    def context(params, prompts):
        found, _ = made.programs.start(60, params, prompts, keys)
        return found.prm[0].context, found.policy.context

    seen = jax.jit(context)(made.params, prompts)
    assert made.reading(0).solution > 3 * (60 + 7)
    assert seen[0].tolist()[0] == 4 + made.reading(0).solution and seen[1].tolist()[0] == 2 + 60


def test_writing_touches_nothing_but_steps_and_policy_caches():
    """One of three problems is weighed at a time: the others' caches are not gathered for it."""
    made = engine(together=1)
    context, pool = made.shapes(run.pad([([1, 2], [1, 2])] * 3, 3, 8), 60)
    traced, (after, _) = jax.make_jaxpr(made._write, return_shape=True)(made.params, context, pool)
    (call,) = traced.eqns
    inner = call.params["jaxpr"].jaxpr
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(after)[0]]
    begin = len(jax.tree.leaves((made.params, context)))
    given, found = inner.invars[begin:], inner.outvars[: len(paths)]
    assert len(given) == len(paths)
    (loop,) = (eqn for eqn in inner.eqns if eqn.primitive.name == "while")
    for path, old, new in zip(paths, given, found, strict=True):
        name = jax.tree_util.keystr(path)
        written = name.startswith((".flight", ".state.particles.policy_cache"))
        assert new in loop.outvars if written else new is old, name
