"""The shapes that everything in `pfjax.smc` has: a model, a resampler, an algorithm.

    Feynman-Kac path measure   Q_t = M_0(dx_0) G_0(x_0) prod_s M_s(x_s-1, dx_s) G_s(x_s) / L_t

Reference: Chopin and Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 5.
`*batch` are independent problems (often none); `n` are the particles of one problem.
Knows no algorithm, and nothing of what a particle is: any pytree with leading axes `*batch n`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

OK = 0
ALL_DEAD = 1
NOT_FINITE = 2


def describe_status(status: int) -> str:
    """The bits of one `Info.status` in words.

    >>> describe_status(OK), describe_status(ALL_DEAD | NOT_FINITE)
    ('ok', 'all dead, not finite')
    """
    words = {ALL_DEAD: "all dead", NOT_FINITE: "not finite"}
    return ", ".join(word for bit, word in words.items() if status & bit) or "ok"


@runtime_checkable
class Init(Protocol):
    """M_0: draws one particle from each key."""

    def __call__(self, keys: Key[Array, "*batch n"], /) -> PyTree[Array]: ...


@runtime_checkable
class Propagate(Protocol):
    """M_t: moves every particle from generation t - 1 to generation t."""

    def __call__(
        self, keys: Key[Array, "*batch n"], x: PyTree[Array], t: Int[Array, "*batch"], /
    ) -> PyTree[Array]: ...


@runtime_checkable
class Weigh(Protocol):
    """G_t: returns the particles, with any scores it wants to cache, and log G_t in float32."""

    def __call__(
        self, x: PyTree[Array], t: Int[Array, "*batch"], /
    ) -> tuple[PyTree[Array], Float[Array, "*batch n"]]: ...


@runtime_checkable
class LogTransition(Protocol):
    """log m_t(x_prev, x), the log-density of M_t, for row i of x_prev with row i of x.

    If G_t looks back at x_prev, m_t is what of M_t G_t depends on x_prev, up to a factor of x.
    """

    def __call__(
        self, x_prev: PyTree[Array], x: PyTree[Array], t: Int[Array, "*batch"], /
    ) -> Float[Array, "*batch n"]: ...


@runtime_checkable
class Rewind(Protocol):
    """A particle's own past: every particle as it was once weighed in generation t.

    For particles that hold their whole path; what came after t need not be erased, only ignored.
    """

    def __call__(self, x: PyTree[Array], t: Int[Array, "*batch"], /) -> PyTree[Array]: ...


@runtime_checkable
class Splice(Protocol):
    """Generations 0 to t of `prefix`, then t + 1 and later of `reference`, row by row.

    Both have leading axes `*batch n`; scores that the particles cache are those of the new path.
    """

    def __call__(
        self, prefix: PyTree[Array], reference: PyTree[Array], t: Int[Array, "*batch"], /
    ) -> PyTree[Array]: ...


class FeynmanKac(NamedTuple):
    """A model; its functions act on all particles of all problems at once.

    The last three are optional: ancestor and backward sampling ask for `log_transition`, kernels on
    whole trajectories for `rewind` and `splice`. A model transformer drops those it cannot keep.
    """

    init: Init
    propagate: Propagate
    weigh: Weigh
    log_transition: LogTransition | None = None
    rewind: Rewind | None = None
    splice: Splice | None = None


@runtime_checkable
class Resampler(Protocol):
    """Chooses ancestors for generation t from normalised log-weights.

    Returns the ancestors, the log-weights that are left, W_i / (N a_i) for an inclusion probability
    N a_i and *not* renormalised, and whether the problem was resampled at all. A problem without a
    live particle keeps its rows (`arange`) and its weights (-inf).
    """

    def __call__(
        self, key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"], /
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]: ...


@dataclass(frozen=True)
class Conditional:
    """A resampler whose slot 0 keeps its own parent, the others drawn by the law given that.

    The mark by which conditional filters know that their target is the one they state. Wrappers keep
    it; a law of one's own is marked as `Conditional(law)`.
    """

    law: Resampler

    def __call__(
        self, key: Key[Array, "*batch"], log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"], /
    ) -> tuple[Int[Array, "*batch n"], Float[Array, "*batch n"], Bool[Array, "*batch"]]:
        return self.law(key, log_w, t)


def marked_like(resampler: Resampler, wrapped: Resampler) -> Resampler:
    """`wrapped`, a wrapper's result, which is conditional if `resampler` within is."""
    return Conditional(wrapped) if isinstance(resampler, Conditional) else wrapped


@runtime_checkable
class Criterion(Protocol):
    """Whether a problem with these normalised log-weights is resampled before generation t."""

    def __call__(
        self, log_w: Float[Array, "*batch n"], t: Int[Array, "*batch"], /
    ) -> Bool[Array, "*batch"]: ...


@runtime_checkable
class Move(Protocol):
    """The particles whose row j is the row `ancestors[j]` of the old ones."""

    def __call__(
        self, particles: PyTree[Array], ancestors: Int[Array, "*batch n"], /
    ) -> PyTree[Array]: ...


class State(NamedTuple):
    """Weighted particles of generation t; `start` makes the first one.

    `log_weights` are normalised (logsumexp 0; all -inf once every particle is dead), in float32, or
    in float64 if log G is. `log_evidence` is the log of the estimate of L_t, and `evidence_error`
    what rounding took from it: `(log_evidence - c) + evidence_error` is exact where log L_t = c + a
    little. `status` keeps every bit of `Info.status` that was ever set.
    """

    particles: PyTree[Array]
    log_weights: Float[Array, "*batch n"]
    log_evidence: Float[Array, "*batch"]
    t: Int[Array, "*batch"]
    evidence_error: Float[Array, "*batch"]
    status: Int[Array, "*batch"]


class Info(NamedTuple):
    """What happened on the way to generation t.

    `ancestors[j]` is the row in generation t - 1 that slot j grew from, `resampled` tells whether
    they were drawn; `ess` is that of the new weights. `status` is `OK` (0), or has the bits
    `ALL_DEAD` and `NOT_FINITE`: some log G was NaN or +inf, which killed that particle. Bits stay
    set, so that the last row tells of the whole run. `kernel` is what the Markov kernels of a
    sampler told of their moves; it is zero in generation 0, where nothing has moved.
    """

    ancestors: Int[Array, "*batch n"]
    ess: Float[Array, "*batch"]
    resampled: Bool[Array, "*batch"]
    log_evidence_increment: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    kernel: PyTree[Array] = ()


class Horizon(NamedTuple):
    """How many generations a run may have, which the runners ask before they begin.

    `because` says in a clause where the limits come from. With `done`, the number is not known
    beforehand: the run must be `run_until(key, algorithm, done, max_steps)`. An algorithm that
    `reads_evidence` of its own state cannot be an island, whose evidence is its weight.
    """

    at_least: int = 1
    at_most: int | None = None
    because: str = ""
    done: Callable[[State], Bool[Array, "*batch"]] | None = None
    reads_evidence: bool = False


class Algorithm(NamedTuple):
    """`init(key)` draws and weighs generation 0; `step(key, state)` makes the next generation.

    `horizon` is no part of the pair; `bounded` sets another one.
    """

    init: Callable[[Key[Array, "*batch"]], tuple[State, Info]]
    step: Callable[[Key[Array, "*batch"], State], tuple[State, Info]]
    horizon = Horizon()


class _Bounded(Algorithm):
    """An algorithm with a horizon of its own."""


def bounded(algorithm: Algorithm, horizon: Horizon) -> Algorithm:
    """The algorithm, which runners then refuse to run for another number of generations.

    >>> once = bounded(Algorithm(lambda key: key, lambda key, state: state), Horizon(at_most=1))
    >>> init, step = once
    >>> once.horizon.at_most
    1
    """
    if not isinstance(horizon, Horizon):
        raise ValueError(f"horizon: got {horizon!r}, want a Horizon, such as Horizon(at_most=10)")
    result = _Bounded(*algorithm)
    result.horizon = horizon
    return result
