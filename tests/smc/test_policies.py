"""Published policies: formulas by hand, targets by 20 000 filters on an enumerated model.

E[Z_hat] = Z and E[Z_hat sum_i W_i f(x_i)] = Z pi(f); |z| < 4 on a statistic fails for correct code
with probability 6e-5; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")
NUM_FILTERS, N = 20_000, 8
FUNCTIONS = [
    lambda path: path[..., -1],
    lambda path: path[..., 0] * (1 + path[..., 5]),
    lambda path: (path[..., 1:] != path[..., :-1]) @ np.arange(1, 7),
]


def hot(log_w, t):
    return 1 + t.astype(jnp.float32)


RIGHT = {
    "stratified": smc.stratified,
    "residual": smc.residual,
    "ssp": smc.ssp,
    "killing": smc.killing,
    "paper": smc.paper,
    "steer": smc.steer(N),
    "annealed residual": smc.annealed(hot, smc.residual),
    "annealed when": smc.annealed(hot, smc.when(smc.ess_below(0.7), smc.ssp)),
    "unbiased entropic": smc.unbiased_entropic(20),
    "unbiased entropic, by entropy": smc.unbiased_entropic(
        20, smc.entropy_annealing(20, below=0.9, until=0.9)
    ),
}
WRONG = {
    "entropic": smc.entropic(20, smc.linear_annealing(20, below=1.1)),
    "rebase": smc.rebase(),
}


@pytest.fixture(scope="module")
def filters(hmm):
    """Runs all filters with the resampler of that name; one compiled program for all names."""
    resamplers = RIGHT | WRONG

    @jax.jit
    def run(keys, choice):
        def resampler(key, log_w, t):
            return jax.lax.switch(choice, list(resamplers.values()), key, log_w, t)

        return smc.run(keys, smc.particle_filter(hmm.model, N, resampler), hmm.num_steps)[0]

    keys = jax.random.split(jax.random.key(77), NUM_FILTERS)
    return lambda name: run(keys, jnp.int32(list(resamplers).index(name)))


def z_scores(hmm, state) -> np.ndarray:
    paths, weights = np.asarray(state.particles), np.exp(np.asarray(state.log_weights, float))
    ratio = np.exp(np.asarray(state.log_evidence, float) - hmm.log_evidence)
    estimates = [ratio - 1]
    for f in FUNCTIONS:
        estimates.append(ratio * (weights * f(paths)).sum(1) - hmm.posterior_mean(f))
    return np.mean(estimates, axis=1) / (np.std(estimates, axis=1) / np.sqrt(NUM_FILTERS))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_unbiased(hmm, filters, name):
    z = z_scores(hmm, filters(name))
    assert (np.abs(z) < 4).all(), z


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_no_target(hmm, filters, name):
    z = z_scores(hmm, filters(name))
    assert np.abs(z).max() > 10, z


W = np.array([0.7, 0.1, 0.15, 0.05])


@pytest.mark.parametrize("t", [0, 3, 4, 9])
def test_schedules_by_hand(t):
    """ESS / N = 0.475 < 1/2; early means t < 4 of a horizon of 8."""
    log_w, s = jnp.log(jnp.float32(W)), t / 8
    ess = 1 / (W**2).sum() / 4
    entropy = -(W * np.log(W)).sum() / np.log(4)
    taus = {
        smc.ess_annealing: (1 - s) / ess,
        smc.entropy_annealing: 1 / (entropy + (1 - entropy) * s),
        smc.linear_annealing: 2 - s,
    }
    for schedule, tau in taus.items():
        early, tight, late = (
            float(jax.jit(s)(log_w, jnp.int32(t)))
            for s in (schedule(8), schedule(8, below=0.4), schedule(8, until=2.0))
        )
        np.testing.assert_allclose(early, max(1, tau) if t < 4 else 1, rtol=1e-6)
        assert tight == 1
        np.testing.assert_allclose(late, max(1, tau), rtol=1e-6)


def test_entropic_has_the_ancestors_of_its_unbiased_form():
    keys = jax.random.split(jax.random.key(0), 30)
    log_w = smc.normalise(2 * jax.random.normal(jax.random.key(1), (30, 8)))
    t = jnp.arange(30, dtype=jnp.int32) % 6
    published, unbiased = (
        jax.jit(r(6))(keys, log_w, t) for r in (smc.entropic, smc.unbiased_entropic)
    )
    assert (published[0] == unbiased[0]).all()
    np.testing.assert_allclose(published[1], -np.log(8), rtol=1e-6)
    assert (jnp.ptp(unbiased[1], axis=-1) > 0.1).any()


def test_schedules_of_the_dead_and_of_one_survivor():
    log_w = jnp.array([[-INF] * 4, [-INF, 0.0, -INF, -INF]])
    keys = jax.random.split(jax.random.key(0), 2)
    schedules = (smc.ess_annealing, smc.entropy_annealing, smc.linear_annealing)

    @jax.jit
    def all_three(keys, log_w, t):
        return [smc.unbiased_entropic(9, schedule(9))(keys, log_w, t) for schedule in schedules]

    for ancestors, left, _ in all_three(keys, log_w, jnp.zeros(2, jnp.int32)):
        assert ancestors.tolist() == [[0, 1, 2, 3], [1] * 4]
        assert (left[0] == -INF).all()
        np.testing.assert_allclose(left[1], -np.log(4), rtol=1e-6)


def served(p: np.ndarray, n: int) -> list[int]:
    """The published loop, in Python."""
    counts, left, unserved = [0] * n, n, p.sum()
    for i in sorted(range(n), key=lambda i: -p[i]):
        counts[i] = int(np.ceil(left * p[i] / unserved - 1e-9)) if p[i] else 0
        left, unserved = left - counts[i], unserved - p[i]
    return counts


rebase = jax.jit(smc.rebase(0.5))


@settings(deadline=None)  # the first example of a shape compiles
@given(st.lists(st.integers(0, 9), min_size=6, max_size=6).filter(any))
def test_rebase_is_the_published_loop(odds):
    with np.errstate(divide="ignore"):
        log_w = smc.normalise(jnp.log(jnp.float32(odds)))
    ancestors, left, _ = rebase(jax.random.key(0), log_w, jnp.int32(1))
    counts = np.bincount(ancestors, minlength=6)
    exact = np.array(odds, float) ** 2
    # Where a share is an integer but for rounding, float64 may go either way; float32 goes down.
    assert counts.tolist() == served(exact, 6) and counts.sum() == 6
    np.testing.assert_allclose(left, -np.log(6), rtol=1e-6)
    assert (np.abs(counts - 6 * exact / exact.sum()) < 2).all()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: smc.rebase(0.0), "temperature: got 0.0, want a number above 0"),
        (lambda: smc.entropic(0), "horizon: got 0 generations, want at least 1"),
        (lambda: smc.unbiased_entropic(-1), "horizon: got -1"),
    ],
)
def test_refusals(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()
