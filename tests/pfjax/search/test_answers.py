"""Answer rules on hand-made particles."""

import numpy as np
import pytest

from pfjax.search import answers, find

LOG_W = np.log(np.array([0.4, 0.35, 0.25]))
VALUES = np.array([-1.0, 3.0, 0.5])


def test_weighted_vote_adds_weights():
    assert answers.weighted_vote(["1", "2", "2"], LOG_W, VALUES) == 1
    assert answers.weighted_vote(["1", "2", "3"], LOG_W, VALUES) == 0


def test_best_of_n_takes_the_highest_value_with_an_answer():
    assert answers.best_of_n(["1", None, "2"], LOG_W, VALUES) == 2
    assert answers.best_of_n([None, None, None], LOG_W, VALUES) == 1


def test_majority_ignores_weights_and_breaks_ties_by_order():
    assert answers.majority(["1", "2", "2"], LOG_W, VALUES) == 1
    assert answers.majority(["2", "1", "3"], LOG_W, VALUES) == 0


def test_weighted_best_of_n_adds_probabilities():
    assert answers.weighted_best_of_n(["1", "2", "1"], LOG_W, np.array([1.0, 1.5, 1.0])) in (0, 2)
    assert answers.weighted_best_of_n(["1", "2", "1"], LOG_W, np.array([-5.0, 1.5, -5.0])) == 1


def test_missing_answers_never_win_and_dead_particles_are_survived():
    dead = np.full(3, -np.inf)
    assert answers.weighted_vote([None, None, "4"], LOG_W, VALUES) == 2
    assert answers.weighted_vote(["1", "2", None], dead, VALUES) in (0, 1)
    assert answers.weighted_vote([None, None, None], dead, VALUES) in (0, 1, 2)


def test_unknown_method():
    with pytest.raises(ValueError, match="wanted a Method or one of pf, paper"):
        find("mcts")
