"""Search methods by name: what is resampled, what weighs, which answer is taken. All run on the
same engine.

A method that never resamples is plain sampling, so its N particles are N independent samples:
majority and best-of-N cost the same tokens as the particle filter with N particles.
"""

from collections.abc import Callable
from typing import NamedTuple

from pfjax import smc
from pfjax.reasoning import potentials
from pfjax.reasoning.move import move_in_place
from pfjax.reasoning.potentials import Potential
from pfjax.search import answers

_INDEPENDENT = smc.when(smc.never, smc.systematic)


class Method(NamedTuple):
    """`potential(tau)` makes the weights; `uses_prm` is False where no value is needed at all."""

    resampler: smc.Resampler
    potential: Callable[[float], Potential]
    select: answers.Select
    uses_prm: bool = True
    summary: str = ""
    move: smc.Move = move_in_place


METHODS: dict[str, Method] = {
    "pf": Method(
        smc.adaptive_systematic,
        potentials.telescoping,
        answers.weighted_vote,
        summary="particle filter: telescoping odds, systematic in place when ESS < n/2, weighted vote",
    ),
    "paper": Method(
        smc.multinomial,
        lambda tau: potentials.odds_product(tau, absorbing=False),
        answers.best_of_n,
        summary="particle filter as run by Puri et al. 2025: multinomial every step, odds re-applied, argmax",
        move=smc.gather,
    ),
    "best-of-n": Method(
        _INDEPENDENT, potentials.telescoping, answers.best_of_n, summary="highest PRM value wins"
    ),
    "weighted-best-of-n": Method(
        _INDEPENDENT,
        potentials.telescoping,
        answers.weighted_best_of_n,
        summary="vote weighted by PRM probability",
    ),
    "majority": Method(
        _INDEPENDENT,
        potentials.telescoping,
        answers.majority,
        uses_prm=False,
        summary="most frequent answer, no PRM",
    ),
    "sample": Method(
        _INDEPENDENT,
        potentials.telescoping,
        answers.majority,
        uses_prm=False,
        summary="one sample of the policy",
    ),
}


def find(name: str) -> Method:
    """The method of that name; ValueError lists the names."""
    if name not in METHODS:
        raise ValueError(f"method is {name!r}, wanted one of {', '.join(METHODS)}.")
    return METHODS[name]
