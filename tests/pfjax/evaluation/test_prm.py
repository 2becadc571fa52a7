"""Measures of a PRM against what they are by hand: siblings, calibration, Bellman errors."""

import enumerable_lm
import numpy as np
import pytest

from pfjax.evaluation import prm
from pfjax.evaluation.checked import Checked, Scored, scored


def rows(table):
    return [Scored(p, t, v, right, kind) for p, t, v, right, kind in table]


TABLE = rows(
    [
        (0, 0, 2.0, True, ""),
        (0, 0, 1.0, True, ""),
        (0, 0, 1.5, False, "look-up"),
        (0, 0, 1.0, False, "arithmetic +"),
        (0, 1, 9.0, True, ""),  # no sibling is wrong
        (1, 0, -3.0, True, ""),
        (1, 0, -4.0, False, "look-up"),
        (1, 1, 0.0, False, "look-up"),  # none is right
    ]
)


def test_siblings_are_compared_within_a_problem_and_a_step():
    found = prm.siblings(TABLE)
    assert set(found) == {"all", "look-up", "arithmetic +"}
    assert found["look-up"]["pairs"] == 3 and found["look-up"]["AUC"] == pytest.approx(2 / 3)
    assert found["arithmetic +"]["AUC"] == pytest.approx(1.5 / 2)
    assert found["all"]["pairs"] == 5 and found["all"]["AUC"] == pytest.approx(3.5 / 5)


def test_the_interval_of_siblings_covers_what_it_should():
    """400 data sets of 60 problems whose AUC is 0.75; 95 % of the intervals hold it, within four sigma."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        found = []
        for p in range(60):
            shift = rng.choice([-1, 1])  # some problems are harder than others
            for i in range(8):
                right = i % 2 == 0
                # 3/4 of right ones are above a wrong one.
                value = shift * 100 + (rng.random() < 0.75 if right else 0.5)
                found.append(Scored(p, 0, float(value), right, "" if right else "x"))
        row = prm.siblings(found)["all"]
        covered.append(row["low"] <= 0.75 <= row["high"])
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)


def test_calibration_by_hand():
    found = prm.calibration(
        rows([(0, 0, 0.0, True, ""), (0, 0, 0.0, True, ""), (0, 0, -100.0, False, "x")])
    )
    assert found["Brier"] == pytest.approx((0.25 + 0.25 + 0) / 3)
    assert found["ECE"] == pytest.approx((2 * 0.5 + 0) / 3)
    assert found["base rate"] == pytest.approx(2 / 3)


def test_steps_up_to_the_first_wrong_one():
    result = enumerable_lm.solver().solve("a?", 8, 1)
    problem = Checked("a?", "x", lambda steps: [i == 0 for i in range(len(steps))], lambda s: "k")
    found = scored([result], [problem])
    lengths = [len(result.tree.path(i)) for i in range(8)]
    assert len(found) == sum(min(n, 2) for n in lengths)
    assert all(row.right == (row.step == 0) == (row.kind == "") for row in found)
    values = [node.value for i in range(8) for node in result.tree.path(i)[:2]]
    assert [row.value for row in found] == values


def test_bellman_errors_by_hand():
    """0 where v never changes, a half where it rises by a half, and the log of a mean where steps differ."""
    solver = enumerable_lm.solver()
    problem = Checked("a?", "x", lambda steps: [True] * len(steps), lambda s: "")
    zero = prm.bellman(solver.with_prm(lambda question, steps: 0.0), [problem], roll_outs=8)
    assert zero["rms"] == 0 and zero["by step"][-1]["n"] == 1
    rising = prm.bellman(
        solver.with_prm(lambda question, steps: 0.5 * len(steps)), [problem], roll_outs=8
    )
    assert rising["by step"][-1]["rms"] == pytest.approx(0.5, abs=1e-6)
    assert rising["by step"][0]["mean"] == pytest.approx(0.5, abs=1e-6)
    # Half of the next steps in expectation: log of the mean of exp(v) over what is drawn.
    coin = prm.bellman(
        solver.with_prm(lambda question, steps: float(len(steps[-1]) % 2)),
        [problem],
        roll_outs=4096,
    )
    first = coin["by step"][-1]["mean"]
    drawn = solver.with_prm(None).solve("a?", 4096, 7, method="majority")
    share = np.mean([len(s.steps[0]) % 2 for s in drawn.solutions])
    assert first == pytest.approx(np.log(1 - share + share * np.e), abs=4 * 0.5 * 1.72 / 45)
