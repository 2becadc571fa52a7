"""Temperatures: the adaptive ones against roots found by SciPy in float64, from carried weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from pfjax import smc

N, FRACTION, NUM_STEPS = 200, 0.8, 6
POSTERIOR = smc.Posterior(
    sample_prior=lambda key: jax.random.exponential(key),
    log_prior=lambda x: jnp.where(x > 0, -x, -jnp.inf),
    log_likelihood=lambda x: -8.0 * (x - 2.5) ** 2 + 3.0,
)
NEVER = smc.when(smc.never, smc.systematic)
SOMETIMES = smc.when(smc.ess_below(0.5), smc.in_place(smc.systematic))


def relative_cess(w, u) -> float:
    """(sum W u)^2 / sum W u^2, in float64."""
    return (w @ u) ** 2 / (w @ u**2)


def relative_ess(w, u) -> float:
    """ESS of W u over that of W."""
    return (w @ u) ** 2 / (w**2 @ u**2) * (w @ w) / w.sum() ** 2


RULES = {"conditional": smc.conditional_ess, "after": smc.ess_after}
EXACT = {"conditional": relative_cess, "after": relative_ess}


def root(w, log_likelihood, start, rule="conditional") -> float:
    """The next inverse temperature: 1, or where what is left by the rule is the target."""
    above = log_likelihood - log_likelihood[w > 0].max()
    gap = lambda advance: EXACT[rule](w, np.exp(advance * above)) - FRACTION  # noqa: E731
    return 1.0 if gap(1 - start) >= 0 else start + brentq(gap, 0, 1 - start, xtol=1e-12)


@pytest.fixture(scope="module", params=["never", "sometimes", "sometimes, after"])
def history(request):
    resampling, _, rule = request.param.partition(", ")
    resampler = {"never": NEVER, "sometimes": SOMETIMES}[resampling]
    rejuvenate = smc.resample_move(smc.random_walk(0.5), resampler)
    rule = rule or "conditional"
    bounded = smc.adaptive_tempering(POSTERIOR, N, rejuvenate, fraction=FRACTION, rule=RULES[rule])
    algorithm = smc.Algorithm(*bounded)  # without its horizon: every generation is looked at
    both = lambda state, info: (state, info)  # noqa: E731
    run = jax.jit(lambda key: smc.run(key, algorithm, NUM_STEPS, both)[1])
    return resampling, rule, jax.tree.map(np.asarray, run(jax.random.key(8)))


def test_the_temperature_solves_for_the_carried_weights(history):
    """Ignoring the weights carried would give another root: by more than 20 times the tolerance."""
    name, rule, (states, infos) = history
    x, lam = states.particles, states.particles.inverse_temperature[:, 0].astype(float)
    assert (infos.resampled.sum() == 0) == (name == "never") and not infos.resampled.all()
    equal = np.full(N, 1 / N)
    differences = []
    for t in range(NUM_STEPS):
        carried = np.exp(states.log_weights[t - 1].astype(float)) if t else equal
        w = equal if infos.resampled[t] else carried
        log_likelihood, start = x.log_likelihood[t].astype(float), lam[t - 1] if t else 0.0
        exact = root(w, log_likelihood, start, rule)
        np.testing.assert_allclose(lam[t], exact, rtol=1e-3)
        differences.append(abs(root(equal, log_likelihood, start, rule) / exact - 1))
    assert max(differences) > 0.02


def test_weights_are_powers_of_the_likelihood(history):
    name, _, (states, infos) = history
    if name == "sometimes":
        pytest.skip("weights start again at every resampling")
    lam = states.particles.inverse_temperature[:, 0].astype(float)
    log_l = states.particles.log_likelihood.astype(float)
    exact = (np.diff(lam, prepend=0)[:, None] * log_l).sum(0)
    exact -= np.log(np.exp(exact).sum())
    np.testing.assert_allclose(states.log_weights[-1], exact, atol=1e-3)
    assert (np.ptp(states.particles.inverse_temperature, axis=1) == 0).all()
    np.testing.assert_allclose(
        log_l, -8 * (states.particles.position.astype(float) - 2.5) ** 2 + 3, rtol=1e-4, atol=1e-4
    )


@settings(deadline=None, max_examples=50)
@given(
    scale=st.floats(-12.0, 12.0),
    start=st.sampled_from([0.0, 1e-6, 0.3, 0.999, 1.0]),
    seed=st.integers(0, 1000),
)
def test_solver(scale, start, seed):
    """Log-likelihoods over e^-12 .. e^12, a third of the particles dead by weight or likelihood."""
    rng = np.random.default_rng(seed)
    log_l = np.exp(scale) * rng.normal(size=30)
    log_w = rng.normal(size=30)
    log_l[:5], log_w[3:10] = -np.inf, -np.inf
    log_l, log_w = np.float32(log_l), np.asarray(smc.normalise(jnp.float32(log_w)))
    start = float(np.float32(start))
    lam = float(solve(log_w, log_l, jnp.full(30, jnp.float32(start))))
    assert start <= lam <= 1
    live = np.isfinite(log_l) & np.isfinite(log_w)
    w, log_l = np.exp(log_w[live].astype(float)), log_l[live].astype(float)
    enough = relative_cess(w, np.ones(len(w))) >= FRACTION
    exact = root(w, log_l, start) if enough else start
    # The advance has the precision of the sum start + advance in float32.
    assert abs(lam - exact) < 2e-3 * (exact - start) + 1e-7 * (start + 1e-4)


@jax.jit
def solve(log_w, log_likelihood, inverse_temperature):
    """What a step chooses from particles that the kernel does not move."""
    n = log_w.shape[0]
    posterior = smc.Posterior(
        lambda key: jnp.float32(0), lambda x: 0.0, lambda x: log_likelihood[x.astype(jnp.int32)]
    )
    stay = smc.resample_move(lambda key, x, log_density: (x, ()), NEVER)
    algorithm = smc.adaptive_tempering(posterior, n, stay, fraction=FRACTION)
    rows, ones = jnp.arange(n, dtype=jnp.float32), jnp.ones(n, jnp.float32)
    x = smc.Tempered(rows, log_w, log_likelihood, inverse_temperature, ones)
    state = smc.start(jax.random.key(0), x, n)._replace(log_weights=log_w)
    return algorithm.step(jax.random.key(0), state)[0].particles.inverse_temperature[0]


def test_what_is_no_number_is_dead():
    """NaN and +inf choose the temperature that -inf does; another peak would move it."""
    log_w = np.log(np.array([0.2, 0.1, 0.1, 0.2, 0.1, 0.1, 0.2], np.float32))
    at = jnp.full(7, jnp.float32(0.1))
    found = []
    for bad in (-np.inf, np.nan, np.inf):
        log_l = np.array([-3.0, -7.0, 2.0, -1.0, bad, 4.0, 0.5], np.float32)
        found.append(float(solve(log_w, log_l, at)))
    assert 0.15 < found[0] < 0.5 and found == found[:1] * 3


def test_horizons():
    stay = smc.resample_move(lambda key, x, log_density: (x, ()), NEVER)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"its temperatures come from its particles.*at_posterior"):
        smc.run(key, smc.adaptive_tempering(POSTERIOR, 4, stay), 3)
    with pytest.raises(ValueError, match="got 2, want at least 3: the schedule has 3 temp"):
        smc.run(key, smc.tempering(POSTERIOR, 4, np.array([0.1, 0.4, 1.0]), stay), 2)
    with pytest.raises(ValueError, match=r"rule: got 'ess', want a function of \(log_w, log_g\)"):
        smc.adaptive_tempering(POSTERIOR, 4, stay, rule="ess")


def test_problems_end_on_their_own():
    """`at_posterior` is the `done` of `run_until`; dead problems end at once, with a status."""

    def log_likelihood(x):
        return jnp.where(x["width"] < 0, -jnp.inf, -0.5 * (x["x"] / x["width"]) ** 2)

    widths = jnp.array([10.0, 0.1, -1.0])

    def posterior(width):
        return smc.Posterior(
            lambda key: {"x": jax.random.normal(key), "width": width},
            lambda x: -0.5 * x["x"] ** 2,
            log_likelihood,
        )

    kernel = smc.random_walk({"x": 0.3, "width": 0.0})

    @jax.jit
    @jax.vmap
    def run(key, width):
        algorithm = smc.adaptive_tempering(posterior(width), 64, smc.resample_move(kernel))
        return smc.run_until(key, algorithm, smc.at_posterior, 40)

    state, infos = run(jax.random.split(jax.random.key(0), 3), widths)
    assert (state.particles.inverse_temperature == 1).all()
    assert state.t.tolist()[::2] == [0, 0] and 5 < state.t[1] < 39
    assert infos.status[:, 0].tolist() == [smc.OK, smc.OK, smc.ALL_DEAD]
    assert state.log_evidence[2] == -jnp.inf and (state.log_weights[2] == -jnp.inf).all()


def test_the_schedule_is_read_by_generation_and_its_end_stays():
    schedule = np.array([0.0, 0.7, 0.2], np.float32)
    stay = smc.resample_move(lambda key, x, log_density: (x, ()), NEVER)
    algorithm = smc.tempering(POSTERIOR, 5, schedule, stay)

    def collect(state, info):
        return state.particles.inverse_temperature[0], state.log_evidence, state.log_weights

    keys = jax.random.key(0)
    state, (lam, log_z, log_w) = jax.jit(lambda key: smc.run(key, algorithm, 5, collect))(keys)
    assert lam.tolist() == [0.0, *schedule[1:].tolist(), schedule[2], schedule[2]]
    log_l = np.asarray(state.particles.log_likelihood, float)
    for row in range(5):
        total = np.log(np.exp(float(lam[row]) * log_l).mean())
        np.testing.assert_allclose(log_z[row], total, atol=1e-4)
