"""The solver on the embedded models.

Keys, batches, devices, incremental scores, counts, absorbing particles.
"""

import copy
import dataclasses
import functools

import jax
import numpy as np
import pytest

import pfjax
from pfjax.search.page import page
from pfjax.search.tree import build
from pfjax.tasks import check_steps, generate

PROBLEMS = [generate(i, "validation", (3, 4)) for i in range(7)]
QUESTIONS = [p.question for p in PROBLEMS]


@functools.cache
def solver() -> pfjax.Solver:
    return pfjax.load()


@functools.cache
def batch_of_seven():
    return solver().solve(QUESTIONS, particles=4, key=5, batch=8)


def tokens(result) -> list[list[int]]:
    return [s.tokens for s in result.solutions]


def test_a_problem_alone_gives_the_same_particles_as_in_a_batch():
    for i in (0, 4):
        alone = solver().solve(QUESTIONS[i], particles=4, key=5, batch=8)
        assert tokens(alone) == tokens(batch_of_seven()[i])
        assert alone.log_evidence == batch_of_seven()[i].log_evidence
        assert [n.parent for n in alone.tree.nodes] == [
            n.parent for n in batch_of_seven()[i].tree.nodes
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem, model",
    [(8, 1), (4, 2), (2, 4)],
)
def test_eight_devices_give_the_same_particles(problem, model):
    """Problems over the first axis, weights over the second: the same tokens and scores."""
    mesh = pfjax.models.make_mesh(problem, model)
    sharded = pfjax.load(mesh=mesh)
    results = sharded.solve(QUESTIONS, particles=4, key=5, batch=8)
    for a, b in zip(results, batch_of_seven(), strict=True):
        assert tokens(a) == tokens(b)
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, atol=1e-4)
        values = [[node.value for node in r.tree.nodes] for r in (a, b)]
        np.testing.assert_allclose(*values, atol=1e-4)


def test_other_keys_give_other_particles():
    other = solver().solve(QUESTIONS, particles=4, key=6, batch=8)
    assert [tokens(r) for r in other] != [tokens(r) for r in batch_of_seven()]


def test_same_questions_with_other_ids_differ():
    twice = solver().solve([QUESTIONS[0]] * 2, particles=4, key=5, ids=[1, 2], batch=8)
    assert tokens(twice[0]) != tokens(twice[1])


def test_incremental_values_equal_full_rescoring():
    """Every value in the tree equals prm.score of the whole path, within 1e-4."""
    prm = solver().prm
    assert prm is not None
    compared = 0
    for result in batch_of_seven()[:3]:
        for i in range(2):
            path = result.tree.path(i)
            full = prm.score(result.question, [node.text.strip() for node in path])
            whole = [
                k for k, node in enumerate(path) if node.text.endswith("\n\n") or node.finished
            ]
            got = [path[k].value for k in whole]
            np.testing.assert_allclose(got, np.asarray(full)[whole], atol=1e-4)
            compared += len(whole)
    assert compared >= 12


def test_log_prob_equals_the_teacher_forced_one():
    """The recorded log-probability of the sampled tokens is that of the full forward pass."""
    policy = solver().policy
    result = batch_of_seven()[0]
    chat = policy.tokenizer.chat([{"role": "user", "content": result.question}])
    prompt = policy.tokenizer.encode(chat)
    for solution in result.solutions[:2]:
        ids = np.array([[*prompt, *solution.tokens]], np.int32)
        logp = np.asarray(jax.nn.log_softmax(policy.logits(ids)))[0]
        rows = np.arange(len(prompt) - 1, ids.shape[1] - 1)
        np.testing.assert_allclose(
            logp[rows, ids[0, len(prompt) :]].sum(), solution.log_prob, atol=1e-3
        )


def test_counts_are_those_of_the_tree():
    """Policy tokens are those of all nodes, dead ones too.

    PRM tokens are the same without delimiters plus probes, of each distinct path once.
    """
    for result in batch_of_seven():
        nodes = result.tree.nodes
        assert result.counts.policy_tokens == sum(len(node.tokens) for node in nodes)
        paths = {}
        for i, node in enumerate(nodes):
            before = paths[node.parent] if node.parent >= 0 else ()
            paths[i] = (*before, tuple(node.tokens))
        read = sum(len(path[-1]) for path in set(paths.values()))
        assert read <= result.counts.prm_tokens <= read + len(set(paths.values()))


def test_finished_particles_stay():
    """No node grows from a finished one."""
    for result in batch_of_seven():
        nodes = result.tree.nodes
        assert all(n.parent < 0 or not nodes[n.parent].finished for n in nodes)


def test_tree_paths_are_the_solutions():
    for result in batch_of_seven():
        for i, solution in enumerate(result.solutions):
            assert [t for node in result.tree.path(i) for t in node.tokens] == solution.tokens
        assert sum(s.weight for s in result.solutions) == pytest.approx(1, abs=1e-5)
        alive = {id(n) for i in range(4) for n in result.tree.path(i)}
        assert all(node.alive == (id(node) in alive) for node in result.tree.nodes)


def test_two_programs_per_shape():
    fresh = pfjax.load()
    fresh.solve(QUESTIONS[:2], particles=4, batch=8)
    fresh.solve(QUESTIONS[2:4], particles=4, batch=8)
    assert fresh.compilations() == 2


def test_html_shows_the_tree_as_the_terminal_does_and_escapes():
    """Two particles: the second dies in resampling, the first has two children."""
    tree = build(
        np.array([[0, 1], [0, 0]]),
        np.array([[True, True], [True, True]]),
        np.array([[1.5, -2.0], [2.0, 0.0]]),
        np.zeros((2, 2), bool),
        [[("a<b", [1]), ("wrong", [2])], [("c", [3]), ("d", [4])]],
        np.array([0.75, 0.25]),
    )
    assert [n.alive for n in tree.nodes] == [True, False, True, True]
    assert [n.parent for n in tree.nodes] == [-1, -1, 0, 0] and tree.leaves == [2, 3]
    result = dataclasses.replace(
        batch_of_seven()[0], tree=tree, chosen=0, question="1 < 2?", answer=None
    )
    html = page(dataclasses.replace(result, status="<b>"))
    assert html.count("<li>") == 4 and html.count("<details open>") == 1 and "75%" in html
    assert html.count("†1") == 1 and "✗" not in html and 'class="d"' in html
    assert "a&lt;b" in html and "1 &lt; 2?" in html and "a<b" not in html and "&lt;b&gt;" in html
    assert page(batch_of_seven()[0], 3).count("<li>") < 12 and "more branch" in page(
        batch_of_seven()[0], 3
    )


def test_bad_arguments():
    s = solver()
    for question, particles, message in (
        (" ", 4, "question is empty"),
        ("x", 0, "particles is 0"),
        ("x", 10**9, "particles is 1000000000"),
        ("x " * 2000, 4, "shorten the question"),
    ):
        with pytest.raises(ValueError, match=message):
            s.solve(question, particles)
    with pytest.raises(ValueError, match="method is 'nope'"):
        s.solve("x", 2, method="nope")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": jax.random.split(jax.random.key(0))}, "key is .*, wanted a number from 0"),
        ({"key": 1.5}, "key is 1.5"),
        ({"ids": [-1]}, r"ids are \[-1\], wanted whole numbers"),
        ({"ids": [1.5]}, "ids are"),
        ({"ids": "a"}, "ids are 'a'"),
        ({"ids": [1, 2]}, "ids has 2 entries for 1 questions"),
        ({"batch": 0}, "batch is 0, wanted a whole number from 1"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"particles": "8"}, "particles is '8'"),
    ],
)
def test_arguments_of_other_kinds_are_refused(options, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        solver().solve([QUESTIONS[0]], **options)


@pytest.mark.parametrize("question", (None, 5, {"question": "x"}, ["x", None], b"x"))
def test_what_is_no_question_is_refused(question):
    with pytest.raises(ValueError, match="^question is .*, wanted a text or a list of texts"):
        solver().solve(question)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampling": pfjax.Sampling(temperature=-1)}, "temperature is -1"),
        ({"sampling": pfjax.Sampling(top_k=2.5)}, "top_k is 2.5"),
        ({"sampling": None}, "sampling is None, wanted a pfjax.Sampling"),
        ({"budget": 128}, "budget is 128, wanted a pfjax.Budget"),
        ({"budget": pfjax.Budget(12.5)}, "budget.step_tokens is 12.5"),
        ({"execution": {}}, "execution is {}, wanted a pfjax.Execution"),
        ({"execution": pfjax.Execution(rows=0)}, "execution.rows is 0"),
        ({"tau": 0}, "tau is 0, wanted a number from 1e-06"),
        ({"tau": float("nan")}, "tau is nan"),
    ],
)
def test_settings_are_checked_however_they_come(fields, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        dataclasses.replace(solver(), **fields)


def test_a_copy_begins_anew_and_a_solver_is_a_line():
    assert copy.deepcopy(solver()).compilations() == 0
    assert len(repr(solver())) < 400


def test_majority_needs_no_prm_and_spends_no_prm_tokens():
    result = solver().solve(QUESTIONS[0], particles=4, method="majority", batch=8)
    assert result.counts.prm_tokens == 0 and result.counts.policy_tokens > 0


def test_the_filter_finds_right_answers():
    """A weak end-to-end check of the trained models.

    At least 4 of 7 easy problems with 4 particles.
    """
    right = sum(r.answer == p.answer for r, p in zip(batch_of_seven(), PROBLEMS, strict=True))
    assert right >= 4
    assert any(
        all(check_steps(p, r.solution.steps))
        for p, r in zip(PROBLEMS, batch_of_seven(), strict=True)
    )
