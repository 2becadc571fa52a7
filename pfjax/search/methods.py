"""Search methods: what is resampled, what weighs, which answer is taken. All run on the same engine.

A method is a value; a name is an entry of `METHODS`. One that never resamples is plain sampling, so its N
particles are N independent samples: majority and best-of-N cost the same tokens as the particle filter
with N particles.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfjax import smc
from pfjax.reasoning import potentials
from pfjax.reasoning.move import move_in_place
from pfjax.reasoning.potentials import Potential
from pfjax.search import answers
from pfjax.search.shapes import shapes_of
from pfjax.settings.words import one_line

Name = Literal["pf", "paper", "best-of-n", "weighted-best-of-n", "majority", "sample"]
"""What `METHODS` knows, for editors."""

_INDEPENDENT = smc.when(smc.never, smc.systematic)


class Method(NamedTuple):
    """A way to search.

    `resampler` is one of pfjax.smc or of one's own, `potential` a function of tau (`potentials.mean`) or a
    `Potential`, `select` a rule (answers, log-weights, values) -> index of a particle, see `answers.py`.
    `uses_prm` is False where no value is needed: the reward is then not called. `move` copies rows;
    `move_in_place` is faster on a CPU, for resamplers that are `smc.in_place`. `name` is for reports.
    """

    resampler: smc.Resampler
    potential: Callable[[float], Potential] | Potential = potentials.telescoping
    select: answers.Select = answers.weighted_vote
    uses_prm: bool = True
    name: str = "own"
    summary: str = ""
    move: smc.Move = smc.gather

    def weighing(self, tau: float) -> Potential:
        """The potential at tau; one that was given as it is stays so."""
        return self.potential if isinstance(self.potential, Potential) else self.potential(tau)


_TABLE = (
    Method(
        smc.adaptive_systematic,
        name="pf",
        summary="particle filter: telescoping odds, systematic in place when ESS < n/2, weighted vote",
        move=move_in_place,
    ),
    Method(
        smc.multinomial,
        lambda tau: potentials.odds_product(tau, absorbing=False),
        answers.best_of_n,
        name="paper",
        summary="particle filter as run by Puri et al. 2025: multinomial every step, odds re-applied, argmax",
    ),
    Method(
        _INDEPENDENT,
        select=answers.best_of_n,
        name="best-of-n",
        summary="highest PRM value wins",
        move=move_in_place,
    ),
    Method(
        _INDEPENDENT,
        select=answers.weighted_best_of_n,
        name="weighted-best-of-n",
        summary="vote weighted by PRM probability",
        move=move_in_place,
    ),
    Method(
        _INDEPENDENT,
        select=answers.majority,
        uses_prm=False,
        name="majority",
        summary="most frequent answer, no PRM",
        move=move_in_place,
    ),
    Method(
        _INDEPENDENT,
        select=answers.majority,
        uses_prm=False,
        name="sample",
        summary="one sample of the policy",
        move=move_in_place,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _TABLE}


def find(method: str | Method) -> Method:
    """The method of that name, or itself; ValueError lists the names, or says what is no function."""
    if isinstance(method, Method):
        told = f"method {method.name!r}"
        wanted = {
            "select": "a rule, such as answers.majority",
            "move": "smc.gather or move_in_place",
        }
        for part, what in wanted.items():
            if not callable(getattr(method, part)):
                raise ValueError(f"{told}: {part} is {getattr(method, part)!r}, wanted {what}.")
        if not callable(method.potential) and not isinstance(method.potential, Potential):
            what = "a function of tau, such as potentials.mean, or a Potential"
            raise ValueError(f"{told}: potential is {method.potential!r}, wanted {what}.")
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method is {method!r}, wanted a Method or one of {', '.join(METHODS)}.")
    return METHODS[method]


def potential_of(method: Method, tau: float) -> Potential:
    """The method's potential at tau; ValueError if its function makes none."""
    told = f"method {method.name!r}: its potential"
    wanted = "wanted a function of tau that gives a Potential, such as potentials.mean"
    try:
        found = method.weighing(tau)
    except Exception as error:
        raise ValueError(f"{told} raised {_sentence(error)}; {wanted}.") from error
    if not isinstance(found, Potential):
        raise ValueError(f"{told} gives {found!r} for tau = {tau}, {wanted}.")
    return found


def require_method(method: Method, potential: Potential, n: int) -> None:
    """ValueError, which names the part, if a method cannot search with n particles.

    Nothing is computed: the functions are traced with the shapes that the engine gives them.
    """
    told = f"method {method.name!r}"
    floats = jax.ShapeDtypeStruct((1, n), jnp.float32)
    count = jax.ShapeDtypeStruct((1, n), jnp.int32)
    try:
        _trace_filter(method.resampler, n)
    except Exception as error:
        raise ValueError(f"{told}: {_sentence(error)}") from error
    wanted = f"wanted (aggregate, log G), both float32[1, {n}], for (aggregate, value, count)"
    try:
        found = jax.eval_shape(potential.update, floats, floats, count)
    except Exception as error:
        raise ValueError(f"{told}: its potential raised {_sentence(error)}; {wanted}.") from error
    if not (isinstance(found, tuple) and len(found) == 2 and all(_is_like(x, n) for x in found)):
        raise ValueError(f"{told}: its potential gives {shapes_of(found)}, {wanted}.")


def _trace_filter(resampler: smc.Resampler, n: int) -> None:
    """Raises what a filter of one problem says about the resampler."""
    model = smc.lift(lambda key: jnp.float32(0), lambda key, x, t: x, lambda x, t: jnp.float32(0))
    algorithm = smc.particle_filter(model, n, resampler)
    keys = jax.random.split(jax.random.key(0), 1)
    state, _ = jax.eval_shape(algorithm.init, keys)
    after, info = jax.eval_shape(algorithm.step, keys, state)
    rows = (1, n)
    kinds = [(info.ancestors, jnp.int32, rows), (after.log_weights, jnp.float32, rows)]
    for found, kind, shape in [*kinds, (info.resampled, bool, (1,))]:
        if found.dtype != kind or found.shape != shape:
            names = f"(int32[1, {n}], float32[1, {n}], bool[1])"
            raise ValueError(
                f"resampler: got {shapes_of(found)} where {jnp.dtype(kind)}{list(shape)} is wanted, of {names}"
            )


def _is_like(x: object, n: int) -> bool:
    return getattr(x, "shape", None) == (1, n) and getattr(x, "dtype", None) == jnp.float32


def _sentence(error: Exception) -> str:
    text = one_line(error, 500)
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
