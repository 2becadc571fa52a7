"""Kernels leave a density invariant: chi-square of one transition from exact draws.

20 000 draws in 20 cells of equal probability, on two densities that are neither symmetric nor
smooth; a correct kernel fails with probability 6e-5 a test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from pfjax import smc

NUM_DRAWS, NUM_CELLS = 20_000, 20


def log_density(x):
    """Exponential times an independent exponential of rate 1/10; 0 elsewhere."""
    inside = (x["a"] > 0) & jnp.all(x["b"] > 0)
    return jnp.where(inside, -x["a"] - 0.1 * jnp.sum(x["b"]), -jnp.inf)


def always_accepts(key, x, log_density):
    del log_density
    steps = dict(zip(x, jax.random.split(key), strict=True))
    return {
        name: jnp.abs(x[name] + jax.random.normal(steps[name], x[name].shape)) for name in x
    }, ()


SCALE = {"a": 1.5, "b": jnp.array([12.0])}
KERNELS = {
    "random walk": smc.random_walk(SCALE),
    "random walk, repeated": smc.repeated(smc.random_walk(SCALE), 3),
    "reflected, without a test": always_accepts,
}


@pytest.fixture(scope="module")
def moved():
    """Exact draws and where each kernel takes them: {name: (a, b)}, in one compiled program."""
    rng = np.random.default_rng(0)
    x = {"a": rng.exponential(size=NUM_DRAWS), "b": rng.exponential(10.0, (NUM_DRAWS, 1))}
    x = jax.tree.map(jnp.float32, x)
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)

    @jax.jit
    def run(keys, x):
        return {
            name: jax.vmap(lambda k, row, kernel=kernel: kernel(k, row, log_density)[0])(keys, x)
            for name, kernel in KERNELS.items()
        }

    return x, run(keys, x)


def chi_square(a, b) -> tuple[float, float]:
    """Of the two coordinates, from their exact distribution functions."""
    uniforms = -np.expm1(-np.asarray(a, float)), -np.expm1(-np.asarray(b, float)[:, 0] / 10)
    expected = NUM_DRAWS / NUM_CELLS
    counts = [np.histogram(u, NUM_CELLS, (0, 1))[0] for u in uniforms]
    return tuple(float(((c - expected) ** 2 / expected).sum()) for c in counts)


@pytest.mark.parametrize("name", list(KERNELS)[:2])
def test_invariance(moved, name):
    start, end = moved[0], moved[1][name]
    limit = chi2.isf(3e-5, NUM_CELLS - 1)
    assert max(chi_square(**start)) < limit  # the exact draws are
    assert max(chi_square(**end)) < limit
    assert (np.asarray(start["a"]) != np.asarray(end["a"])).mean() > 0.2


def test_a_kernel_without_an_acceptance_test_is_caught(moved):
    assert max(chi_square(**moved[1]["reflected, without a test"])) > 200


def test_joint_law(moved):
    """The coordinates stay independent: |z| < 4 on their correlation of ranks."""
    end = moved[1]["random walk, repeated"]
    a, b = np.exp(-np.asarray(end["a"], float)), np.exp(-np.asarray(end["b"], float)[:, 0] / 10)
    products = (a - 0.5) * (b - 0.5)
    assert abs(products.mean()) < 4 * products.std() / np.sqrt(NUM_DRAWS)


@pytest.mark.parametrize(("start", "lands"), [(-5.0, True), (5.0, False)])
def test_points_of_density_zero(start, lands):
    """Left at the first chance, never entered."""
    step = jax.jit(
        lambda key, x: smc.random_walk(20.0)(key, x, lambda x: jnp.where(x > 0, 0.0, -jnp.inf))[0]
    )
    x = jax.vmap(lambda key: step(key, jnp.float32(start)))(
        jax.random.split(jax.random.key(0), 200)
    )
    assert (np.asarray(x) > 0).any() if lands else (np.asarray(x) > 0).all()
    assert set(np.asarray(x)[np.asarray(x) <= 0].tolist()) <= {start}


def test_repeated_refuses_zero():
    with pytest.raises(ValueError, match="num_steps: got 0, want at least 1"):
        smc.repeated(smc.random_walk(1.0), 0)


def test_a_blackjax_kernel():
    """By the adapter of the docstring of `Kernel`, on a skew Gaussian pair: chi-square again."""
    blackjax = pytest.importorskip("blackjax")

    def hmc(key, x, log_density):
        algorithm = blackjax.hmc(log_density, 0.6, jnp.ones(2), num_integration_steps=3)
        state, info = algorithm.step(key, algorithm.init(x))
        return state.position, smc.KernelInfo(info.acceptance_rate, jnp.float32(0.6))

    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    precision = jnp.float32(np.linalg.inv(covariance))
    x = np.random.default_rng(0).multivariate_normal([3.0, -1.0], covariance, NUM_DRAWS)

    def log_density(x):
        difference = x - jnp.float32([3.0, -1.0])
        return -0.5 * difference @ precision @ difference

    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    step = jax.jit(jax.vmap(lambda key, row: hmc(key, row, log_density)))
    end, told = step(keys, jnp.float32(x))
    assert 0.5 < told.acceptance_rate.mean() < 1
    white = np.linalg.solve(np.linalg.cholesky(covariance), (np.asarray(end, float) - [3, -1]).T)
    exact = chi2.isf(3e-5, NUM_CELLS - 1)
    expected = NUM_DRAWS / NUM_CELLS
    counts = np.histogram(chi2.cdf((white**2).sum(0), 2), NUM_CELLS, (0, 1))[0]
    assert ((counts - expected) ** 2 / expected).sum() < exact
    assert (np.asarray(end) != np.float32(x)).any(1).mean() > 0.5
