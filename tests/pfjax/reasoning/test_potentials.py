"""Potentials against sums written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax.reasoning import potentials

VALUES = [1.5, -0.5, 2.0, 0.25]


def total(potential, steps=VALUES):
    """Sum of log G over a solution's steps."""
    aggregate, log_w = jnp.zeros((1, 1)), 0.0
    for count, v in enumerate(steps, 1):
        aggregate, log_g = potentials.weigh(
            potential,
            aggregate,
            jnp.full((1, 1), v, jnp.float32),
            jnp.full((1, 1), count, jnp.int32),
            jnp.ones((1, 1), bool),
            jnp.zeros((1, 1)),
        )
        log_w += float(log_g[0, 0])
    return log_w


@pytest.mark.parametrize(
    ("potential", "wanted"),
    [
        (potentials.telescoping(0.5), 0.25 / 0.5),
        (potentials.maximum(2.0), 2.0 / 2.0),
        (potentials.minimum(1.0), -0.5),
        (potentials.mean(1.0), 3.25 / 4),
        (potentials.odds_product(2.0), 3.25 / 2),
        (
            potentials.prob_product(),
            float(np.sum(np.asarray(jax.nn.log_sigmoid(jnp.array(VALUES))))),
        ),
    ],
)
def test_the_sum_of_log_g_is_the_target(potential, wanted):
    assert total(potential) == pytest.approx(wanted, abs=1e-5)


def test_only_the_paper_weighs_finished_particles_again():
    old = jnp.zeros((1, 1), bool)
    before = jnp.zeros((1, 1))
    args = (jnp.full((1, 1), 3.0), jnp.full((1, 1), 3.0), jnp.ones((1, 1), jnp.int32), old, before)
    assert float(potentials.weigh(potentials.odds_product(), *args)[1][0, 0]) == 0.0
    paper = potentials.odds_product(absorbing=False)
    assert float(potentials.weigh(paper, *args)[1][0, 0]) == 3.0


EVERY = (
    potentials.telescoping,
    potentials.maximum,
    potentials.minimum,
    potentials.mean,
    potentials.odds_product,
    lambda: potentials.odds_product(absorbing=False),
    potentials.prob_product,
)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("at", range(3))
def test_a_value_of_minus_infinity_kills_for_good(make, at):
    """Whatever comes after it, finite or -inf again; never NaN, which would be another error."""
    for after in (2.0, -jnp.inf):
        values = [1.0] * at + [-jnp.inf, after, 0.5]
        assert total(make(), values) == -jnp.inf


def test_a_row_without_a_new_step_weighs_what_it_weighed():
    """The reference of a conditional filter is weighed twice: when it was made, and as the reference."""
    weighed = jnp.full((1, 1), 0.7)
    args = jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1), jnp.int32)
    aggregate, log_g = potentials.weigh(potentials.mean(), *args, jnp.zeros((1, 1), bool), weighed)
    assert (float(aggregate[0, 0]), float(log_g[0, 0])) == (1.0, pytest.approx(0.7))


def test_the_first_value_counts_against_zero():
    assert total(potentials.minimum(), [3.0]) == pytest.approx(3.0)
    assert total(potentials.maximum(), [-3.0]) == pytest.approx(-3.0)
