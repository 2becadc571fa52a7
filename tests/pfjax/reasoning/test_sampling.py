"""Log-probabilities against a sort in float64, and draws against log-probabilities."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pfjax.reasoning import drawing
from pfjax.reasoning.drawing import draw, log_probs
from pfjax.settings.sampling import Sampling

SIZES = (1, 2, 7, 432, 5000)
CUTS = (
    Sampling().filled(),
    Sampling(temperature=0.3).filled(),
    Sampling(temperature=1.7, top_k=5).filled(),
    Sampling(top_k=1).filled(),
    Sampling(temperature=0.8, top_p=0.9).filled(),
    Sampling(top_p=1e-3).filled(),
    Sampling(top_p=0.999).filled(),
    Sampling(temperature=1.3, min_p=0.05).filled(),
    Sampling(min_p=1.0).filled(),
    Sampling(temperature=0.7, top_k=20, top_p=0.8).filled(),
    Sampling(temperature=1.5, top_k=50, min_p=0.1).filled(),
    Sampling(temperature=1.2, top_p=0.7, min_p=0.2).filled(),
    Sampling(temperature=0.6, top_k=6, top_p=0.95, min_p=0.03).filled(),
)
STEPS = 1 << 23


def groups(logits: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct logits that are kept, largest first; how many tokens have each; log p of one."""
    levels, many = np.unique(logits[keep], return_counts=True)
    levels, many = levels[::-1], many[::-1]
    return levels, many, levels - levels[0] - np.log(np.exp(levels - levels[0]) @ many)


def reference(logits: np.ndarray, s: Sampling) -> tuple[np.ndarray, float]:
    """transformers' order of cuts, ties kept: the log-probabilities, and how far every decision is
    from its threshold, relative to it.
    """
    z = logits.astype(np.float64) / s.temperature
    keep, margin = z > -np.inf, np.inf
    if 0 < s.top_k < len(z):
        keep &= z >= np.sort(z)[-s.top_k]
    if s.top_p < 1:
        levels, many, logp = groups(z, keep)
        mass = np.cumsum(many * np.exp(logp))
        margin = np.abs(mass / s.top_p - 1).min()
        keep &= z >= levels[min(np.searchsorted(mass, s.top_p), len(levels) - 1)]
    if s.min_p > 0:
        levels, _, logp = groups(z, keep)
        ratio = np.exp(logp - logp[0]) / s.min_p
        margin = min(margin, np.abs(ratio[s.min_p == 1 :] - 1).min(initial=np.inf))
        keep &= z >= levels[ratio >= 1][-1]
    levels, _, logp = groups(z, keep)
    where = np.searchsorted(-levels, -np.where(keep, z, levels[0]))
    return np.where(keep, logp[where], -np.inf), float(margin)


@functools.cache
def compiled(s: Sampling):
    return jax.jit(functools.partial(log_probs, sampling=s))


def agrees(logits: np.ndarray, s: Sampling) -> bool:
    """Compares a row; False where float32 may fall on the other side of a threshold."""
    got, (want, margin) = np.asarray(compiled(s)(jnp.asarray(logits))), reference(logits, s)
    assert got.dtype == np.float32 and not np.isnan(got).any()
    if margin < 1e-5:
        return False
    np.testing.assert_array_equal(got > -np.inf, want > -np.inf)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-6)
    return True


def rows(kind: str, v: int) -> list[np.ndarray]:
    """Three rows; steps between distinct logits are far above float32's."""
    draws = np.random.default_rng([v, len(kind)])
    z = np.round(3 * draws.normal(size=(3, v)) * 2**11) / 2**11
    if kind == "ties":
        z = draws.integers(-2, 3, (3, v)) * 0.5
    if kind == "holes":
        z[draws.random((3, v)) < 0.4] = -np.inf
        z[:, draws.integers(v)] = 0.25
    if kind == "peaked":
        z = draws.permuted(np.tile(np.arange(v) * -8.0, (3, 1)), axis=1)
    if kind == "flat":
        z[:] = z[:, :1]
    return list(z.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("normal", "ties", "holes", "peaked", "flat"))
def test_log_probs_are_those_of_a_sort(kind):
    compared = [agrees(z, s) for v in SIZES for s in CUTS for z in rows(kind, v)]
    assert len(compared) == 195 and sum(compared) > 170, sum(compared)


LOGIT = st.one_of(st.integers(-9, 9).map(lambda i: i * 0.75), st.just(-np.inf))
SMALL = [
    Sampling(*values).filled()
    for values in itertools.product((0.7, 1.6), (1.0, 0.85, 0.4), (0, 3), (0.0, 0.15))
]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.tuples(*[LOGIT] * 6), st.sampled_from(SMALL))
def test_log_probs_of_small_vocabularies(logits, sampling):
    assume(max(logits) > -np.inf)
    assume(agrees(np.array(logits, np.float32), sampling))


@pytest.mark.parametrize("top_p", (0.05, 0.5, 0.95, 0.999))
@pytest.mark.parametrize("v", SIZES[1:])
def test_top_p_keeps_the_smallest_set_of_that_mass(v, top_p):
    """Distinct logits: the kept mass reaches top_p, and without its least likely token does not."""
    z = np.random.default_rng(v).permutation(np.linspace(-4, 4, v)).astype(np.float32)
    kept = np.asarray(compiled(Sampling(top_p=top_p).filled())(z)) > -np.inf
    p = np.exp(z.astype(np.float64))
    p /= p.sum()
    assert p[kept].min() > p[~kept].max(initial=0.0)
    assert p[kept].sum() >= top_p - 1e-6
    assert p[kept].sum() - p[kept].min() < top_p + 1e-6


@pytest.mark.parametrize("s", (CUTS[0], CUTS[-1]))
def test_rows_do_not_mix_under_jit_and_vmap(s):
    z = jnp.asarray(np.stack(rows("holes", 432) + rows("ties", 432))).reshape(2, 3, 432)
    alone = np.stack([[compiled(s)(row) for row in part] for part in z])
    mapped = jax.jit(jax.vmap(jax.vmap(lambda row: log_probs(row, s))))(z)
    for got in (mapped, compiled(s)(z), log_probs(z, s)):
        np.testing.assert_allclose(got, alone, atol=1e-6)
    half = compiled(s)(z.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32 and not np.isnan(half).any()


WRONG = (
    ({"temperature": 101}, "temperature is 101, wanted a number from 0 to 100"),
    ({"temperature": True}, "temperature is True"),
    ({"temperature": "0.7"}, "temperature is '0.7'"),
    ({"top_k": 2.5}, "top_k is 2.5, wanted a whole number"),
    ({"temperature": -1.0}, "temperature is -1.0"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_p": 0.0}, "top_p is 0.0, wanted a number above 0 up to 1"),
    ({"top_p": 1.01}, "top_p is 1.01"),
    ({"top_p": float("nan")}, "top_p is nan"),
    ({"top_k": -1}, "top_k is -1, wanted a whole number from 0"),
    ({"min_p": -0.1}, "min_p is -0.1, wanted a number from 0 to 1"),
    ({"min_p": 1.5}, "min_p is 1.5"),
)


@pytest.mark.parametrize("fields, message", WRONG)
def test_values_out_of_range_are_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        Sampling(**fields).filled()
    text = str(error.value)
    assert text.endswith(".") and ". " not in text and "\n" not in text


def test_values_in_range_are_returned():
    for s in (*CUTS, Sampling(1e-3, 1.0, 10**9, 1.0)):
        assert s.filled() == s
    numbers = Sampling(np.float32(0.5), np.float64(1), np.int64(3), 0)
    assert numbers.filled() == Sampling(0.5, 1.0, 3, 0.0) and type(numbers.filled().top_k) is int


def test_what_is_left_out_is_the_policys_own():
    own = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True}
    assert Sampling().filled(own) == Sampling(0.6, 0.95, 20, 0.0)
    assert Sampling(1.0, top_k=0).filled(own) == Sampling(1.0, 0.95, 0, 0.0)
    with pytest.raises(ValueError, match="generation_config.json: top_p is 'a'"):
        Sampling().filled({"top_p": "a"})


def test_temperature_0_takes_the_first_of_the_likeliest():
    z = jnp.asarray([[[1.0, 3.0, 3.0, -jnp.inf], [5.0, 1.0, 0.0, 2.0]]])
    logp = log_probs(z, Sampling(0.0, top_p=0.5, top_k=2, min_p=0.9))
    assert jnp.exp(logp).tolist() == [[[0, 1, 0, 0], [1, 0, 0, 0]]]
    keys = jax.random.split(jax.random.key(0), (1, 2))
    assert draw(keys, logp).tolist() == [[1, 0]]


@pytest.mark.parametrize("s", (*CUTS, Sampling(0.0).filled()))
@pytest.mark.parametrize("bad", (jnp.nan, jnp.inf))
def test_logits_that_are_no_numbers_have_no_token(s, bad):
    z = jnp.asarray([[0.0, bad, 1.0], [0.0, 2.0, 1.0]])
    chosen = jnp.max(log_probs(z, s), axis=1)
    assert not jnp.isfinite(chosen[0]) and jnp.isfinite(chosen[1])


@pytest.mark.parametrize("s", (CUTS[0], CUTS[4], CUTS[-1]))
def test_draws_follow_log_probs(s):
    """Two rows of 20000 draws; a right sampler fails with probability 1e-6 a row, keys are fixed."""
    z = jnp.asarray([[1.0, -0.5, -jnp.inf, 0.25, 2.0, -1.0, 0.75], [0.0, 3.0, 1.5, 0, 0, -2, -9.0]])
    logp, n = log_probs(z, s), 20_000
    keys = jax.random.split(jax.random.key(3), (2, n))
    drawn = np.asarray(jax.jit(draw)(keys, jnp.broadcast_to(logp[:, None], (2, n, 7))))
    assert drawn.dtype == np.int32
    for row, p in zip(drawn, np.exp(np.asarray(logp, np.float64)), strict=True):
        seen = np.bincount(row, minlength=7)
        assert not seen[p == 0].any()
        expected = n * p[p > 0]
        statistic = np.sum((seen[p > 0] - expected) ** 2 / expected)
        assert statistic < chi2.isf(1e-6, max(len(expected) - 1, 1))


def draws_at(monkeypatch, steps: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """Draws with the uniforms steps / 2^23, all that float32's generator can give, carried by keys."""

    def uniform(key, dtype):
        return jax.random.key_data(key)[1].astype(dtype) / STEPS

    monkeypatch.setattr(jax.random, "uniform", uniform)
    data = np.stack([np.zeros_like(steps), steps], axis=-1).astype(np.uint32)
    keys = jax.random.wrap_key_data(jnp.asarray(data))[None]
    wide = jnp.broadcast_to(jnp.asarray(logp)[None, None], (1, len(steps), len(logp)))
    # A new function, so that no trace with the real generator is used again.
    return np.asarray(jax.jit(lambda k, x: draw(k, x))(keys, wide))[0]


@pytest.mark.parametrize("v", (2, 7, 432, 5000))
@pytest.mark.parametrize("last", ("alive", "cut"))
def test_no_uniform_draws_a_token_that_is_cut(monkeypatch, v, last):
    """Uniforms at 0, next to 1, and around the distribution function at every token that is cut."""
    draws = np.random.default_rng(v)
    z = (2 * draws.normal(size=v)).astype(np.float32)
    z[draws.random(v) < 0.6] = -np.inf
    z[:2], z[-1] = (-np.inf, 1.0), (z[-1] if last == "alive" else -np.inf)
    z = np.append(z, np.float32(-np.inf if last == "cut" else 0.5))
    logp = np.asarray(log_probs(jnp.asarray(z), Sampling(top_p=0.95).filled()))
    p = np.exp(logp.astype(np.float64))
    edges = np.round(np.cumsum(p / p.sum())[p == 0] * STEPS)
    edges = draws.permutation(edges)[:800][:, None] + np.arange(-1, 2)
    ends = np.array([0, 1, STEPS - 2, STEPS - 1])
    steps = np.clip(np.append(edges, ends), 0, STEPS - 1).astype(np.int64)
    drawn = draws_at(monkeypatch, steps, logp)
    assert drawn.min() >= 0 and drawn.max() <= v
    cut = np.flatnonzero(np.isneginf(logp[drawn]))
    assert not len(cut), [(f"{steps[i]} / 2^23", int(drawn[i])) for i in cut[:5]]


@pytest.mark.parametrize("v", (1, 2, 432, 5000))
def test_a_draw_inverts_the_distribution_function(monkeypatch, v):
    """P(below) <= u <= P(up to the token), within float32's sum."""
    draws = np.random.default_rng(v)
    logp = np.asarray(
        log_probs(jnp.asarray(2 * draws.normal(size=v), jnp.float32), Sampling().filled())
    )
    steps = np.append(draws.integers(0, STEPS, 500), STEPS - 1)
    drawn = draws_at(monkeypatch, steps, logp)
    up_to = np.cumsum(np.exp(logp.astype(np.float64)))
    below = np.append(0.0, up_to)[drawn]
    assert (below <= steps / STEPS + 2e-6).all() and (steps / STEPS <= up_to[drawn] + 2e-6).all()


def test_the_threshold_is_exact_to_the_last_bit():
    """Of two neighbouring floats top-1 keeps the larger alone."""
    larger = -np.random.default_rng(0).uniform(0.1, 20, 500).astype(np.float32)
    pair = np.stack([larger, np.nextafter(larger, np.float32(-np.inf))], axis=-1)
    kept = drawing._cut(jnp.asarray(pair), lambda kept: jnp.sum(kept, axis=-1) >= 1)
    assert np.array_equal(np.isneginf(kept), np.tile([False, True], (500, 1)))
