"""Guided, twisted, powered and tempered models: the target that each docstring names, listed.

Unbiasedness: 20 000 filters a model, |z| < 4, a false alarm has probability 6e-5 a statistic.
The base is the language model of `test_tabular`, in which finished sequences are absorbing.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

LENGTH, NUM_FILTERS, N = 4, 20_000, 8
RNG = np.random.default_rng(1)
TABLE, OTHER = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in RNG.normal(size=(2, 4, 4)))
OTHER = 0.85 * TABLE + 0.15 * OTHER
REWARD = np.float32([0.1, -0.4, 0.7, 0.3])
ALPHA, RAMP = 1.6, np.float32([0.5, 1.3, 1.0, 1.8])

EVERY = np.array(
    [
        s
        for s in itertools.product(range(4), repeat=LENGTH)
        if all(b == 0 for a, b in itertools.pairwise(s) if a == 0)
    ]
)
MASK = np.c_[np.ones(len(EVERY), bool), EVERY[:, :-1] != 0]
P = np.where(MASK, TABLE[np.c_[0 * EVERY[:, :1], EVERY[:, :-1]], EVERY], 1).prod(1)
PSI = np.exp((REWARD.astype(float)[EVERY] * [1, 2, 1, 0.5]).sum(1))

TARGETS = {
    "base": P * PSI,
    "twisted": P * PSI,
    "guided": P * PSI,
    "guided, then twisted": P * PSI,
    "power": P**ALPHA * PSI,
    "power of another": P**ALPHA * PSI,
    "ramped power": P ** RAMP[-1].astype(float) * PSI,
    "tempered": P * PSI**0.3,
    "tempered late": P * PSI**2.0,
}
FUNCTIONS = {
    "one": lambda s: 0 * s[..., 0] + 1,
    "length": lambda s: (s != 0).sum(-1) ** 2,
    "first, with the third": lambda s: (s[..., 0] == 1) * (1 + s[..., 2]),
    "last": lambda s: s[..., -1] + 2 * (s[..., 1] == 0),
}


def log_psi(tokens):
    return jnp.sum(jnp.asarray(REWARD)[tokens] * jnp.float32([1, 2, 1, 0.5]))


def log_p(tokens):
    """The policy's log-probability of every particle, from its tokens."""
    previous = jnp.concatenate([jnp.zeros_like(tokens[..., :1]), tokens[..., :-1]], -1)
    log_table = jnp.log(jnp.float32(TABLE))
    ended = (previous == 0).at[..., 0].set(False)
    return jnp.sum(jnp.where(ended, 0.0, log_table[previous, tokens]), -1)


def crude(s, t):
    """A twist that knows a third of the truth and adds a mistake; s is one particle."""
    seen = jnp.where(jnp.arange(LENGTH) <= t, s.tokens, 0)
    return 0.3 * log_psi(seen) + 0.2 * jnp.sin(seen.sum().astype(jnp.float32))


def from_other(base):
    """Proposes from another table: the whole model is that table's, with its own log_prob."""
    table, other = (jnp.log(jnp.float32(p)) for p in (TABLE, OTHER))
    model = smc.tabular_language_model(other, LENGTH, log_psi)

    def ratio(s, t):
        previous = jnp.where(t > 0, s.tokens[t - 1], 0)
        ended = (previous == 0) & (t > 0)
        return jnp.where(ended, 0.0, (table - other)[previous, s.tokens[t]])

    def init(keys):
        x = model.init(keys)
        return x, smc.per_particle(lambda s, t: ratio(s, 0))(x, jnp.zeros(keys.shape[:-1], int))

    def propagate(keys, x, t):
        x = model.propagate(keys, x, t)
        return x, smc.per_particle(ratio)(x, t)

    return smc.guided(base, smc.Proposal(init, propagate)), model


def build(name):
    base = smc.tabular_language_model(jnp.log(jnp.float32(TABLE)), LENGTH, log_psi)
    guided, other = from_other(base)
    log_prob = lambda s: s.log_prob  # noqa: E731
    return {
        "base": lambda: base,
        "twisted": lambda: smc.twist(base, smc.per_particle(crude), LENGTH),
        "guided": lambda: guided,
        "guided, then twisted": lambda: smc.twist(
            guided, lambda g, t: smc.per_particle(crude)(g.x, t), LENGTH
        ),
        "power": lambda: smc.power(base, ALPHA, log_prob),
        "power of another": lambda: smc.power(
            other, ALPHA, lambda s: log_p(s.tokens), log_proposal=log_prob
        ),
        "ramped power": lambda: smc.power(base, lambda t: jnp.asarray(RAMP)[t], log_prob),
        "tempered": lambda: smc.tempered_target(base, 0.3),
        "tempered late": lambda: smc.tempered_target(
            base, lambda t: jnp.where(t == LENGTH - 1, 2.0, 0.5)
        ),
    }[name]()


def tokens_of(x):
    while not isinstance(x, smc.TokenSequence):
        x = x.x
    return x.tokens


@partial(jax.jit, static_argnums=1)
def run(keys, name):
    algorithm = smc.particle_filter(build(name), N, smc.when(smc.ess_below(0.7), smc.multinomial))
    state = smc.run(keys, algorithm, LENGTH)[0]
    return tokens_of(state.particles), state.log_weights, state.log_evidence


QUICK = ["twisted", "power"]
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in TARGETS if name not in (*QUICK, "base")
]


@pytest.mark.parametrize("name", QUICK + SLOW)
def test_unbiased_for_the_named_target(name):
    keys = jax.random.split(jax.random.key(17), NUM_FILTERS)
    tokens, log_w, log_evidence = map(np.asarray, run(keys, name))
    z, w = TARGETS[name].sum(), np.exp(np.float64(log_w))
    ratio = np.exp(np.float64(log_evidence)) / z
    for label, f in FUNCTIONS.items():
        exact = TARGETS[name] @ f(EVERY) / z
        estimate = ratio * (w * f(tokens)).sum(1)
        error = estimate.std() / np.sqrt(NUM_FILTERS)
        assert abs(estimate.mean() - exact) < 4 * error, label
        assert error < 0.03 * exact, label  # power: 24 % of any answer is 8 standard errors


def test_the_targets_differ_by_more_than_the_errors():
    """So that no transformer passes for another."""
    answers = [[t @ f(EVERY) / t.sum() for f in FUNCTIONS.values()] for t in TARGETS.values()]
    distinct = np.unique(np.round(answers, 6), axis=0)
    gaps = np.abs(distinct[:, None] - distinct[None]).max(-1) + np.eye(len(distinct))
    assert len(distinct) == 5 and gaps.min() > 0.1


@partial(jax.jit, static_argnums=0)
def exact_run(n, key, parameters, observations, fraction):
    """The model twisted by its value function, guided by q proportional to M G psi."""
    log_psi = smc.value_function(parameters, observations)
    proposal = smc.hidden_markov_proposal(parameters, observations, log_psi)
    guided = smc.guided(smc.hidden_markov(parameters, observations), proposal)
    model = smc.twist(
        guided, smc.per_particle(lambda g, t: log_psi[t, g.x]), horizon=len(observations)
    )
    resampler = smc.when(smc.ess_below(fraction), smc.multinomial)
    state, infos = smc.run(key, smc.particle_filter(model, n, resampler), len(observations))
    return state, infos, smc.forward_algorithm(parameters, observations)[0][-1]


@settings(deadline=None, max_examples=40)  # the first example of a shape compiles
@given(
    n=st.sampled_from([1, 2, 5]),
    fraction=st.sampled_from([0.0, 0.5, 0.99, 1.1]),
    seed=st.integers(0, 10**6),
)
def test_the_exact_twist_has_no_variance(n, fraction, seed):
    """log Z is exact for every N, threshold, key and model; zeros in the table included."""
    rng = np.random.default_rng(seed)
    tables = [rng.gamma(0.5, size=shape) for shape in [(3,), (3, 3), (3, 2)]]
    tables[1] *= rng.random((3, 3)) < 0.7
    tables[1] += 0.3 * np.eye(3)
    with np.errstate(divide="ignore"):
        logs = [jnp.float32(np.log(x / x.sum(-1, keepdims=True))) for x in tables]
    seen = jnp.asarray(rng.integers(0, 2, size=5))
    state, infos, log_z = exact_run(
        n, jax.random.key(seed), smc.HiddenMarkov(*logs), seen, jnp.float32(fraction)
    )
    np.testing.assert_allclose(state.log_evidence, log_z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.log_weights, -np.log(n), atol=1e-5)
    np.testing.assert_allclose(infos.log_evidence_increment[1:], 0, atol=1e-5)
    np.testing.assert_allclose(infos.ess, n, rtol=1e-4)


@pytest.mark.parametrize("name", ["guided, then twisted", "ramped power"])
def test_a_particle_weighed_again_weighs_the_same(name):
    """Conditional SMC puts a weighed reference back among the particles of its generation."""

    @jax.jit
    def twice(keys, t):
        model = build(name)
        x, _ = model.weigh(model.init(keys), 0 * t)
        x, once = model.weigh(model.propagate(keys, x, t), t)
        return once, model.weigh(x, t)[1]

    once, again = twice(jax.random.split(jax.random.key(0), (2, 6)), jnp.array([1, 1]))
    np.testing.assert_array_equal(once, again)
    assert np.ptp(np.asarray(once)) > 0


def scripted(log_g):
    """Particle i at generation t weighs log_g[t, i]; nothing moves."""
    table = jnp.float32(log_g)
    slots = jnp.arange(table.shape[1])
    return smc.FeynmanKac(lambda keys: slots, lambda keys, x, t: x, lambda x, t: (x, table[t]))


@pytest.mark.parametrize("n", [1, 2])
def test_death_by_twist(n):
    """psi = 0 kills, for good, though psi is positive later; then all are dead, without NaN."""
    log_psi = jnp.float32([[-jnp.inf, 0.5], [0.3, 0.1], [-jnp.inf, -jnp.inf], [0, 0]])[:, :n]
    model = smc.twist(scripted(np.zeros((5, n))), lambda x, t: log_psi[t], horizon=5)
    algorithm = smc.particle_filter(model, n, smc.when(smc.never, smc.multinomial))
    run = jax.jit(lambda key: smc.run(key, algorithm, 5, lambda state, info: (state, info)))
    states, infos = jax.tree.map(np.asarray, run(jax.random.key(0))[1])
    alive = (states.log_weights > -np.inf).tolist()
    assert alive == [[False, n == 2][:n]] * 2 + [[False] * n] * 3
    if n == 2:
        np.testing.assert_allclose(states.log_evidence[1], 0.1 - np.log(2), rtol=1e-5)
    assert infos.status[2:].tolist() == [smc.ALL_DEAD] * 3
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves((states, infos)))


def test_tempering_with_zero_keeps_the_dead():
    model = smc.tempered_target(scripted([[-np.inf, 2.0]]), lambda t: jnp.zeros(t.shape))
    log_g = model.weigh(jnp.arange(2), jnp.int32(0))[1]
    assert log_g.tolist() == [-np.inf, 0.0]


def test_log_transition_looks_back_with_the_weights_of_the_twist():
    """W_t-1 m_t(x_prev, x) psi_t-1(x_prev) / psi_t-1(x_prev) is that of the plain model."""
    log_m = lambda x_prev, x, t: -((x - x_prev) ** 2)  # noqa: E731
    plain = scripted(np.zeros((3, 2)))._replace(log_transition=log_m)
    twisted = smc.twist(plain, lambda x, t: x, horizon=3)
    before = smc.Scored(jnp.float32([0.5, 2.0]), jnp.float32([0.5, -jnp.inf]), jnp.zeros(2))
    now = smc.Scored(jnp.float32([1.0, 1.0]), jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_allclose(
        twisted.log_transition(before, now, jnp.int32(1)), [-0.75, -np.inf], rtol=1e-6
    )
    assert smc.twist(scripted([[0.0]]), lambda x, t: x, 1).log_transition is None
    assert smc.tempered_target(plain, 0.5).log_transition is log_m


def test_refusals():
    with pytest.raises(ValueError, match="horizon: got 0, want at least 1"):
        smc.twist(scripted([[0.0]]), lambda x, t: x, 0)


@pytest.mark.parametrize(
    "axis_type", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit]
)
def test_eight_devices_give_the_bits_of_one(autoregression, axis_type):
    """An elementwise model, guided, twisted, powered and tempered in turn; some particles die."""
    proposal = smc.lift_proposal(
        init=lambda key: (jax.random.uniform(key), -0.3 * jax.random.uniform(key)),
        propagate=lambda key, x, t: (0.9 * x + jax.random.uniform(key) - 0.3, 0.01 * x),
    )
    model = smc.guided(
        smc.tempered_target(autoregression, lambda t: 1 / (1.0 + t.astype(float))), proposal
    )
    model = smc.twist(model, lambda g, t: 0.5 * g.x * t[..., None].astype(jnp.float32), 7)
    model = smc.power(model, 1.5, lambda s: -0.2 * s.x.x**2, lambda s: 0.1 * s.x.x)
    algorithm = smc.particle_filter(model, 300)
    run = jax.jit(lambda keys: smc.run(keys, algorithm, 8))
    keys = jax.random.split(jax.random.key(1), 16)
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(axis_type,))
    spread = run(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0].log_weights.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(run(keys)), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(a, b)
