"""All resampling schemes: contract, exact laws of the counts, edge cases, one bit pattern.

|z| < 4 on a statistic fails for correct code with probability 6e-5; the keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pfjax import smc

INF = float("inf")
PLAIN = {
    "systematic": smc.systematic,
    "stratified": smc.stratified,
    "multinomial": smc.multinomial,
    "residual": smc.residual,
    "ssp": smc.ssp,
    "killing": smc.killing,
}
ROUNDED = ("systematic", "ssp")  # each count is N W_i rounded down or up


def optimal(key, log_w, t):
    return smc.optimal(log_w.shape[-1])(key, log_w, t)


def half(key, log_w, t):
    """Keeps half of the particles (one of one)."""
    return smc.optimal((log_w.shape[-1] + 1) // 2)(key, log_w, t)


def hot(log_w, t):
    return jnp.full(t.shape, 3.0)


ALL = PLAIN | {
    "optimal": optimal,
    "optimal, half": half,
    "default": smc.adaptive_systematic,
    "in place": smc.in_place(smc.ssp),
    "stop_gradient": smc.stop_gradient(smc.systematic),
    "annealed": smc.annealed(hot, smc.systematic),
    "annealed optimal": smc.annealed(hot, half),
    "entropic": smc.entropic(4),
    "unbiased entropic": smc.unbiased_entropic(4, smc.entropy_annealing(4)),
    "rebase": smc.rebase(0.7),
}
COMPILED = {name: jax.jit(resampler) for name, resampler in ALL.items()}
# One chooses no row twice, one resamples only uneven weights: a dead row may stay.
KEEPS_DEAD_ROWS = {"optimal", "default"}
plain, everyone = (pytest.mark.parametrize("name", names) for names in (PLAIN, ALL))
log_weights = st.sampled_from([1, 2, 17]).flatmap(
    lambda n: st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=n, max_size=n
    )
)
seeds = st.integers(0, 2**31 - 1)
COMPILES = settings(deadline=None)  # the first example of a shape compiles


def linear(log_w) -> np.ndarray:
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def resample(name: str, seed: int, log_w) -> tuple[np.ndarray, np.ndarray, bool]:
    ancestors, left, resampled = COMPILED[name](
        jax.random.key(seed), smc.normalise(jnp.float32(log_w)), jnp.int32(1)
    )
    assert ancestors.dtype == jnp.int32 and left.dtype == jnp.float32
    return np.asarray(ancestors), np.asarray(left), bool(resampled)


@plain
@COMPILES
@given(log_w=log_weights, seed=seeds)
def test_contract(name, log_w, seed):
    ancestors, left, resampled = resample(name, seed, log_w)
    n = len(log_w)
    if max(log_w) == -INF:
        assert (ancestors == np.arange(n)).all() and (left == -INF).all() and not resampled
        return
    assert resampled and (ancestors >= 0).all() and (ancestors < n).all()
    assert (np.asarray(log_w)[ancestors] > -INF).all()
    np.testing.assert_allclose(left, -np.log(n), rtol=1e-6)


@pytest.mark.parametrize("name", [*ROUNDED, "stratified", "residual"])
@COMPILES
@given(log_w=log_weights.filter(lambda log_w: max(log_w) > -INF), seed=seeds)
def test_counts_are_bounded(name, log_w, seed):
    log_w = np.asarray(smc.normalise(jnp.float32(log_w)))
    ancestors, _, _ = resample(name, seed, log_w)
    expected = len(log_w) * linear(log_w)
    counts = np.bincount(ancestors, minlength=len(log_w))
    slack = 1e-6  # what fixed point and the second normalisation round at n = 17
    if name == "residual":
        assert (counts >= np.floor(expected - slack)).all()
        return
    bound = 1 if name in ROUNDED else 2
    assert (np.abs(counts - expected) < bound + slack).all()
    assert (np.diff(ancestors) >= 0).all()


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("n", [10**6, 2**20])
def test_counts_of_a_million_are_floor_or_ceiling(name, n):
    """The strict bound, the weights in float64: spread out, and half of it in one particle."""
    rng = np.random.default_rng(n)
    lopsided = rng.normal(size=n)
    lopsided[n // 3] = np.log(np.exp(lopsided).sum())
    for seed, log_w in enumerate([0.1 * rng.normal(size=n), 3 * rng.normal(size=n), lopsided]):
        log_w = np.asarray(smc.normalise(jnp.float32(log_w)))
        ancestors, _, _ = resample(name, seed, log_w)
        counts = np.bincount(ancestors, minlength=n)
        assert np.abs(counts - n * linear(log_w)).max() < 1


# No N W is an integer: residual resampling is not continuous there.
W = np.array([0.45, 0.0, 0.3, 0.07, 0.18])


def independent(slot_laws: np.ndarray) -> np.ndarray:
    """E[c_i c_k] when slot j is i with probability slot_laws[j, i], the slots independent."""
    mean = slot_laws.sum(0)
    return np.outer(mean, mean) + np.diag(mean) - slot_laws.T @ slot_laws


def overlaps(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Length of [j, j + 1] that lies between lower_i and upper_i, for every slot j."""
    j = np.arange(len(lower))[:, None]
    return np.clip(np.minimum(upper, j + 1) - np.maximum(lower, j), 0, None)


def comb(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """E[c_i c_k] of a comb with one uniform offset: its law is constant between break points."""
    breaks = np.unique(np.concatenate([[0, 1], lower % 1, upper % 1]))
    moments = np.zeros((len(lower), len(lower)))
    for start, stop in zip(breaks[:-1], breaks[1:], strict=True):
        teeth = np.arange(len(lower) + 1)[:, None] + (start + stop) / 2
        counts = ((teeth > lower) & (teeth < upper)).sum(0)
        moments += (stop - start) * np.outer(counts, counts)
    return moments


def knock_out(parts: dict[int, float]) -> dict[tuple[int, ...], float]:
    """Probability of every set of particles rounded up, neighbours meeting first."""
    if len(parts) == 1:
        ((player, rest),) = parts.items()
        assert min(rest, 1 - rest) < 1e-12
        return {(player,) if rest > 0.5 else (): 1.0}
    (i, a), (k, b), *others = parts.items()
    law: dict[tuple[int, ...], float] = {}
    if a + b < 1 - 1e-12:
        branches = [(a / (a + b) if a + b else 1, (), i), (b / (a + b) if a + b else 0, (), k)]
        rest = a + b
    else:
        branches = [((1 - b) / (2 - a - b), (i,), k), ((1 - a) / (2 - a - b), (k,), i)]
        rest = a + b - 1
    for probability, up, player in branches:
        # The rest meets whoever is left, after the others have met in pairs.
        for ups, p in knock_out({**dict(others), player: rest}).items():
            key = tuple(sorted(up + ups))
            law[key] = law.get(key, 0) + probability * p
    return law


def second_moments(name: str, w: np.ndarray) -> np.ndarray:
    n, whole = len(w), np.floor(len(w) * w + 1e-12)
    upper = n * np.cumsum(w)
    lower = upper - n * w
    if name == "systematic":
        return comb(lower, upper)
    if name == "stratified":
        return independent(overlaps(lower, upper))
    if name == "killing":
        return independent(np.diag(w / w.max()) + np.outer(1 - w / w.max(), w))
    if name == "ssp":
        law = knock_out(dict(enumerate(n * w - whole)))
        counts = np.array([whole + np.isin(np.arange(n), ups) for ups in law])
        return np.einsum("s,si,sk->ik", list(law.values()), counts, counts)
    certain = whole if name == "residual" else 0 * whole
    num_drawn = round(n - certain.sum())
    p = (n * w - certain) / num_drawn
    drawn = independent(np.tile(p, (num_drawn, 1)))
    cross = np.outer(certain, num_drawn * p)
    return np.outer(certain, certain) + cross + cross.T + drawn


@plain
def test_law_of_the_counts(name):
    """E[c_i] = N W_i and E[c_i c_k] as enumerated: 5 + 25 statistics, 20 000 runs."""
    repeats, n = 20_000, len(W)
    log_w = jnp.broadcast_to(jnp.log(jnp.float32(W)), (repeats, n))
    keys = jax.random.split(jax.random.key(3), repeats)
    ancestors = np.asarray(COMPILED[name](keys, log_w, jnp.ones(repeats, jnp.int32))[0])
    counts = (ancestors[:, :, None] == np.arange(n)).sum(1).astype(float)
    assert (np.abs(z_scores(counts, n * W)) < 4).all()
    products = (counts[:, :, None] * counts[:, None, :]).reshape(repeats, -1)
    z = z_scores(products, second_moments(name, W).ravel())
    assert (np.abs(z) < 4).all(), z


def z_scores(samples: np.ndarray, expected: np.ndarray) -> np.ndarray:
    error = samples.std(0) / np.sqrt(len(samples))
    difference = samples.mean(0) - expected
    constant = error < 1e-12
    assert np.abs(difference[constant]).max(initial=0) < 1e-6
    return np.where(constant, 0, difference / np.where(constant, 1, error))


EDGES = {
    "equal": [0.0] * 7,
    "one survivor": [-INF] * 4 + [-3.0] + [-INF] * 2,
    "all dead": [-INF] * 7,
    "from 1e-38 to 1e38": np.linspace(-87, 87, 7),
    "the other way, some dead": [87, 58, -INF, 0, -INF, -58, -87],
    "two survivors": [-INF, 0.0, -INF, 80.0, -INF, -INF, -INF],
}


@everyone
@pytest.mark.parametrize("n", [1, 2, 7])
def test_edges(name, n):
    """No NaN, and no dead particle chosen while enough are alive; for 8 keys and two generations."""
    log_w = np.repeat(np.array(list(EDGES.values()), np.float32)[:, -n:], 8, 0)
    normalised = smc.normalise(jnp.asarray(log_w))
    keys = jax.random.split(jax.random.key(0), len(log_w))
    t = np.tile(np.arange(8, dtype=np.int32) % 2, len(EDGES))
    ancestors, left, resampled = map(np.asarray, COMPILED[name](keys, normalised, t))
    assert not np.isnan(left).any() and (ancestors >= 0).all() and (ancestors < n).all()
    num_alive = (log_w > -INF).sum(1)
    chosen = np.take_along_axis(log_w, ancestors, 1) > -INF
    assert ((left > -INF) == chosen).all()
    assert (left[num_alive == 0] == -INF).all() and not resampled[num_alive == 0].any()
    stays = np.arange(ancestors.shape[1])
    assert (ancestors[num_alive == 0] == stays).all()
    rows_stay = ~resampled & (name != "optimal, half") & (name != "annealed optimal")
    assert (ancestors[rows_stay] == stays).all()
    assert chosen[resampled].all()
    # Without replacement there may be more slots than live particles.
    assert (chosen.sum(1) >= np.minimum(num_alive, ancestors.shape[1])).all()


@everyone
def test_what_is_no_weight_is_a_dead_one(name):
    """NaN and +inf are taken for -inf, bit for bit: indices stay in range, nothing is NaN."""
    log_w = np.repeat(np.float32([[-1, 0, -3, -2, 0, -5, -1]]), 4, 0)
    log_w[0, 2], log_w[1, [0, 6]], log_w[2] = np.nan, [np.inf, np.nan], np.nan
    dead = np.where(np.isfinite(log_w), log_w, -INF)
    keys, t = jax.random.split(jax.random.key(2), 4), np.zeros(4, np.int32)
    broken, clean = (COMPILED[name](keys, jnp.asarray(x), t) for x in (log_w, dead))
    jax.tree.map(np.testing.assert_array_equal, broken, clean)
    assert ((broken[0] >= 0) & (broken[0] < 7)).all()
    assert not np.isnan(broken[1]).any()


@everyone
def test_one_broken_weight_among_64_is_never_chosen(name):
    """Wherever it stands, NaN or +inf; also where the largest log-weight less 64 is itself."""
    n = 64
    for peak in (0.0, 1e10):
        log_w = np.full((2 * n, n), peak, np.float32)
        log_w[np.arange(2 * n), np.arange(2 * n) % n] = np.repeat([np.nan, np.inf], n)
        keys, t = jax.random.split(jax.random.key(4), 2 * n), np.zeros(2 * n, np.int32)
        ancestors, left, _ = map(np.asarray, COMPILED[name](keys, jnp.asarray(log_w), t))
        assert ((ancestors >= 0) & (ancestors < n)).all() and not np.isnan(left).any()
        broken = ancestors == (np.arange(2 * n) % n)[:, None]
        assert (left[broken] == -INF).all() and (left > -INF).sum() >= 2 * n * min(n - 1, 32)
        assert not broken.any() or name in KEEPS_DEAD_ROWS, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ALL) - {"rebase"}))
def test_edges_of_a_million(name):
    """2^20 particles, weights from 1e-38 to 1e38, half of them dead, the last thousand too.

    `rebase` serves one particle after the other and is not made for as many.
    """
    n = 2**20
    rng = np.random.default_rng(0)
    log_w = rng.uniform(-87, 87, n).astype(np.float32)
    log_w[(rng.random(n) < 0.5) | (np.arange(n) >= n - 1000)] = -INF
    ancestors, left, _ = resample(name, 0, log_w)
    assert (ancestors < n).all() and not np.isnan(left).any()
    num_alive = (log_w > -INF).sum()
    assert (log_w[ancestors] > -INF).sum() >= min(num_alive, len(ancestors))
    if name not in ("optimal", "optimal, half", "annealed optimal", "default"):
        assert (log_w[ancestors] > -INF).all()


@plain
@pytest.mark.parametrize("num_trailing_dead", [0, 1000])
def test_dead_particles_among_many_are_never_chosen(name, num_trailing_dead):
    """Float32 prefix sums grow across weights of 0; a comb on them alone picks the dead."""
    n = 2**16
    for seed in range(5):
        rng = np.random.default_rng(seed)
        w = rng.random(n, np.float32) * (rng.random(n) < 0.5)
        w[n - num_trailing_dead :] = 0
        with np.errstate(divide="ignore"):
            ancestors, _, _ = resample(name, seed, np.log(w))
        assert (ancestors < n).all() and (w[ancestors] > 0).all()


@pytest.mark.parametrize("name", [*PLAIN, "annealed optimal", "unbiased entropic", "rebase"])
def test_one_bit_pattern(name):
    """Each problem has the bits that it has alone, whatever axes and devices there are."""
    keys = jax.random.split(jax.random.key(0), (2, 8))
    log_w = smc.normalise(2 * jax.random.normal(jax.random.key(1), (2, 8, 300)))
    t = jnp.arange(16, dtype=jnp.int32).reshape(2, 8) % 3
    together = jax.tree.map(np.asarray, COMPILED[name](keys, log_w, t))
    assert len({row.tobytes() for row in together[0].reshape(16, -1)}) == 16

    for index in ((0, 0), (1, 2)):
        alone = COMPILED[name](keys[index], log_w[index], t[index])
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a[i], b), together, alone)

    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("problem",), axis_types=(AxisType.Explicit,))
    spread = NamedSharding(mesh, PartitionSpec(None, "problem"))
    on_eight = COMPILED[name](*jax.device_put((keys, log_w, t), spread))
    assert len(on_eight[0].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, together, on_eight)
