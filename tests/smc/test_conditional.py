"""Conditional resampling by Bayes' rule: the exact law of a scheme, restricted to A_0 = 0.

One chi-square test per scheme, number of particles and weights, 50 000 draws each, with a
false-alarm rate of 1e-4; the keys are fixed.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pfjax import smc

INF = float("inf")
NUM_DRAWS = 50_000
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def multinomial(w):
    return [(1.0, np.tile(w, (len(w), 1)))]


def stratified(w):
    n, c = len(w), np.append(0, np.cumsum(w))
    low, high = np.arange(n)[:, None] / n, (np.arange(n)[:, None] + 1) / n
    return [(1.0, n * np.clip(np.minimum(high, c[1:]) - np.maximum(low, c[:-1]), 0, None))]


def systematic(w):
    n, c = len(w), np.cumsum(w)
    ends = np.unique(np.concatenate([[0, 1], (n * c) % 1]))
    combs = (ends[:-1, None] + ends[1:, None]) / 2 + np.arange(n)
    slots = (n * c[None, None, :-1] < combs[:, :, None]).sum(-1)
    return list(zip(np.diff(ends), np.eye(n)[slots], strict=True))


def residual(w):
    n = len(w)
    copies = np.floor(n * w + 1e-9)
    rows = np.eye(n)[np.repeat(np.arange(n), copies.astype(int))]
    rest = (n * w - copies) / max(n - copies.sum(), 1)
    return [(1.0, np.concatenate([rows, np.tile(rest, (n - len(rows), 1))]))]


def killing(w):
    survive = w / w.max()
    return [(1.0, np.diag(survive) + (1 - survive)[:, None] * w)]


# The law of each plain scheme: a mixture of independent slots, rows of a matrix [slot, parent].
LAWS = {law.__name__: law for law in (multinomial, systematic, stratified, residual, killing)}
ORDERED = ("systematic", "stratified")
CONDITIONAL = {name: getattr(smc, f"conditional_{name}") for name in LAWS}
# No N W is an integer: residual resampling is not continuous there.
WEIGHTS = {
    "three": [0.45, 0.2, 0.35],
    "four": [0.3, 0.1, 0.15, 0.45],
    "light reference": [0.05, 0.48, 0.17, 0.3],
    "heavy reference, one dead": [0.6, 0.22, 0.0, 0.18],
}


def pinned(key, log_w, t):
    """The classic error."""
    ancestors, left, resampled = smc.systematic(key, log_w, t)
    return ancestors.at[..., 0].set(0), left, resampled


SCHEMES = CONDITIONAL | {"pinned systematic": pinned}
schemes = pytest.mark.parametrize("name", CONDITIONAL)


COMPILED = {name: jax.jit(scheme) for name, scheme in SCHEMES.items()}


def resample(name, key, log_w):
    log_w = np.asarray(log_w, np.float32)
    peak = np.max(log_w, -1, keepdims=True)
    log_w = log_w - np.where(np.isneginf(peak), 0, peak)
    drawn = COMPILED[name](key, log_w, np.ones(log_w.shape[:-1], np.int32))
    return [np.asarray(x) for x in drawn]


def exact_law(name, w):
    """P(A = a | A_0 = 0) for every a, slots rotated and, if need be, rows shuffled at random."""
    n = len(w)
    orders = itertools.permutations(range(n)) if name in ORDERED else [range(n)]
    vectors = np.array(list(itertools.product(range(n), repeat=n)))
    total = np.zeros(len(vectors))
    for order in map(np.array, orders):
        for share, slots in LAWS[name](w[order]):
            by_particle = slots[:, np.argsort(order)]
            for shift in range(n):
                rolled = np.roll(by_particle, shift, axis=0)
                total += share * rolled[np.arange(n), vectors].prod(1)
    total *= vectors[:, 0] == 0
    return vectors, total / total.sum()


def chi_square(name, weights):
    """The statistic over its rejection threshold."""
    w = np.array(WEIGHTS[weights])
    keys = jax.random.split(jax.random.key(17), NUM_DRAWS)
    with np.errstate(divide="ignore"):
        log_w = np.broadcast_to(np.log(w), (NUM_DRAWS, len(w)))
    ancestors, _, _ = resample(name, keys, log_w)
    vectors, law = exact_law(name.removeprefix("pinned "), w)
    index = ancestors @ len(w) ** np.arange(len(w))[::-1]
    observed, expected = np.bincount(index, minlength=len(vectors)), NUM_DRAWS * law
    possible = expected > 1e-6
    if observed[~possible].sum():
        return INF
    rare = possible & (expected < 8)
    cells = [(observed[i], expected[i]) for i in np.flatnonzero(possible & ~rare)]
    cells += [(observed[rare].sum(), expected[rare].sum())] if expected[rare].sum() > 8 else []
    o, e = np.array(cells).T
    return ((o - e) ** 2 / e).sum() / chi2.isf(1e-4, max(len(cells) - 1, 1))


@schemes
@pytest.mark.parametrize("weights", WEIGHTS)
def test_bayes_rule(name, weights):
    assert chi_square(name, weights) < 1


@pytest.mark.parametrize("weights", WEIGHTS)
def test_systematic_with_slot_0_pinned_is_caught(weights):
    assert chi_square("pinned systematic", weights) > 10


log_weights = st.sampled_from([1, 2, 7]).flatmap(
    lambda n: st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=n, max_size=n
    )
)


@schemes
@COMPILES
@given(log_w=log_weights, seed=st.integers(0, 2**31 - 1))
def test_contract(name, log_w, seed):
    ancestors, left, resampled = resample(name, jax.random.key(seed), log_w)
    n, log_w = len(log_w), np.array(log_w)
    assert ancestors.dtype == np.int32 and left.dtype == np.float32 and ancestors[0] == 0
    if log_w.max() == -INF:
        assert (ancestors == np.arange(n)).all() and (left == -INF).all() and not resampled
        return
    assert resampled and (log_w[ancestors[1:]] > -INF).all()
    dead = log_w[ancestors] == -INF
    assert (left[dead] == -INF).all()
    np.testing.assert_allclose(left[~dead], -np.log(n), rtol=1e-6)
    counts = np.bincount(ancestors, minlength=n)
    w = np.exp(log_w - log_w.max())
    w = n * w / w.sum()
    if name == "systematic" and log_w[0] > -INF:
        # 1e-4 is for float32; a light reference is there although the comb might have missed it.
        assert np.abs(counts - w).max() < 1 + 1e-4
    if name == "residual":
        assert (counts[1:] >= np.floor(w[1:] - 1e-4)).all()


@schemes
def test_only_the_reference_survives(name):
    ancestors, left, _ = resample(name, jax.random.key(1), [-3.0] + [-INF] * 6)
    assert ancestors.tolist() == [0] * 7 and (left > -INF).all()


@pytest.mark.parametrize("name", ["systematic", "killing"])
def test_every_problem_has_its_own_key(name):
    keys = jax.random.split(jax.random.key(0), (2, 3))
    log_w = np.broadcast_to(0.3 * np.arange(7.0), (2, 3, 7))
    together, _, _ = resample(name, keys, log_w)
    assert len({tuple(a) for a in together.reshape(6, 7)}) > 1
    for index in np.ndindex(2, 3):
        assert (resample(name, keys[index], log_w[index])[0] == together[index]).all()


def test_large_n_never_chooses_the_dead():
    n = 2**14
    rng = np.random.default_rng(3)
    w = rng.random(n, np.float32) * (rng.random(n) < 0.5)
    w[0] = 0.5
    with np.errstate(divide="ignore"):
        log_w = np.log(w)
    for name in ("systematic", "residual"):
        ancestors, _, _ = resample(name, jax.random.key(5), log_w)
        assert ancestors[0] == 0 and (w[ancestors] > 0).all()


def test_when_decides_for_each_problem():
    log_w = jnp.log(jnp.array([[0.3, 0.2, 0.5], [0.02, 0.0, 0.98]]))
    keys = jax.random.split(jax.random.key(0))
    resampler = jax.jit(smc.when(smc.ess_below(0.5), smc.conditional(smc.systematic)))
    ancestors, left, resampled = resampler(keys, log_w, jnp.ones(2, jnp.int32))
    assert resampled.tolist() == [False, True]
    assert ancestors.tolist() == [[0, 1, 2], [0, 2, 2]]
    assert (left[0] == log_w[0]).all()


def test_with_parent_exchanges_particles():
    """Row `parent` takes the place of row 0: the law of the conditional scheme, renamed."""
    log_w = jnp.broadcast_to(jnp.log(jnp.array([0.2, 0.0, 0.5, 0.3])), (400, 4))
    keys, t = jax.random.split(jax.random.key(0), 400), jnp.ones(400, jnp.int32)
    parent = jnp.arange(400, dtype=jnp.int32) % 4

    @jax.jit
    def both(keys, log_w, t):
        scheme = smc.conditional(smc.systematic)
        always = smc.with_parent(scheme, parent)(keys, log_w, t)
        return always, smc.with_parent(smc.when(smc.never, scheme), parent)(keys, log_w, t)

    always, never = jax.tree.map(np.asarray, both(keys, log_w, t))
    ancestors, _, resampled = always
    assert resampled.all() and (ancestors[:, 0] == parent).all()
    assert (ancestors[:, 1:] != 1).all() and (ancestors[:, 1:] == 0).any()
    ancestors, left, resampled = never
    assert (ancestors == np.arange(4)).all()
    assert not resampled.any()
    assert (left == log_w).all()


@pytest.mark.parametrize(
    "resampler", [smc.when(smc.never, smc.systematic), smc.in_place(smc.systematic), smc.ssp]
)
def test_schemes_without_a_known_law_are_refused(resampler):
    with pytest.raises(ValueError, match=r"write when\(criterion, conditional\(scheme\)\)"):
        smc.conditional(resampler)


def test_conditional_knows_the_plain_schemes():
    for name, law in CONDITIONAL.items():
        assert smc.conditional(getattr(smc, name)) is law
