"""Parallel tempering leaves the product of the tempered posteriors invariant.

Every problem starts from exact draws of all temperatures and makes one step; a chi-square test
over the joint law of the paths of all chains, 60 000 problems and a false-alarm rate of 1e-4.
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
START, MOVE = np.array([0.7, 0.3]), np.array([[0.8, 0.2], [0.45, 0.55]])
G = np.array([[0.3, 1.0], [0.25, 3.0]])
TEMPERATURES = [0.6, 1.0, 4.0]
T, NUM_PROBLEMS, CHAINS = 2, 60_000, 3
PATHS = np.array(list(itertools.product(range(2), repeat=T)))
V = np.log(G)[np.arange(T), PATHS].sum(1)
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def chain(log_g) -> smc.FeynmanKac:
    start, move = jnp.log(jnp.float32(START)), jnp.log(jnp.float32(MOVE))
    return smc.lift(
        init=lambda key: jax.random.categorical(key, start),
        propagate=lambda key, x, t: jax.random.categorical(key, move[x]),
        log_potential=lambda x, t: log_g[t, x],
        log_transition=lambda x_prev, x, t: move[x_prev, x],
    )


def posteriors():
    """[chain, path]"""
    prior = START[PATHS[:, 0]] * MOVE[PATHS[:, 0], PATHS[:, 1]]
    p = prior * np.exp(V / np.array(TEMPERATURES)[:, None])
    return p / p.sum(1, keepdims=True)


def tempering(log_g, n, temperatures=TEMPERATURES):
    def kernel(model):
        return smc.particle_gibbs(model, n, T, smc.conditional_multinomial)

    return smc.parallel_tempering(chain(log_g), temperatures, kernel, T)


@pytest.fixture(scope="module")
def stepped():
    """One step with n particles: paths before and after [chain, problem, T], and the info."""
    rng = np.random.default_rng(6)
    index = np.stack([rng.choice(len(PATHS), NUM_PROBLEMS, p=p) for p in posteriors()])
    before = PATHS[index]
    keys = jax.random.split(jax.random.key(4), NUM_PROBLEMS)
    parity = jnp.arange(NUM_PROBLEMS, dtype=jnp.int32) % 2

    def run(n):
        state = smc.Replicas(jnp.moveaxis(jnp.asarray(before), -1, 1), parity)
        step = jax.jit(tempering(jnp.log(jnp.float32(G)), n).step)
        new, info = jax.tree.map(np.asarray, step(keys, state))
        assert (new.num_sweeps == np.asarray(parity) + 1).all()
        return before, np.moveaxis(new.paths, 1, -1), info

    return {n: run(n) for n in (1, 2)}


@pytest.mark.parametrize("n", [1, 2])
def test_the_product_is_invariant(stepped, n):
    """n = 1 is swaps alone."""
    before, after, _ = stepped[n]
    expected = NUM_PROBLEMS * np.einsum("a,b,c->abc", *posteriors()).ravel()
    for paths in (before, after):
        cell = (paths @ [2, 1]).T @ [16, 4, 1]
        observed = np.bincount(cell, minlength=64)
        rare = expected < 8
        o = np.append(observed[~rare], observed[rare].sum())
        e = np.append(expected[~rare], expected[rare].sum())
        o, e = o[e > 0], e[e > 0]
        assert ((o - e) ** 2 / e).sum() / chi2.isf(1e-4, len(e) - 1) < 1
    assert (before != after).any((0, 2)).mean() > (0.15 if n == 1 else 0.4)


@pytest.mark.parametrize("n", [1, 2])
def test_even_and_odd_pairs_swap_in_turn(stepped, n):
    before, after, info = stepped[n]
    sweeps = np.arange(NUM_PROBLEMS) % 2 + 1
    assert (info.tried == ((np.arange(2)[:, None] + sweeps) % 2 == 0)).all()
    assert not info.swapped[~info.tried].any()
    rates = info.swapped.sum(1) / info.tried.sum(1)
    assert ((0.3 < rates) & (rates < 0.99)).all(), rates
    np.testing.assert_allclose(info.log_potentials, V[after @ [2, 1]], rtol=1e-5)
    if n == 1:
        up = info.swapped[1]
        assert (after[1, up] == before[2, up]).all() and (after[2, up] == before[1, up]).all()
        still = ~info.swapped.any(0)
        assert (after[:, still] == before[:, still]).all()


def test_the_temperature_is_that_of_the_chain(stepped):
    """Without a swap, the hot chain moves as particle Gibbs on its own target does."""
    _, after, info = stepped[2]
    means = after[..., -1].mean(1)
    exact = posteriors() @ PATHS[:, -1]
    error = np.sqrt(exact * (1 - exact) / NUM_PROBLEMS)
    assert (np.abs(means - exact) / error < 4).all() and np.ptp(exact) > 0.1
    assert info.sweeps.slots.shape == (CHAINS, T, NUM_PROBLEMS)


@jax.jit
def exchange(key, log_g, paths, num_sweeps):
    step = tempering(log_g, 1, [0.5, 0.5, 3.0]).step
    return step(key, smc.Replicas(paths, num_sweeps))


entries = st.one_of(st.floats(-8.0, 8.0, width=32), st.just(-INF))


@COMPILES
@given(
    log_g=st.lists(st.lists(entries, min_size=2, max_size=2), min_size=T, max_size=T),
    paths=st.lists(st.sampled_from(PATHS.tolist()), min_size=3, max_size=3),
    num_sweeps=st.integers(0, 9),
    seed=st.integers(0, 2**31 - 1),
)
def test_paths_only_change_places(log_g, paths, num_sweeps, seed):
    """Also where v is -inf; chains of one temperature always swap."""
    new, info = jax.tree.map(
        np.asarray,
        exchange(jax.random.key(seed), jnp.float32(log_g), jnp.int32(paths), jnp.int32(num_sweeps)),
    )
    assert sorted(new.paths.tolist()) == sorted(paths)
    v = np.array(log_g)[np.arange(T), new.paths].sum(1)
    np.testing.assert_allclose(info.log_potentials, v, rtol=1e-5, atol=1e-5)
    assert info.swapped[0] == info.tried[0] == ((num_sweeps + 1) % 2 == 0)
    old = np.array(log_g)[np.arange(T), np.array(paths)].sum(1)
    if info.tried[1] and old[1] > -INF and old[2] == -INF:
        assert not info.swapped[1]
    if info.tried[1] and old[1] == -INF and old[2] > -INF:
        assert info.swapped[1]


def test_one_temperature_is_the_kernel_itself():
    path = jnp.array([[0, 1]])
    state = smc.Replicas(path, jnp.int32(0))
    new, info = jax.jit(tempering(jnp.log(jnp.float32(G)), 4, [1.0]).step)(jax.random.key(0), state)
    assert new.paths.shape == (1, T) and info.swapped.shape == (0,)


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch(autoregression):
    def kernel(model):
        return smc.particle_gibbs(model, 300, 5)

    algorithm = smc.parallel_tempering(autoregression, TEMPERATURES, kernel, 5)
    run = jax.jit(lambda key: smc.run(key, algorithm, 4, lambda *x: x)[1])
    keys = jax.random.split(jax.random.key(4), 16)
    mesh = jax.make_mesh((8,), ("problem",))
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    together, alone = run(keys), run(keys[3])
    assert len(spread[0].num_sweeps.sharding.device_set) == 8
    state, info = together
    assert state.paths.shape == (4, CHAINS, 5, 16) and np.asarray(info.swapped).any()
    for a, b in zip(*map(jax.tree.leaves, (together, spread)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state.paths[..., 3], alone[0].paths)
    np.testing.assert_array_equal(info.log_potentials[..., 3], alone[1].log_potentials)


@pytest.mark.parametrize("temperatures", [[], [1.0, 0.0], [1.0, INF], [-1.0]])
def test_refusals(temperatures):
    with pytest.raises(ValueError, match=r"temperatures: got .* all positive and finite"):
        tempering(jnp.zeros((T, 2)), 2, temperatures)
