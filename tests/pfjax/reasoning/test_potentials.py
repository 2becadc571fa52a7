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
    args = (jnp.full((1, 1), 3.0), jnp.full((1, 1), 3.0), jnp.ones((1, 1), jnp.int32), old)
    assert float(potentials.weigh(potentials.odds_product(), *args)[1][0, 0]) == 0.0
    paper = potentials.odds_product(absorbing=False)
    assert float(potentials.weigh(paper, *args)[1][0, 0]) == 3.0


def test_the_first_value_counts_against_zero():
    assert total(potentials.minimum(), [3.0]) == pytest.approx(3.0)
    assert total(potentials.maximum(), [-3.0]) == pytest.approx(-3.0)
