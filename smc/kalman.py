"""The exact answers of the linear-Gaussian state space: the Kalman filter and smoother.

    m_t|t-1 = A_t m_t-1 + b_t    P_t|t-1 = A_t P_t-1 A_t' + Q_t    p(y_0:t) = p(y_0:t-1) N(y_t; H_t m_t|t-1 + c_t, S_t)
    m_t|T = m_t + G_t (m_t+1|T - m_t+1|t)    G_t = P_t A_t+1' P_t+1|t^-1

References: Kalman (1960), A new approach to linear filtering and prediction problems; Rauch, Tung
and Striebel (1965), Maximum likelihood estimates of linear dynamic systems. They take one series,
in the precision of their arguments. Knows no diffuse start: condition on y_0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pfjax.smc._gaussian import condition, log_density
from pfjax.smc.linear_gaussian import (
    LinearGaussian,
    Rows,
    moved_mean,
    observed_at,
    row_at,
    rows_of,
    series_of,
)


class Gaussians(NamedTuple):
    """log p(y_0:t), and means and covariances of x_t, for every t."""

    log_evidence: Float[Array, "steps"]
    mean: Float[Array, "steps d"]
    cov: Float[Array, "steps d d"]


_Law = tuple[Float[Array, "d"], Float[Array, "d d"]]


def kalman_filter(parameters: LinearGaussian, observations: Float[Array, "steps k"]) -> Gaussians:
    """Exact p(x_t | y_0:t) and log p(y_0:t); NaN marks an observation that is missing.

    Raises `ValueError` for parameters of the wrong shape.

    >>> import jax.numpy as jnp
    >>> from pfjax import smc
    >>> one = jnp.eye(1)
    >>> parameters = smc.LinearGaussian(jnp.zeros(1), one, one, one, one, one)
    >>> [round(v.item(), 4) for v in kalman_filter(parameters, jnp.array([[1.0], [2.0]])).cov]
    [0.5, 0.6]
    """
    rows = rows_of(parameters)

    def step(ahead: _Law, seen: tuple[Int[Array, ""], Float[Array, "k"]]) -> tuple[_Law, Gaussians]:
        t, y = seen
        row = observed_at(rows, y, ahead[1], t)
        mean, cov = condition(row, *ahead)
        return _predict(rows, mean, cov, t + 1), Gaussians(log_density(row, ahead[0]), mean, cov)

    start = (parameters.initial_mean, parameters.initial_cov)
    observations = series_of(parameters, observations)
    times = jnp.arange(observations.shape[0], dtype=jnp.int32)
    found = jax.lax.scan(step, start, (times, observations))[1]
    return found._replace(log_evidence=jnp.cumsum(found.log_evidence))


def kalman_smoother(parameters: LinearGaussian, observations: Float[Array, "steps k"]) -> Gaussians:
    """Exact p(x_t | all observations), by a backward pass; log_evidence is that of the filter."""
    rows, filtered = rows_of(parameters), kalman_filter(parameters, observations)

    def step(later: _Law, at: tuple[Int[Array, ""], Gaussians]) -> tuple[_Law, Gaussians]:
        t, now = at
        ahead_mean, ahead_cov = _predict(rows, now.mean, now.cov, t + 1)
        gain = jnp.linalg.solve(ahead_cov, row_at(rows.transition, t + 1) @ now.cov).T
        mean = now.mean + gain @ (later[0] - ahead_mean)
        cov = now.cov + gain @ (later[1] - ahead_cov) @ gain.T
        return (mean, cov), Gaussians(now.log_evidence, mean, cov)

    last = (filtered.mean[-1], filtered.cov[-1])
    times = jnp.arange(observations.shape[0] - 1, dtype=jnp.int32)
    before = jax.tree.map(lambda leaf: leaf[:-1], filtered)
    smooth = jax.lax.scan(step, last, (times, before), reverse=True)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[-1:]]), smooth, filtered)


def nile(dtype: jnp.dtype = jnp.float32) -> tuple[LinearGaussian, Float[Array, "100 1"]]:
    """Annual flow of the Nile at Aswan, 1871 to 1970, and its local-level model.

    Durbin and Koopman (2012), Time series analysis by state space methods, section 2.2. The level
    starts diffuse: given the first flow, it is N(1120, 15099), and that flow is marked missing.

    >>> parameters, flow = nile()
    >>> round(float(kalman_filter(parameters, flow).log_evidence[-1]), 2)
    -632.55
    """
    flow = jnp.array(_NILE, dtype)[:, None]
    noise, drift, one = (jnp.full((1, 1), v, dtype) for v in (15099.0, 1469.1, 1.0))
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
    rows: Rows, mean: Float[Array, "d"], cov: Float[Array, "d d"], t: Int[Array, ""]
) -> _Law:
    a, q = row_at((rows.transition, rows.transition_cov), t)
    return moved_mean(rows, mean, t), a @ cov @ a.T + q
