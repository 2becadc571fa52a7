"""Large, broken and missing potentials: no digit is lost, what is no number kills, and both are told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

INF, NAN = float("inf"), float("nan")


def scripted(log_g) -> smc.FeynmanKac:
    """Particles stay 0; log G is a table [t, n]."""
    table = jnp.float32(log_g)
    return smc.FeynmanKac(
        init=lambda keys: jnp.zeros(keys.shape, jnp.float32),
        propagate=lambda keys, x, t: x,
        weigh=lambda x, t: (x, table[t]),
    )


ALGORITHMS = {
    "filter": lambda model: smc.particle_filter(model, 4),
    "every step": lambda model: smc.particle_filter(model, 4, smc.ssp),
    "auxiliary": lambda model: smc.auxiliary_filter(model, 4, lambda x, t: x),
    "lookahead": lambda model: smc.lookahead_filter(model, 2, 2),
    "islands": lambda model: smc.islands(smc.particle_filter(model, 2), 2, smc.systematic),
}
everywhere = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("filter", "auxiliary")))
        for name in ALGORITHMS
    ],
)


@functools.partial(jax.jit, static_argnums=0)
def compiled(name: str, table):
    """Once for each algorithm and number of rows."""
    algorithm = ALGORITHMS[name](scripted(table[:, :2] if name == "islands" else table))
    return smc.run(jax.random.key(0), algorithm, len(table), lambda state, info: (state, info))[1]


def run(name: str, log_g: np.ndarray):
    """The states and infos of these generations; more of them, of log G = 0, share the program."""
    rows = np.zeros((max(4, len(log_g)), 4), np.float32)
    rows[: len(log_g)] = log_g
    return jax.tree.map(lambda leaf: leaf[: len(log_g)], compiled(name, rows))


@pytest.mark.parametrize("name", ["filter", pytest.param("islands", marks=pytest.mark.slow)])
def test_the_evidence_of_many_large_steps(name):
    """2000 steps of -700.1, whose sum float32 alone makes -1400228."""
    steps = np.full((2000, 4), -700.1, np.float32)
    states, infos = run(name, steps)
    exact = 2000 * float(np.float32(-700.1))
    assert abs(float(states.log_evidence[-1]) - exact) <= 0.07  # half a unit of float32 there
    excess = (float(states.log_evidence[-1]) + 1.4e6) + float(states.evidence_error[-1])
    assert abs(excess - (exact + 1.4e6)) < 1e-3
    np.testing.assert_allclose(infos.log_evidence_increment, -700.1, rtol=1e-6)


def test_the_evidence_of_many_small_steps():
    """1e5 steps of -0.1: float32 alone makes -9998.557 of them."""
    states, _ = run("filter", np.full((100_000, 4), -0.1, np.float32))
    exact = 100_000 * float(np.float32(-0.1))
    assert abs(float(states.log_evidence[-1]) - exact) <= 0.0005  # half a unit of float32 there
    excess = (float(states.log_evidence[-1]) + 10_000) + float(states.evidence_error[-1])
    assert abs(excess - (exact + 10_000)) < 1e-4


@everywhere
def test_weights_far_from_zero_sum_to_one(name):
    """log L = -1e6: 1.0066 if the peak is not taken out before it is rounded."""
    log_g = np.float32([[-1e6, -1e6 - 2, -1e6 - 1, -1e6 - 3], [1e6, 1e6 + 1, 1e6, 1e6 + 2]])
    states, _ = run(name, log_g)
    np.testing.assert_allclose(np.exp(np.asarray(states.log_weights, float)).sum(1), 1, atol=1e-6)


@pytest.mark.slow
def test_the_excess_over_a_large_constant():
    """An autoregression with 1e5 taken off every potential: the same excess, ancestors and weights."""

    def found(offset: float):
        model = smc.lift(
            init=lambda key: jax.random.normal(key),
            propagate=lambda key, x, t: 0.9 * x + jax.random.normal(key),
            # Multiples of 1/64, so that the offset rounds nothing off.
            log_potential=lambda x, t: jnp.round(-32 * (x - 0.5) ** 2) / 64 - offset,
        )
        algorithm = smc.particle_filter(model, 64)
        return smc.run(jax.random.key(2), algorithm, 200, lambda s, i: (s.log_weights, i.ancestors))

    (state, (log_w, ancestors)), (far, (far_w, far_ancestors)) = found(0.0), found(1e5)
    assert (ancestors == far_ancestors).all() and (log_w == far_w).all()
    excess = (float(far.log_evidence) + 200 * 1e5) + float(far.evidence_error)
    assert float(state.log_evidence) < -60
    np.testing.assert_allclose(excess, float(state.log_evidence), rtol=1e-6)


def test_a_cancelling_sum_keeps_what_is_small():
    log_g = np.repeat(np.float32([[1e7], [0.125], [-1e7]]), 4, 1)
    states, _ = run("filter", log_g)
    assert float(states.log_evidence[-1]) == 0.125 and float(states.evidence_error[-1]) == 0


def test_exact_addition_against_float64():
    rng = np.random.default_rng(0)
    terms = (rng.normal(size=1000) * 10.0 ** rng.integers(-4, 6, 1000)).astype(np.float32)
    total, error = jax.lax.scan(
        lambda carry, x: (smc.add_exactly(*carry, x), None), (jnp.float32(0), jnp.float32(0)), terms
    )[0]
    exact = terms.astype(float).sum()
    assert abs(float(total) + float(error) - exact) < 1e-6 < abs(terms.sum() - exact)


BROKEN = {"NaN": NAN, "+inf": INF}


@everywhere
@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("generation", [0, 1])
def test_a_broken_potential_kills_its_particle_and_is_told_ever_after(name, value, generation):
    log_g = np.zeros((4, 4), np.float32)
    log_g[generation, 1] = value
    states, infos = run(name, log_g)
    assert infos.status.tolist() == [
        smc.NOT_FINITE if t >= generation else smc.OK for t in range(4)
    ]
    log_w, ancestors = np.asarray(states.log_weights, float), np.asarray(infos.ancestors)
    assert not np.isnan(log_w).any() and (log_w < 1e-6).all()
    assert ((ancestors >= 0) & (ancestors < log_w.shape[1])).all()
    np.testing.assert_allclose(np.exp(log_w).sum(1), 1, rtol=1e-6)
    half = 0.75 if name in ("filter", "every step", "auxiliary", "lookahead") else 0.5
    np.testing.assert_allclose(np.exp(states.log_evidence[generation]), half, rtol=1e-6)
    assert np.isfinite(states.log_evidence).all()


@everywhere
def test_broken_potentials_of_all_are_the_end(name):
    log_g = np.zeros((3, 4), np.float32)
    log_g[1] = NAN
    states, infos = run(name, log_g)
    assert infos.status.tolist() == [0, 3, 3] == [smc.OK] + 2 * [smc.ALL_DEAD | smc.NOT_FINITE]
    assert (states.log_weights[1:] == -INF).all() and (infos.ess[1:] == 0).all()
    assert states.log_evidence[1:].tolist() == [-INF, -INF]
    assert states.evidence_error.tolist() == [0, 0, 0]


@pytest.mark.slow
def test_a_dead_particle_may_have_any_potential():
    states, infos = run("every step", np.float32([[-INF, 0, 0, 0], [0, 0, 0, 0]]))
    state = jax.tree.map(lambda leaf: leaf[0], states)
    after, info = smc.weighed(
        state, jnp.float32([NAN, 0, 0, 0]), infos.ancestors[0], jnp.array(False)
    )
    assert int(info.status) == smc.OK and after.log_weights[0] == -INF


@pytest.mark.slow
def test_a_broken_forecast_is_never_chosen():
    eta = jnp.float32([0.0, NAN, INF, 1.0])
    log_g = np.zeros((2, 4), np.float32)
    algorithm = smc.auxiliary_filter(scripted(log_g), 4, lambda x, t: eta, smc.systematic)
    state, infos = smc.run(jax.random.key(0), algorithm, 2)
    assert set(infos.ancestors[1].tolist()) == {0, 3}
    assert infos.status.tolist() == [smc.OK, smc.NOT_FINITE]
    assert np.isfinite(state.log_weights).all()


def test_what_a_resampler_leaves_broken_dies():
    def careless(key, log_w, t):
        return jnp.arange(4, dtype=jnp.int32), jnp.log(jnp.float32([NAN, INF, 0.5, 0.5])), t > 0

    algorithm = smc.particle_filter(scripted(np.zeros((2, 4))), 4, careless)
    state, infos = smc.run(jax.random.key(0), algorithm, 2)
    np.testing.assert_allclose(np.exp(state.log_weights), [0, 0, 0.5, 0.5], rtol=1e-6)
    assert infos.status.tolist() == [smc.OK, smc.NOT_FINITE]


@pytest.mark.slow
def test_samplers_tell_of_broken_likelihoods():
    posterior = smc.Posterior(
        lambda key: jax.random.uniform(key), lambda x: 0.0, lambda x: jnp.where(x < 0.5, NAN, -x)
    )
    stay = smc.resample_move(lambda key, x, log_density: (x, ()))
    algorithm = smc.tempering(posterior, 16, jnp.float32([0.5, 1.0]), stay)
    both = lambda state, info: (state, info)  # noqa: E731
    states, infos = jax.jit(lambda key: smc.run(key, algorithm, 2, both)[1])(jax.random.key(0))
    assert infos.status.tolist() == [smc.NOT_FINITE] * 2
    dead = np.asarray(states.particles.position[0]) < 0.5
    assert ((states.log_weights[0] == -INF) == dead).all() and not np.isnan(
        states.log_weights
    ).any()


def test_gradients_pass_a_broken_particle_by():
    def log_evidence(theta):
        state = smc.start(jax.random.key(0), (), 3)
        log_g = jnp.stack([theta, 2 * theta, jnp.float32(NAN)])
        none = jnp.arange(3, dtype=jnp.int32), jnp.array(False)
        return smc.weighed(state, log_g, *none)[0].log_evidence

    slope = jax.jit(jax.grad(log_evidence))(jnp.float32(0.0))
    np.testing.assert_allclose(slope, 1.5, rtol=1e-6)
