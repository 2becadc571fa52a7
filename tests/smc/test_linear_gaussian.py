"""Kalman filter and smoother against the joint Gaussian of everything; filters against Kalman.

Unbiasedness: 20 000 filters, |z| < 4, a false alarm has probability 6e-5 a statistic.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

M = np.array([0.3, -0.5])
P = np.array([[0.9, 0.2], [0.2, 0.5]])
A = np.array([[0.8, 0.3], [-0.2, 0.6]])
Q = np.array([[0.4, -0.1], [-0.1, 0.3]])
H = np.array([[1.0, 0.5], [0.2, -0.7]])
R = np.array([[0.5, 0.1], [0.1, 0.8]])
NAN = np.nan
SEEN = np.array([[0.9, 0.1], [1.4, NAN], [NAN, NAN], [-0.2, 1.3]])
STEPS, NUM_FILTERS, N = len(SEEN), 20_000, 8


def joint() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_0, ..., x_T, y_0, ..., y_T), by x = B (m, noise), y = C x + noise."""
    b = np.zeros((2 * STEPS, 2 * STEPS))
    for t in range(STEPS):
        for s in range(t + 1):
            b[2 * t : 2 * t + 2, 2 * s : 2 * s + 2] = np.linalg.matrix_power(A, t - s)
    noise = np.kron(np.eye(STEPS), Q)
    noise[:2, :2] = P
    mean_x, cov_x = b[:, :2] @ M, b @ noise @ b.T
    c = np.kron(np.eye(STEPS), H)
    cov_y = c @ cov_x @ c.T + np.kron(np.eye(STEPS), R)
    cov = np.block([[cov_x, cov_x @ c.T], [c @ cov_x, cov_y]])
    return np.concatenate([mean_x, c @ mean_x]), cov


def exact(num_seen: int) -> tuple[float, np.ndarray, np.ndarray]:
    """log p(y_0:num_seen-1), and mean and covariance of all x given it."""
    mean, cov = joint()
    y = SEEN[:num_seen].ravel()
    at = 2 * STEPS + np.flatnonzero(~np.isnan(y))
    residual, s = y[~np.isnan(y)] - mean[at], cov[np.ix_(at, at)]
    gain = cov[: 2 * STEPS, at] @ np.linalg.inv(s)
    log_p = -0.5 * (residual @ np.linalg.solve(s, residual) + np.linalg.slogdet(2 * np.pi * s)[1])
    x_mean = mean[: 2 * STEPS] + gain @ residual
    return log_p, x_mean, cov[: 2 * STEPS, : 2 * STEPS] - gain @ cov[at, : 2 * STEPS]


@pytest.fixture(scope="module")
def parameters():
    return smc.LinearGaussian(*map(jnp.float32, (M, P, A, Q, H, R)))


@pytest.fixture(scope="module")
def models(parameters):
    def build(name):
        bootstrap = smc.linear_gaussian(parameters, jnp.float32(SEEN))
        if name == "bootstrap":
            return bootstrap
        proposal = smc.linear_gaussian_proposal(parameters, jnp.float32(SEEN))
        return smc.guided(bootstrap, proposal)

    return build


def test_filter_and_smoother_condition_the_joint_gaussian(parameters):
    filtered = jax.jit(smc.kalman_filter)(parameters, jnp.float32(SEEN))
    smoothed = jax.jit(smc.kalman_smoother)(parameters, jnp.float32(SEEN))
    everything = exact(STEPS)
    for t in range(STEPS):
        log_p, mean, cov = exact(t + 1)
        now = slice(2 * t, 2 * t + 2)
        np.testing.assert_allclose(filtered.log_evidence[t], log_p, rtol=1e-5)
        np.testing.assert_allclose(filtered.mean[t], mean[now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(filtered.cov[t], cov[now, now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(smoothed.mean[t], everything[1][now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(smoothed.cov[t], everything[2][now, now], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(smoothed.log_evidence, filtered.log_evidence)


def test_nile_is_the_published_number():
    with jax.enable_x64(True):
        parameters, flow = smc.nile()
        assert flow.shape == (100, 1) and flow.dtype == jnp.float64
        double = jax.jit(smc.kalman_filter)(parameters, flow).log_evidence[-1]
    assert abs(float(double) - -632.545625116) < 1e-8
    assert abs(jax.jit(smc.kalman_filter)(*smc.nile()).log_evidence[-1] - -632.545625116) < 1e-3


@pytest.fixture(scope="module")
def filters(models):
    """Final particles, weights and log-evidences of all filters, by the name of the model."""

    @partial(jax.jit, static_argnums=1)
    def run(keys, name):
        return smc.run(keys, smc.particle_filter(models(name), N), STEPS)[0]

    keys = jax.random.split(jax.random.key(21), NUM_FILTERS)
    return {name: run(keys, name) for name in ("bootstrap", "locally optimal")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bootstrap", "locally optimal"])
def test_unbiased(filters, name):
    """Evidence, means and second moments of the last state."""
    state = filters[name]
    x = state.particles.x if name != "bootstrap" else state.particles
    x, w = np.asarray(x, float), np.exp(np.asarray(state.log_weights, float))
    log_p, mean, cov = exact(STEPS)
    ratio = np.exp(np.asarray(state.log_evidence, float) - log_p)
    second = cov[-2:, -2:] + np.outer(mean[-2:], mean[-2:])
    for f, answer in [
        (np.ones(x.shape[:2]), 1.0),
        (x[..., 0], mean[-2]),
        (x[..., 1], mean[-1]),
        (x[..., 0] * x[..., 1], second[0, 1]),
        (x[..., 1] ** 2, second[1, 1]),
    ]:
        estimate = ratio * (w * f).sum(1)
        error = estimate.std() / np.sqrt(NUM_FILTERS)
        assert abs(estimate.mean() - answer) < 4 * error
        assert error < 0.02


@pytest.mark.slow
def test_the_better_proposal_is_better(filters):
    spread = {name: np.std(np.asarray(s.log_evidence)) for name, s in filters.items()}
    assert spread["locally optimal"] < 0.8 * spread["bootstrap"], spread


def test_weights_of_the_optimal_proposal_do_not_depend_on_the_draw(models):
    """Both children of one parent weigh p(y_t | x_t-1)."""

    @jax.jit
    def children(keys, parent, t):
        model = models("locally optimal")
        x = model.propagate(keys, smc.Guided(parent, jnp.zeros((4, 5))), t)
        return x.x, model.weigh(x, t)[1]

    keys = jax.random.split(jax.random.key(3), (4, 5))
    t = jnp.array([1, 2, 3, 9])
    parent = jnp.broadcast_to(jnp.float32([0.7, -1.1]), (4, 5, 2))
    x, log_g = map(np.asarray, children(keys, parent, t))
    assert np.ptp(x[..., 0], axis=1).min() > 0.1
    assert np.ptp(log_g, axis=1).max() < 1e-5
    mean = A @ [0.7, -1.1]
    cov = H @ Q @ H.T + R
    r = SEEN[3] - H @ mean
    log_p = -0.5 * (r @ np.linalg.solve(cov, r) + np.linalg.slogdet(2 * np.pi * cov)[1])
    np.testing.assert_allclose(log_g[2], log_p, rtol=1e-5)
    np.testing.assert_allclose(log_g[[1, 3]], 0, atol=1e-6)  # nothing was observed


def test_log_transition(models):
    x_prev, x = np.float32([[0.5, -0.2], [1.0, 2.0]]), np.float32([[0.1, 0.4], [-0.3, 0.2]])
    log_m = jax.jit(lambda *a: models("bootstrap").log_transition(*a))(x_prev, x, jnp.int32(1))
    r = x - x_prev @ A.T
    expected = -0.5 * ((r @ np.linalg.inv(Q) * r).sum(1) + np.linalg.slogdet(2 * np.pi * Q)[1])
    np.testing.assert_allclose(log_m, expected, rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_give_the_bits_of_one(models):
    @jax.jit
    def run(keys):
        return smc.run(keys, smc.particle_filter(models("locally optimal"), 19), STEPS)

    keys = jax.random.split(jax.random.key(1), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    for a, b in zip(jax.tree.leaves(run(keys)), jax.tree.leaves(run(spread)), strict=True):
        np.testing.assert_array_equal(a, b)
