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
# What changes in time: the observation sees another part of the state, the last row stays.
CHANGING = {
    "transition": np.stack([A + 0.1 * t * np.array([[0.0, 1.0], [-1.5, 0.5]]) for t in range(6)]),
    "transition_cov": np.stack([f * Q + np.diag([0.1 * f, 0.0]) for f in (9, 1, 0.5, 1, 1, 2)]),
    "emission": np.stack([H, H[::-1], np.array([[0.4, 0.9], [-0.3, 1.1]])]),
    "emission_cov": np.stack([R, R, 2.0 * R, 0.3 * R]),
    "transition_offset": np.array([[9.0, 9.0], [0.4, -0.3], [-0.8, 0.1]]),
    "emission_offset": np.array([0.2, -0.6]),
}
CONSTANT = {"transition": A, "transition_cov": Q, "emission": H, "emission_cov": R}
NAN = np.nan
SEEN = np.array([[0.9, 0.1], [1.4, NAN], [NAN, NAN], [-0.2, 1.3]])
STEPS, NUM_FILTERS, N = len(SEEN), 20_000, 8


def at(problem, name, t):
    """The value in generation t; the last row stays."""
    value, num_axes = problem.get(name, np.zeros(2)), 1 if "offset" in name else 2
    return value if value.ndim == num_axes else value[min(t, len(value) - 1)]


def joint(problem) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_0, ..., x_T, y_0, ..., y_T), by B x = drift + noise, y = C x + noise."""
    b, noise = np.eye(2 * STEPS), np.zeros((2 * STEPS, 2 * STEPS))
    c, noise_y = np.zeros((2 * STEPS, 2 * STEPS)), np.zeros((2 * STEPS, 2 * STEPS))
    drift = np.concatenate([M] + [at(problem, "transition_offset", t) for t in range(1, STEPS)])
    offset = np.concatenate([at(problem, "emission_offset", t) for t in range(STEPS)])
    for t in range(STEPS):
        now, before = slice(2 * t, 2 * t + 2), slice(2 * t - 2, 2 * t)
        noise[now, now] = at(problem, "transition_cov", t) if t else P
        c[now, now] = at(problem, "emission", t)
        noise_y[now, now] = at(problem, "emission_cov", t)
        if t:
            b[now, before] = -at(problem, "transition", t)
    b = np.linalg.inv(b)
    mean_x, cov_x = b @ drift, b @ noise @ b.T
    cov = np.block([[cov_x, cov_x @ c.T], [c @ cov_x, c @ cov_x @ c.T + noise_y]])
    return np.concatenate([mean_x, c @ mean_x + offset]), cov


def exact(problem, num_seen: int) -> tuple[float, np.ndarray, np.ndarray]:
    """log p(y_0:num_seen-1), and mean and covariance of all x given it."""
    mean, cov = joint(problem)
    y = SEEN[:num_seen].ravel()
    seen = 2 * STEPS + np.flatnonzero(~np.isnan(y))
    residual, s = y[~np.isnan(y)] - mean[seen], cov[np.ix_(seen, seen)]
    gain = cov[: 2 * STEPS, seen] @ np.linalg.inv(s)
    log_p = -0.5 * (residual @ np.linalg.solve(s, residual) + np.linalg.slogdet(2 * np.pi * s)[1])
    x_mean = mean[: 2 * STEPS] + gain @ residual
    return log_p, x_mean, cov[: 2 * STEPS, : 2 * STEPS] - gain @ cov[seen, : 2 * STEPS]


PROBLEMS = {"constant": CONSTANT, "changing": CHANGING}


def parameters_of(problem) -> smc.LinearGaussian:
    rest = {name: jnp.float32(value) for name, value in problem.items()}
    return smc.LinearGaussian(jnp.float32(M), jnp.float32(P), **rest)


def model_of(name) -> smc.FeynmanKac:
    parameters = parameters_of(PROBLEMS[name.split(",")[0]])
    bootstrap = smc.linear_gaussian(parameters, jnp.float32(SEEN))
    if name.endswith("bootstrap"):
        return bootstrap
    return smc.guided(bootstrap, smc.linear_gaussian_proposal(parameters, jnp.float32(SEEN)))


NAMES = [f"{p}, {m}" for p in PROBLEMS for m in ("bootstrap", "locally optimal")]


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_filter_and_smoother_condition_the_joint_gaussian(problem):
    parameters = parameters_of(problem)
    filtered = jax.jit(smc.kalman_filter)(parameters, jnp.float32(SEEN))
    smoothed = jax.jit(smc.kalman_smoother)(parameters, jnp.float32(SEEN))
    everything = exact(problem, STEPS)
    for t in range(STEPS):
        log_p, mean, cov = exact(problem, t + 1)
        now = slice(2 * t, 2 * t + 2)
        np.testing.assert_allclose(filtered.log_evidence[t], log_p, rtol=1e-5)
        np.testing.assert_allclose(filtered.mean[t], mean[now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(filtered.cov[t], cov[now, now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(smoothed.mean[t], everything[1][now], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(smoothed.cov[t], everything[2][now, now], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(smoothed.log_evidence, filtered.log_evidence)


def test_nile_is_the_published_number():
    with jax.enable_x64(True):
        assert smc.nile()[1].dtype == jnp.float32
        parameters, flow = smc.nile(jnp.float64)
        assert flow.shape == (100, 1) and flow.dtype == jnp.float64
        double = jax.jit(smc.kalman_filter)(parameters, flow).log_evidence[-1]
        assert double.dtype == jnp.float64
    assert abs(float(double) - -632.545625116) < 1e-8
    assert abs(jax.jit(smc.kalman_filter)(*smc.nile()).log_evidence[-1] - -632.545625116) < 1e-3


@pytest.fixture(scope="module")
def filters():
    """Final particles, weights and log-evidences of all filters, by the name of the model."""

    @partial(jax.jit, static_argnums=1)
    def run(keys, name):
        return smc.run(keys, smc.particle_filter(model_of(name), N), STEPS)[0]

    keys = jax.random.split(jax.random.key(21), NUM_FILTERS)
    return {name: run(keys, name) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_unbiased(filters, name):
    """Evidence, means and second moments of the last state."""
    state = filters[name]
    x = state.particles.x if name.endswith("optimal") else state.particles
    x, w = np.asarray(x, float), np.exp(np.asarray(state.log_weights, float))
    log_p, mean, cov = exact(PROBLEMS[name.split(",")[0]], STEPS)
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
        assert error < 0.03


@pytest.mark.slow
def test_the_better_proposal_is_better(filters):
    spread = {name: np.std(np.asarray(s.log_evidence)) for name, s in filters.items()}
    for problem in PROBLEMS:
        optimal, blind = spread[f"{problem}, locally optimal"], spread[f"{problem}, bootstrap"]
        assert optimal < 0.8 * blind, spread


@pytest.mark.parametrize("problem", PROBLEMS)
def test_weights_of_the_optimal_proposal_do_not_depend_on_the_draw(problem):
    """Both children of one parent weigh p(y_t | x_t-1), and move on after the last observation."""

    @jax.jit
    def children(keys, parent, t):
        model = model_of(f"{problem}, locally optimal")
        x = model.propagate(keys, smc.Guided(parent, jnp.zeros((5, 2000))), t)
        return x.x, model.weigh(x, t)[1]

    keys = jax.random.split(jax.random.key(3), (5, 2000))
    times = np.array([1, 2, 3, 5, 9])
    parent = jnp.broadcast_to(jnp.float32([0.7, -1.1]), (5, 2000, 2))
    x, log_g = map(np.asarray, children(keys, parent, jnp.int32(times)))
    assert np.ptp(x[..., 0], axis=1).min() > 0.1
    assert np.ptp(log_g, axis=1).max() < 1e-4
    parameters = PROBLEMS[problem]
    for i, t in enumerate(times):
        a, q, h, r = (at(parameters, name, t) for name in CONSTANT)
        mean = a @ [0.7, -1.1] + at(parameters, "transition_offset", t)
        if t == 3:
            cov = h @ q @ h.T + r
            error = SEEN[3] - h @ mean - at(parameters, "emission_offset", t)
            scale = np.linalg.slogdet(2 * np.pi * cov)[1]
            log_p = -0.5 * (error @ np.linalg.solve(cov, error) + scale)
            np.testing.assert_allclose(log_g[i], log_p, rtol=1e-4)
        if t > 3 or t == 2:
            np.testing.assert_allclose(log_g[i], 0, atol=1e-5)  # nothing was observed
            z = (x[i].mean(0) - mean) / np.sqrt(np.diag(q) / 2000)
            assert np.abs(z).max() < 4
            np.testing.assert_allclose(np.cov(x[i].T), q, atol=0.08)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_log_transition(problem):
    x_prev, x = np.float32([[0.5, -0.2], [1.0, 2.0]]), np.float32([[0.1, 0.4], [-0.3, 0.2]])
    model = model_of(f"{problem}, bootstrap")
    for t in (1, 3, 8):
        log_m = jax.jit(lambda *a: model.log_transition(*a))(x_prev, x, jnp.int32(t))
        a, q, b = (at(PROBLEMS[problem], n, t) for n in [*CONSTANT][:2] + ["transition_offset"])
        r = x - x_prev @ a.T - b
        expected = -0.5 * ((r @ np.linalg.inv(q) * r).sum(1) + np.linalg.slogdet(2 * np.pi * q)[1])
        np.testing.assert_allclose(log_m, expected, rtol=1e-5)


def test_parameters_of_the_wrong_shape_are_refused():
    wrong = parameters_of(CONSTANT)._replace(transition_offset=jnp.zeros((4, 3)))
    for call in (smc.linear_gaussian, smc.linear_gaussian_proposal, smc.kalman_filter):
        with pytest.raises(ValueError, match=r"parameters.transition_offset: got shape \(4, 3\)"):
            call(wrong, jnp.float32(SEEN))


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_eight_devices_give_the_bits_of_one(problem):
    @jax.jit
    def run(keys):
        return smc.run(
            keys, smc.particle_filter(model_of(f"{problem}, locally optimal"), 19), STEPS
        )

    keys = jax.random.split(jax.random.key(1), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem")))
    for a, b in zip(jax.tree.leaves(run(keys)), jax.tree.leaves(run(spread)), strict=True):
        np.testing.assert_array_equal(a, b)
