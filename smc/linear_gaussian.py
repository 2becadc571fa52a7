"""A reference model with exact answers: the linear-Gaussian state space and the Kalman filter.

    x_0 ~ N(m, P)    x_t = A x_t-1 + N(0, Q)    y_t = H x_t + N(0, R)

References: Kalman (1960), A new approach to linear filtering and prediction problems; Rauch, Tung
and Striebel (1965), Maximum likelihood estimates of linear dynamic systems. The exact functions
take one series, in the precision of their arguments. Knows no diffuse start: condition on y_0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pfjax.smc.guided import Draw, Proposal, lift_proposal
from pfjax.smc.state_space import state_space
from pfjax.smc.types import FeynmanKac


class LinearGaussian(NamedTuple):
    """The parameters m, P, A, Q, H and R; the covariances are positive definite."""

    initial_mean: Float[Array, "d"]
    initial_cov: Float[Array, "d d"]
    transition: Float[Array, "d d"]
    transition_cov: Float[Array, "d d"]
    emission: Float[Array, "k d"]
    emission_cov: Float[Array, "k k"]


class Gaussians(NamedTuple):
    """log p(y_0:t), and means and covariances of x_t, for every t."""

    log_evidence: Float[Array, "steps"]
    mean: Float[Array, "steps d"]
    cov: Float[Array, "steps d d"]


def linear_gaussian(
    parameters: LinearGaussian, observations: Float[Array, "steps k"]
) -> FeynmanKac:
    """The bootstrap model; NaN marks an observation that is missing.

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
    p = parameters
    rows = jax.vmap(lambda y: _observe(p, y, jnp.zeros_like(p.initial_cov)))(observations)
    first, moved = jnp.linalg.cholesky(p.initial_cov), jnp.linalg.cholesky(p.transition_cov)
    white, log_scale = _whiten(p.transition_cov)

    def log_transition(
        x_prev: Float[Array, "d"], x: Float[Array, "d"], t: Int[Array, ""]
    ) -> Float[Array, ""]:
        return log_scale - 0.5 * jnp.sum((white @ (x - p.transition @ x_prev)) ** 2)

    return state_space(
        initial=lambda key: _draw(key, p.initial_mean, first),
        transition=lambda key, x, t: _draw(key, p.transition @ x, moved),
        log_observation=lambda x, row, t: _log_density(row, x),
        observations=rows,
        log_transition=log_transition,
    )


def linear_gaussian_proposal(
    parameters: LinearGaussian, observations: Float[Array, "steps k"]
) -> Proposal:
    """The locally optimal proposal p(x_t | x_t-1, y_t), for `guided`.

    The weights are then p(y_t | x_t-1), which does not depend on x_t. Generations after the last
    observation are drawn from the model.
    """
    p = parameters
    # One row more, in which nothing is observed: that of all later generations.
    y = jnp.concatenate([observations, jnp.full_like(observations[:1], jnp.nan)])
    cov = jnp.stack([p.initial_cov] + [p.transition_cov] * observations.shape[0])
    known = jax.vmap(lambda y: _observe(p, y, jnp.zeros_like(p.initial_cov)))(y)
    ahead = jax.vmap(lambda y, cov: _observe(p, y, cov))(y, cov)
    root = jax.vmap(lambda row, cov: jnp.linalg.cholesky(_condition(row, p.initial_mean, cov)[1]))(
        ahead, cov
    )

    def draw(key: Key[Array, ""], mean: Float[Array, "d"], t: Int[Array, ""]) -> Draw:
        t = jnp.minimum(t, observations.shape[0])
        row = jax.tree.map(lambda rows: rows[t], ahead)
        x = _draw(key, _condition(row, mean, cov[t])[0], root[t])
        # Bayes: p(x_t | x_t-1) / q(x_t) = p(y_t | x_t-1) / p(y_t | x_t).
        exact = jax.tree.map(lambda rows: rows[t], known)
        return x, _log_density(row, mean) - _log_density(exact, x)

    return lift_proposal(
        init=lambda key: draw(key, p.initial_mean, jnp.int32(0)),
        propagate=lambda key, x, t: draw(key, p.transition @ x, t),
    )


def kalman_filter(parameters: LinearGaussian, observations: Float[Array, "steps k"]) -> Gaussians:
    """Exact p(x_t | y_0:t) and log p(y_0:t); NaN marks an observation that is missing.

    >>> import jax.numpy as jnp
    >>> one = jnp.eye(1)
    >>> parameters = LinearGaussian(jnp.zeros(1), one, one, one, one, one)
    >>> [round(v.item(), 4) for v in kalman_filter(parameters, jnp.array([[1.0], [2.0]])).cov]
    [0.5, 0.6]
    """
    p = parameters

    def step(
        ahead: tuple[Float[Array, "d"], Float[Array, "d d"]], y: Float[Array, "k"]
    ) -> tuple[tuple[Float[Array, "d"], Float[Array, "d d"]], Gaussians]:
        row = _observe(p, y, ahead[1])
        mean, cov = _condition(row, *ahead)
        return _predict(p, mean, cov), Gaussians(_log_density(row, ahead[0]), mean, cov)

    start = (p.initial_mean, p.initial_cov)
    found = jax.lax.scan(step, start, observations)[1]
    return found._replace(log_evidence=jnp.cumsum(found.log_evidence))


def kalman_smoother(parameters: LinearGaussian, observations: Float[Array, "steps k"]) -> Gaussians:
    """Exact p(x_t | all observations), by a backward pass; log_evidence is that of the filter."""
    p = parameters
    filtered = kalman_filter(p, observations)

    def step(
        later: tuple[Float[Array, "d"], Float[Array, "d d"]], now: Gaussians
    ) -> tuple[tuple[Float[Array, "d"], Float[Array, "d d"]], Gaussians]:
        ahead_mean, ahead_cov = _predict(p, now.mean, now.cov)
        gain = jnp.linalg.solve(ahead_cov, p.transition @ now.cov).T
        mean = now.mean + gain @ (later[0] - ahead_mean)
        cov = now.cov + gain @ (later[1] - ahead_cov) @ gain.T
        return (mean, cov), Gaussians(now.log_evidence, mean, cov)

    last = (filtered.mean[-1], filtered.cov[-1])
    before = jax.tree.map(lambda rows: rows[:-1], filtered)
    smooth = jax.lax.scan(step, last, before, reverse=True)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[-1:]]), smooth, filtered)


def nile() -> tuple[LinearGaussian, Float[Array, "100 1"]]:
    """Annual flow of the Nile at Aswan, 1871 to 1970, and its local-level model.

    Durbin and Koopman (2012), Time series analysis by state space methods, section 2.2. The level
    starts diffuse: given the first flow, it is N(1120, 15099), and that flow is marked missing.

    >>> parameters, flow = nile()
    >>> round(float(kalman_filter(parameters, flow).log_evidence[-1]), 2)
    -632.55
    """
    flow = jnp.array(_NILE, float)[:, None]
    noise, drift, one = (jnp.full((1, 1), v, float) for v in (15099.0, 1469.1, 1.0))
    parameters = LinearGaussian(flow[0], noise, one, drift, one, noise)
    return parameters, flow.at[0].set(jnp.nan)


# fmt: off
_NILE = (
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180,
    799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833,
    701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845,
    864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649,
    846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815,
    1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740,
)
# fmt: on


def _predict(
    p: LinearGaussian, mean: Float[Array, "d"], cov: Float[Array, "d d"]
) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    return p.transition @ mean, p.transition @ cov @ p.transition.T + p.transition_cov


class _Row(NamedTuple):
    """One observation of x ~ N(mean, cov): white (y - h mean) is standard normal."""

    y: Float[Array, "k"]
    h: Float[Array, "k d"]
    white: Float[Array, "k k"]
    log_scale: Float[Array, ""]


def _observe(p: LinearGaussian, y: Float[Array, "k"], cov: Float[Array, "d d"]) -> _Row:
    """The row of y; missing entries are cut off from the state and from the other entries."""
    missing = jnp.isnan(y)
    h = jnp.where(missing[:, None], 0.0, p.emission)
    cut = missing[:, None] | missing[None, :]
    r = jnp.where(cut, jnp.eye(y.shape[0], dtype=y.dtype), p.emission_cov)
    white, log_scale = _whiten(h @ cov @ h.T + r)
    # A missing entry is a standard normal at 0, whose density is taken out again.
    num_missing = jnp.sum(missing.astype(y.dtype))
    log_scale = log_scale + 0.5 * num_missing * jnp.log(2 * jnp.pi)
    return _Row(jnp.where(missing, 0.0, y), h, white, log_scale)


def _log_density(row: _Row, mean: Float[Array, "d"]) -> Float[Array, ""]:
    return row.log_scale - 0.5 * jnp.sum((row.white @ (row.y - row.h @ mean)) ** 2)


def _condition(
    row: _Row, mean: Float[Array, "d"], cov: Float[Array, "d d"]
) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Mean and covariance of x ~ N(mean, cov) given the row of y for that cov."""
    half = row.white @ row.h @ cov
    return mean + half.T @ (row.white @ (row.y - row.h @ mean)), cov - half.T @ half


def _whiten(cov: Float[Array, "k k"]) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """W and c for which log N(r; 0, cov) = c - |W r|^2 / 2."""
    root = jnp.linalg.cholesky(cov)
    white = jax.scipy.linalg.solve_triangular(
        root, jnp.eye(*cov.shape, dtype=cov.dtype), lower=True
    )
    log_det = jnp.sum(jnp.log(jnp.diagonal(root)))
    return white, -log_det - 0.5 * cov.shape[0] * jnp.log(2 * jnp.pi)


def _draw(
    key: Key[Array, ""], mean: Float[Array, "d"], root: Float[Array, "d d"]
) -> Float[Array, "d"]:
    return mean + root @ jax.random.normal(key, mean.shape, mean.dtype)
