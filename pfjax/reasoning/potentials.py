"""Potentials: how PRM log-odds become weights.

A potential folds the value v_t of a new step into a running aggregate A_t (A_0 = 0, the value of
the empty solution) and gives log G_t. With `telescoping`, `maximum`, `minimum` and `mean`

    log G_t = (A_t - A_{t-1}) / tau,   so the filter's final target is   p(x) exp(A_T / tau),

whatever the number of steps: the sum telescopes and finished particles weigh 1. `odds_product`
(what the code of Puri et al. 2025, arXiv 2502.01618, runs) and `prob_product` (what its equation 2
says) multiply a factor in at every step. A value of -inf kills
its solution under all of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Potential(NamedTuple):
    """`update(aggregate, value, count)` gives (aggregate, log G); `count` >= 1 numbers the step.

    `absorbing` particles weigh 1 once finished; otherwise their last factor is multiplied in again
    at every generation.
    """

    update: Callable[[Array, Array, Array], tuple[Array, Array]]
    absorbing: bool = True


def telescoping(tau: float = 1.0) -> Potential:
    """Target p(x) exp(v_T / tau).

    The policy reweighted by the PRM's odds for the whole solution.
    """
    return _differences(lambda a, v, count: v, tau)


def maximum(tau: float = 1.0) -> Potential:
    """Target p(x) exp(max_t v_t / tau)."""
    return _differences(lambda a, v, count: jnp.where(count == 1, v, jnp.maximum(a, v)), tau)


def minimum(tau: float = 1.0) -> Potential:
    """Target p(x) exp(min_t v_t / tau)."""
    return _differences(lambda a, v, count: jnp.where(count == 1, v, jnp.minimum(a, v)), tau)


def mean(tau: float = 1.0) -> Potential:
    """Target p(x) exp(mean_t v_t / tau)."""

    def update(a, v, count):
        count = count.astype(jnp.float32)
        return a + (v - a) / jnp.maximum(count, 1.0)

    return _differences(update, tau)


def odds_product(tau: float = 1.0, absorbing: bool = True) -> Potential:
    """Target p(x) prod_t exp(v_t / tau), the product of the odds of all prefixes."""
    return Potential(lambda a, v, count: (a + v, v / tau), absorbing)


def prob_product(absorbing: bool = True) -> Potential:
    """Target p(x) prod_t sigmoid(v_t), equation 2 of Puri et al. 2025."""
    return Potential(
        lambda a, v, count: (a + jax.nn.log_sigmoid(v), jax.nn.log_sigmoid(v)), absorbing
    )


def weigh(
    potential: Potential,
    aggregate: Float[Array, "p n"],
    value: Float[Array, "p n"],
    count: Int[Array, "p n"],
    new: Bool[Array, "p n"],
    log_g: Float[Array, "p n"],
) -> tuple[Float[Array, "p n"], Float[Array, "p n"]]:
    """(aggregate, log G) where `new` marks the rows that have a step to weigh.

    The others keep A and `log_g`. A value of -inf kills, whatever the potential: A is -inf from then on.
    """
    moved, found = potential.update(aggregate, value, count)
    weighed = new | jnp.full_like(new, not potential.absorbing)
    dead = jnp.isneginf(aggregate) | (new & jnp.isneginf(value))
    moved, found = (jnp.where(dead, -jnp.inf, x) for x in (moved, found))
    return jnp.where(new, moved, aggregate), jnp.where(weighed, found, log_g)


def _differences(aggregate: Callable[[Array, Array, Array], Array], tau: float) -> Potential:
    def update(a, v, count):
        moved = aggregate(a, v, count)
        return moved, (moved - a) / tau

    return Potential(update)
