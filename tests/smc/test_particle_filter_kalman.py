"""The Nile local level: the evidence and every filter mean against an exact Kalman filter.

Unbiased statistics only: E[Z_hat_t / Z_t] = 1 and E[Z_hat_t / Z_t (mean_hat_t - mean_t)] = 0 at
each of 100 years. |z| < 5 on 200 statistics: a correct filter fails with probability 1.2e-4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

NILE = np.array(
    [1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020]
    + [960, 1180, 799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840]
    + [874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702]
    + [1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759]
    + [781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846, 812, 742, 801]
    + [1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815]
    + [1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740],
    float,
)
NOISE, DRIFT = 15099.0, 1469.1
NUM_FILTERS, N = 256, 400


def kalman() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filter means, variances and cumulative log-likelihood, the first year only starting it."""
    mean, variance, total = NILE[0], NOISE, 0.0
    rows = [(mean, variance, total)]
    for y in NILE[1:]:
        ahead = variance + DRIFT
        total += -0.5 * (np.log(2 * np.pi * (ahead + NOISE)) + (y - mean) ** 2 / (ahead + NOISE))
        gain = ahead / (ahead + NOISE)
        mean, variance = mean + gain * (y - mean), (1 - gain) * ahead
        rows.append((mean, variance, total))
    means, variances, totals = np.array(rows).T
    return means, variances, totals


@pytest.fixture(scope="module")
def estimates():
    """log Z_hat_t and the filter means, [years, filters]."""
    flow = jnp.float32(NILE)

    def log_potential(x, t):
        log_g = -0.5 * (jnp.log(2 * jnp.pi * NOISE) + (flow[t] - x) ** 2 / NOISE)
        return jnp.where(t == 0, 0.0, log_g)

    model = smc.lift(
        init=lambda key: flow[0] + NOISE**0.5 * jax.random.normal(key),
        propagate=lambda key, x, t: x + DRIFT**0.5 * jax.random.normal(key),
        log_potential=log_potential,
    )
    algorithm = smc.particle_filter(model, N)

    def collect(state, info):
        return state.log_evidence, jnp.sum(jnp.exp(state.log_weights) * state.particles, -1)

    keys = jax.random.split(jax.random.key(7), NUM_FILTERS)
    _, history = jax.jit(lambda key: smc.run(key, algorithm, len(NILE), collect))(keys)
    return tuple(np.asarray(x, float) for x in history)


def test_the_oracle_is_the_published_number():
    assert abs(kalman()[2][-1] - -632.545625116) < 1e-8


def test_evidence(estimates):
    ratio = np.exp(estimates[0] - kalman()[2][:, None])
    errors = ratio.std(1) / np.sqrt(NUM_FILTERS)
    z = (ratio.mean(1) - 1)[1:] / errors[1:]
    assert np.abs(z).max() < 5, z
    assert errors.max() < 0.05  # power: an error of 0.4 in log Z is 8 standard errors


def test_filter_means(estimates):
    means, variances, totals = kalman()
    ratio = np.exp(estimates[0] - totals[:, None])
    difference = ratio * (estimates[1] - means[:, None])
    errors = difference.std(1) / np.sqrt(NUM_FILTERS)
    z = difference.mean(1) / errors
    assert np.abs(z).max() < 5, z
    # Power: a mean that is off by 16 % of the posterior standard deviation is 8 standard errors.
    assert (errors < 0.02 * np.sqrt(variances)).all(), (errors / np.sqrt(variances)).max()
