"""A reference model with exact answers (`kalman`): the linear-Gaussian state space.

    x_0 ~ N(m, P)    x_t = A_t x_t-1 + b_t + N(0, Q_t)    y_t = H_t x_t + c_t + N(0, R_t)

Reference: Durbin and Koopman (2012), Time series analysis by state space methods, section 3.1;
Doucet, Godsill and Andrieu (2000), section II.D, for the proposal. Knows no diffuse start:
condition on y_0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from pfjax.smc._gaussian import Row, condition, draw, log_density, observed, whiten
from pfjax.smc.guided import Draw, Proposal, lift_proposal
from pfjax.smc.state_space import state_space
from pfjax.smc.types import FeynmanKac


class LinearGaussian(NamedTuple):
    """The parameters m, P, A, Q, H, R, b and c; the covariances are positive definite.

    Constant, or, except for m and P, with an axis [steps] in front: row t is that of generation t
    (row 0 of A, b and Q is not read), and the last row stays. Without offsets b = c = 0.
    """

    initial_mean: Float[Array, "d"]
    initial_cov: Float[Array, "d d"]
    transition: Float[Array, "*steps d d"]
    transition_cov: Float[Array, "*steps d d"]
    emission: Float[Array, "*steps k d"]
    emission_cov: Float[Array, "*steps k k"]
    transition_offset: Float[Array, "*steps d"] | None = None
    emission_offset: Float[Array, "*steps k"] | None = None


class Rows(NamedTuple):
    """A, b, Q, H, c and R, each with an axis in front; that of a constant has length 1."""

    transition: Float[Array, "_ d d"]
    transition_offset: Float[Array, "_ d"]
    transition_cov: Float[Array, "_ d d"]
    emission: Float[Array, "_ k d"]
    emission_offset: Float[Array, "_ k"]
    emission_cov: Float[Array, "_ k k"]


def rows_of(parameters: LinearGaussian) -> Rows:
    """The parameters as rows; raises `ValueError` for one of the wrong shape."""
    p = parameters
    d, k = p.initial_mean.shape[0], p.emission.shape[-2]
    b, c = p.transition_offset, p.emission_offset
    b = jnp.zeros_like(p.initial_mean) if b is None else b
    c = jnp.zeros(k, p.emission.dtype) if c is None else c
    return Rows(
        _with_steps("transition", p.transition, (d, d)),
        _with_steps("transition_offset", b, (d,)),
        _with_steps("transition_cov", p.transition_cov, (d, d)),
        _with_steps("emission", p.emission, (k, d)),
        _with_steps("emission_offset", c, (k,)),
        _with_steps("emission_cov", p.emission_cov, (k, k)),
    )


def _with_steps(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    if value.shape == shape:
        return value[None]
    if value.shape[1:] != shape or value.shape[0] == 0:
        raise ValueError(
            f"parameters.{name}: got shape {value.shape}, want {shape}, or {('steps', *shape)} if it "
            "changes in time"
        )
    return value


def row_at(rows: PyTree[Array], t: Int[Array, ""]) -> PyTree[Array]:
    """Row t of every leaf, or its last one."""

    def pick(leaf: Array) -> Array:
        # Constants are not gathered.
        return leaf[0] if leaf.shape[0] == 1 else leaf[jnp.minimum(t, leaf.shape[0] - 1)]

    return jax.tree.map(pick, rows)


def moved_mean(rows: Rows, x: Float[Array, "d"], t: Int[Array, ""]) -> Float[Array, "d"]:
    """A_t x + b_t."""
    return row_at(rows.transition, t) @ x + row_at(rows.transition_offset, t)


def observed_at(
    rows: Rows, y: Float[Array, "k"], cov: Float[Array, "d d"], t: Int[Array, ""]
) -> Row:
    """The row of y_t, for x_t of that covariance."""
    now = row_at(rows, t)
    return observed(y - now.emission_offset, now.emission, now.emission_cov, cov)


def linear_gaussian(
    parameters: LinearGaussian, observations: Float[Array, "steps k"]
) -> FeynmanKac:
    """The bootstrap model; NaN marks an observation that is missing.

    Target: p(x_0:t | y_0:t), with evidence p(y_0:t). Raises `ValueError` for parameters of the wrong
    shape.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> one = jnp.eye(1)
    >>> parameters = smc.LinearGaussian(jnp.zeros(1), one, 0.9 * one, one, one, one)
    >>> model = smc.linear_gaussian(parameters, jnp.array([[0.3], [jnp.nan], [1.1]]))
    >>> state, _ = smc.run(jax.random.key(0), smc.particle_filter(model, 4096), 3)
    >>> exact = smc.kalman_filter(parameters, jnp.array([[0.3], [jnp.nan], [1.1]]))
    >>> bool(abs(state.log_evidence - exact.log_evidence[2]) < 0.1)
    True
    """
    p, rows = parameters, rows_of(parameters)
    observations = series_of(parameters, observations)
    times = jnp.arange(observations.shape[0], dtype=jnp.int32)
    no_cov = jnp.zeros_like(p.initial_cov)
    seen = jax.vmap(lambda y, t: observed_at(rows, y, no_cov, t))(observations, times)
    first, moved = jnp.linalg.cholesky(p.initial_cov), jnp.linalg.cholesky(rows.transition_cov)
    whitened = jax.vmap(whiten)(rows.transition_cov)

    def log_transition(
        x_prev: Float[Array, "d"], x: Float[Array, "d"], t: Int[Array, ""]
    ) -> Float[Array, ""]:
        white, log_scale = row_at(whitened, t)
        return log_scale - 0.5 * jnp.sum((white @ (x - moved_mean(rows, x_prev, t))) ** 2)

    return state_space(
        initial=lambda key: draw(key, p.initial_mean, first),
        transition=lambda key, x, t: draw(key, moved_mean(rows, x, t), row_at(moved, t)),
        log_observation=lambda x, row, t: log_density(row, x),
        observations=seen,
        log_transition=log_transition,
    )


def linear_gaussian_proposal(
    parameters: LinearGaussian, observations: Float[Array, "steps k"]
) -> Proposal:
    """The locally optimal proposal p(x_t | x_t-1, y_t), for `guided`.

    The weights are then p(y_t | x_t-1), which does not depend on x_t. Generations after the last
    observation are drawn from the model. Raises `ValueError` for parameters of the wrong shape.
    """
    p, rows = parameters, rows_of(parameters)
    # In the last row nothing is observed and no parameter changes: that of all later generations.
    observations = series_of(parameters, observations)
    num_rows = max(observations.shape[0] + 1, *(leaf.shape[0] for leaf in rows))
    more = ((0, num_rows - observations.shape[0]), (0, 0))
    y = jnp.pad(observations, more, constant_values=jnp.nan)
    times = jnp.arange(num_rows, dtype=jnp.int32)
    cov = jax.vmap(lambda t: row_at(rows.transition_cov, t))(times).at[0].set(p.initial_cov)
    see = jax.vmap(lambda y, cov, t: observed_at(rows, y, cov, t))
    known, ahead = see(y, jnp.zeros_like(cov), times), see(y, cov, times)
    root = jax.vmap(lambda row, cov: jnp.linalg.cholesky(condition(row, p.initial_mean, cov)[1]))(
        ahead, cov
    )

    def propose(key: Key[Array, ""], mean: Float[Array, "d"], t: Int[Array, ""]) -> Draw:
        row, exact, half, spread = row_at((ahead, known, root, cov), t)
        x = draw(key, condition(row, mean, spread)[0], half)
        # Bayes: p(x_t | x_t-1) / q(x_t) = p(y_t | x_t-1) / p(y_t | x_t).
        return x, log_density(row, mean) - log_density(exact, x)

    return lift_proposal(
        init=lambda key: propose(key, p.initial_mean, jnp.int32(0)),
        propagate=lambda key, x, t: propose(key, moved_mean(rows, x, t), t),
    )


def series_of(
    parameters: LinearGaussian, observations: Float[Array, "steps k"]
) -> Float[Array, "steps k"]:
    """The observations as an array; raises `ValueError` unless they are rows of k numbers each."""
    k = jnp.shape(parameters.emission)[-2]
    if jnp.ndim(observations) != 2 or jnp.shape(observations)[-1] != k or not len(observations):
        raise ValueError(
            f"observations: got shape {jnp.shape(observations)}, want [steps, {k}], a row of {k} numbers "
            "(as the emission has) for every generation; write y[:, None] for a series of numbers"
        )
    return jnp.asarray(observations)
