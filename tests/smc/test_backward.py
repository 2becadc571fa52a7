"""Backward sampling and smoothing weights: exact on exact filters, close on particle filters.

If the particles of every generation are all the states, with the exact filter probabilities as
weights, both are exact: a chi-square test over all paths (false-alarm rate 1e-4, fixed key) and
equality. What finite n does to the law of a path is tested by `backward_gibbs`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from scipy.stats import chi2

from pfjax import smc

INF = float("inf")
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.75, 0.25, 0.0], [0.1, 0.6, 0.3], [0.3, 0.05, 0.65]])
G = np.array([[0.2, 1.0, 0.6], [2.0, 0.3, 1.0], [0.0, 1.0, 3.0], [1.0, 0.2, 0.5]])
T, NUM_PATHS = 4, 150_000
PATHS = np.array(list(itertools.product(range(3), repeat=T)))
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def posterior():
    p = START[PATHS[:, 0]] * G[np.arange(T), PATHS].prod(1)
    p = p * MOVE[PATHS[:, :-1], PATHS[:, 1:]].prod(1)
    return p / p.sum()


def marginals():
    """[t, state], by enumeration."""
    one_hot = PATHS[:, :, None] == np.arange(3)
    return np.einsum("p,pts->ts", posterior(), one_hot)


def chain(log_move) -> smc.FeynmanKac:
    return smc.lift(
        init=lambda key: jnp.int32(0),
        propagate=lambda key, x, t: x,
        log_potential=lambda x, t: 0.0,
        log_transition=lambda x_prev, x, t: log_move[x_prev, x],
    )


def exact_filter() -> smc.State:
    """A stored filter whose particles are the states in another order in every generation."""
    weights, p = [], START * G[0]
    for t in range(T):
        p = p if t == 0 else (p @ MOVE) * G[t]
        weights.append(p / p.sum())
    rng = np.random.default_rng(2)
    states = np.stack([rng.permutation(3) for _ in range(T)])
    with np.errstate(divide="ignore"):
        log_w = np.log(np.take_along_axis(np.array(weights), states, axis=1))
    state = smc.start(jax.random.split(jax.random.key(0), T), jnp.int32(states), states.shape[1])
    return state._replace(log_weights=jnp.float32(log_w), t=jnp.arange(T, dtype=jnp.int32))


def test_paths_of_an_exact_filter_are_exact():
    model = chain(jnp.log(jnp.float32(MOVE)))
    draw = jax.jit(lambda key: smc.backward_sampling(key, model, exact_filter(), NUM_PATHS))
    paths = np.asarray(draw(jax.random.key(1))).T
    assert paths.shape == (NUM_PATHS, T)
    observed = np.bincount(paths @ 3 ** np.arange(T)[::-1], minlength=len(PATHS))
    expected = NUM_PATHS * posterior()
    assert observed[expected == 0].sum() == 0 and expected[expected > 0].min() > 8
    o, e = observed[expected > 0], expected[expected > 0]
    assert ((o - e) ** 2 / e).sum() < chi2.isf(1e-4, len(e) - 1)


def test_smoothing_weights_of_an_exact_filter_are_exact():
    states = exact_filter()
    weights = jax.jit(smc.smoothing_weights, static_argnums=0)(
        chain(jnp.log(jnp.float32(MOVE))), states
    )
    exact = np.take_along_axis(marginals(), np.asarray(states.particles), axis=1)
    assert (exact == 0).any()
    np.testing.assert_allclose(np.exp(weights), exact, rtol=1e-5)


@pytest.fixture(scope="module")
def smoothed():
    """A random walk seen with noise: the paths, smoothing weights and states of filters."""

    def y(t):
        return 0.5 + 0.6 * t + 0.9 * jnp.sin(2.0 * t)

    model = smc.lift(
        init=lambda key: 0.7 * jax.random.normal(key),
        propagate=lambda key, x, t: 0.9 * x + 0.5 + 0.6 * jax.random.normal(key),
        log_potential=lambda x, t: -0.5 * ((y(t.astype(jnp.float32)) - x) / 0.8) ** 2,
        log_transition=lambda x_prev, x, t: -0.5 * ((x - 0.9 * x_prev - 0.5) / 0.6) ** 2,
    )

    @jax.jit
    def run(keys):
        collect = lambda state, info: state  # noqa: E731
        _, states = smc.run(keys, smc.particle_filter(model, 300), 6, collect)
        again = jax.vmap(lambda key: jax.random.fold_in(key, 77))(keys)
        paths = smc.backward_sampling(again, model, states, 20)
        return paths, smc.smoothing_weights(model, states), states

    return np.asarray(y(jnp.arange(6.0)), float), run


def gaussian_posterior(y):
    """Mean and standard deviation of every state: the whole path conditioned at once."""
    num = len(y)
    step = np.eye(num) - np.diag(np.full(num - 1, 0.9), -1)
    drift, noise = np.append(0.0, np.full(num - 1, 0.5)), np.append(0.7, np.full(num - 1, 0.6))
    precision = step.T @ np.diag(noise**-2.0) @ step + np.eye(num) / 0.8**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (step.T @ np.diag(noise**-2.0) @ drift + y / 0.8**2)
    return mean, np.sqrt(np.diag(covariance))


def test_smoothed_means_of_a_linear_gaussian_model(smoothed):
    """Consistency with n = 300: 64 filters agree within 0.05 standard deviations of the posterior.

    Both estimators have a bias of order 1/n. The filter means are off by more than 0.5.
    """
    y, run = smoothed
    paths, log_w, states = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(3), 64)))
    mean, deviation = gaussian_posterior(y)
    by_weights = (np.exp(log_w) * states.particles).sum(-1).mean(1)
    by_paths = paths.mean((1, 2))
    by_filter = (np.exp(states.log_weights) * states.particles).sum(-1).mean(1)
    assert np.abs((by_weights - mean) / deviation).max() < 0.05
    assert np.abs((by_paths - mean) / deviation).max() < 0.1
    assert np.abs((by_filter - mean) / deviation).max() > 0.5


def test_eight_devices_and_one_problem_give_the_bits_of_the_batch(autoregression):
    model = autoregression._replace(log_transition=lambda x_prev, x, t: -((x - x_prev) ** 2))

    @jax.jit
    def run(key):
        pf, collect = smc.particle_filter(model, 300), lambda state, info: state
        _, states = smc.run(key, pf, 4, collect)
        return smc.backward_sampling(key, model, states, 5), smc.smoothing_weights(model, states)

    keys = jax.random.split(jax.random.key(3), 16)
    mesh = jax.make_mesh((8,), ("problem",))
    together, alone = run(keys), run(keys[5])
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].sharding.device_set) == 8
    for a, b, c in zip(*map(jax.tree.leaves, (together, spread, alone)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.asarray(a)[:, 5], c)


@jax.jit
def smooth(key, log_w, log_move):
    """Particles are their slots."""
    states = exact_filter()._replace(
        particles=jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), (T, 3)),
        log_weights=smc.normalise(log_w),
    )
    model = chain(log_move)
    return smc.backward_sampling(key, model, states, 4), smc.smoothing_weights(model, states)


entries = st.one_of(st.floats(-8.0, 8.0, width=32), st.just(-INF))


@COMPILES
@given(
    log_w=st.lists(st.lists(entries, min_size=3, max_size=3), min_size=T, max_size=T),
    log_move=st.lists(
        st.lists(st.floats(-8.0, 8.0, width=32), min_size=3, max_size=3), min_size=3, max_size=3
    ),
    seed=st.integers(0, 2**31 - 1),
)
def test_only_live_particles_are_visited(log_w, log_move, seed):
    paths, smoothed = smooth(jax.random.key(seed), jnp.float32(log_w), jnp.float32(log_move))
    paths, smoothed = np.asarray(paths), np.asarray(smoothed)
    live = np.array(log_w) > -INF
    assert not np.isnan(smoothed).any() and ((paths >= 0) & (paths < 3)).all()
    assert (smoothed[~live] == -INF).all()
    if live.any(1).all():
        assert live[np.arange(T)[:, None], paths].all()
        np.testing.assert_allclose(np.exp(smoothed).sum(1), 1, rtol=1e-4)
    if not live[-1].any():
        assert (paths[-1] == 0).all()


def test_refusals():
    model = chain(jnp.zeros((3, 3)))._replace(log_transition=None)
    for call in (
        lambda: smc.backward_sampling(jax.random.key(0), model, exact_filter(), 1),
        lambda: smc.smoothing_weights(model, exact_filter()),
    ):
        with pytest.raises(ValueError, match=r"model.log_transition: got None.*smc.lift"):
            call()
    with pytest.raises(ValueError, match="want a typed key"):
        smc.backward_sampling(jax.random.PRNGKey(0), chain(jnp.zeros((3, 3))), exact_filter(), 1)
