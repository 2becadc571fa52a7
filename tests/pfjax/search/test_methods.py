"""Methods of one's own: they run in the compiled engine, compile once, and are refused in one sentence."""

import functools

import enumerable_lm
import jax.numpy as jnp
import numpy as np
import pytest

import pfjax
from pfjax import smc
from pfjax.search import METHODS, Method, Potential, answers, move_in_place, potentials

QUESTIONS = ["a?", "b?", "c?"]
solver = functools.cache(lambda: enumerable_lm.solver(tau=0.2))


def own(fraction: float = 0.3) -> Method:
    """As a notebook cell would: a resampler, a potential and an answer rule made anew."""

    def often(log_w, t):
        return smc.effective_sample_size(log_w) < fraction * log_w.shape[-1]

    def halved(tau):
        def update(aggregate, value, count):
            moved = 0.5 * aggregate + value
            return moved, (moved - aggregate) / tau

        return Potential(update)

    def last_word(found, log_weights, values):
        return max(range(len(found)), key=lambda i: (found[i] is not None, values[i]))

    return Method(smc.when(often, smc.ssp), halved, last_word, name="halved")


def test_a_method_made_anew_compiles_nothing():
    first = solver().solve(QUESTIONS, 4, 1, method=own())
    compiled = solver().compilations()
    again = solver().solve(QUESTIONS, 4, 1, method=own())
    assert solver().compilations() == compiled
    assert [r.counts.compilations for r in again] == [0] * 3
    assert [r.answer for r in first] == [r.answer for r in again]
    solver().solve(QUESTIONS, 4, 1, method=own(0.9))
    assert solver().compilations() > compiled
    assert {r.method for r in first} == {"halved"}


def test_its_weights_are_those_of_its_potential():
    """Log-weights along every path, by the potential's own words, where nothing was resampled."""
    method = own()._replace(resampler=smc.when(smc.never, smc.ssp))
    (result,) = solver().solve(QUESTIONS[:1], 8, 2, method=method)
    totals = []
    for i in range(8):
        a, total = 0.0, 0.0
        path = result.tree.path(i)
        cut = result.solutions[i].truncated and sum(len(n.tokens) for n in path) >= 5
        for node in path[: len(path) - cut]:
            moved = 0.5 * a + node.value
            a, total = moved, total + (moved - a) / 0.2
        totals.append(total)
    wanted = np.exp(totals - np.logaddexp.reduce(totals))
    np.testing.assert_allclose([s.weight for s in result.solutions], wanted, rtol=1e-3, atol=1e-6)
    assert result.log_evidence == pytest.approx(np.logaddexp.reduce(totals) - np.log(8), abs=1e-3)


def test_the_answer_is_that_of_its_rule():
    result, *_ = solver().solve(QUESTIONS, 4, 1, method=own())
    with_answer = [s for s in result.solutions if s.answer is not None] or result.solutions
    assert result.solution.value == max(s.value for s in with_answer)


def test_a_potential_may_come_as_it_is():
    """Its tau is then its own."""
    named = solver().solve(QUESTIONS, 4, 1)
    fixed = METHODS["pf"]._replace(potential=potentials.telescoping(0.2))
    assert solver().solve(QUESTIONS, 4, 1, method=fixed)[0].log_evidence == named[0].log_evidence


def test_gathered_and_moved_in_place_are_the_same():
    slow = METHODS["pf"]._replace(move=smc.gather)
    for a, b in zip(
        solver().solve(QUESTIONS, 4, 1), solver().solve(QUESTIONS, 4, 1, method=slow), strict=True
    ):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        assert a.log_evidence == b.log_evidence


@pytest.mark.slow
def test_eight_devices_give_the_same_particles():
    """Of a method of one's own, too."""
    mesh = pfjax.models.make_mesh(8, 1)
    sharded = enumerable_lm.solver(tau=0.2, mesh=mesh)
    pair = [s.solve(QUESTIONS, 4, 1, method=own(), batch=8) for s in (solver(), sharded)]
    for a, b in zip(*pair, strict=True):
        assert [s.tokens for s in a.solutions] == [s.tokens for s in b.solutions]
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=1e-4)


def three_rows(key, log_w, t):
    return jnp.zeros((1, 3), jnp.int32), log_w, jnp.ones(1, bool)


def wide(key, log_w, t):
    ancestors = jnp.broadcast_to(jnp.arange(log_w.shape[1], dtype=jnp.uint8), log_w.shape)
    return ancestors, log_w, jnp.ones(log_w.shape[0], bool)


def one_flag(key, log_w, t):
    return jnp.zeros(log_w.shape, jnp.int32), log_w, True


def update_to(result):
    return lambda tau: Potential(lambda a, v, count: result(a, v))


R, W = smc.systematic, answers.weighted_vote
WRONG = [
    (Method(three_rows), r"resampler: got ancestors of shape \(1, 3\)"),
    (Method(smc.optimal(3)), r"resampler: got ancestors of shape \(1, 3\)"),
    (Method(wide), r"resampler: got uint8\[1, 4\] where int32\[1, 4\] is wanted"),
    (Method(one_flag), r"resampler: "),
    (Method(smc.conditional(R)), "resampler: got a conditional one"),
    (Method(0.5), "resampler: got 0.5, want a function of"),
    (Method(lambda log_w: log_w), "resampler: got the function <lambda>, want a function of"),
    (Method(R, update_to(lambda a, v: v)), r"potential gives float32\[1, 4\], wanted \(aggregate"),
    (
        Method(R, update_to(lambda a, v: (a, v[0]))),
        r"potential gives \(float32\[1, 4\], float32\[4\]\)",
    ),
    (
        Method(R, update_to(lambda a, v: (a, v.astype(jnp.float16)))),
        r"potential gives \(float32\[1, 4\], float16\[1, 4\]\)",
    ),
    (Method(R, update_to(lambda a, v: 1 / 0)), "potential raised ZeroDivisionError"),
    (Method(R, lambda tau: 3), "potential gives 3 for tau"),
    (Method(R, lambda: 3), "potential raised TypeError"),
    (Method(R, 3), "potential is 3, wanted a function of tau"),
    (Method(R, select="majority"), "select is 'majority', wanted a rule"),
    (
        Method(R, select=lambda *parts: 4),
        "answer rule returned 4, wanted the index of a particle, 0 to 3",
    ),
    (Method(R, select=lambda *parts: -1), "answer rule returned -1"),
    (Method(R, select=lambda *parts: "17"), "answer rule returned '17'"),
    (Method(R, select=lambda *parts: 1.5), "answer rule returned 1.5"),
    (Method(R, select=lambda found: 0), "answer rule raised TypeError"),
    (Method(R, move=3), "move is 3, wanted smc.gather"),
    (Method(smc.multinomial, move=move_in_place), "move_in_place needs ancestors that stay"),
]


@pytest.mark.parametrize(("method", "said"), WRONG)
def test_a_wrong_method_is_named_in_one_sentence(method, said):
    with pytest.raises(ValueError, match=f"^method 'own': (its )?{said}") as error:
        solver().solve(QUESTIONS[0], 4, method=method)
    assert "\n" not in str(error.value)


def test_what_is_no_method_is_refused():
    for method in (3, None, "mcts"):
        with pytest.raises(ValueError, match="wanted a Method or one of pf, paper"):
            solver().solve(QUESTIONS[0], 4, method=method)


def test_every_name_is_an_entry_of_the_table():
    assert all(name == method.name and method.summary for name, method in METHODS.items())
