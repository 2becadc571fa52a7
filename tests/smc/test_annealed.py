"""Annealed resampling: W / (N a) is what is left, for every inner resampler and temperature."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pfjax import smc

INF = float("inf")


def by_time(log_w, t):
    return jnp.asarray([1.0, 2.0, 5.0, jnp.inf])[t]


INNER = {"systematic": smc.systematic, "optimal": smc.optimal(4)}
ANNEALED = {name: jax.jit(smc.annealed(by_time, inner)) for name, inner in INNER.items()}
BARE = {name: jax.jit(inner) for name, inner in INNER.items()}


@settings(deadline=None)  # the first example of a shape compiles
@given(
    log_w=st.lists(
        st.one_of(st.floats(-87.0, 87.0, width=32), st.just(-INF)), min_size=9, max_size=9
    ).filter(lambda log_w: max(log_w) > -INF),
    t=st.integers(0, 3),
    name=st.sampled_from(list(INNER)),
)
def test_what_is_left(log_w, t, name):
    log_w = smc.normalise(jnp.float32(log_w))
    key = jax.random.key(t)
    ancestors, left, drawn = map(np.asarray, ANNEALED[name](key, log_w, jnp.int32(t)))
    w = np.exp(np.asarray(log_w, float))
    a = w ** [1, 1 / 2, 1 / 5, 0][t] * (w > 0)
    a = a / a.sum()
    with np.errstate(divide="ignore"):
        log_a = np.log(a).astype(np.float32)
    inner, inner_left, inner_drawn = BARE[name](key, jnp.asarray(log_a), jnp.int32(t))
    if not np.array_equal(inner, ancestors):  # the two log a differ in their last bits
        assert np.mean(np.asarray(inner) != ancestors) < 0.3
        return
    assert drawn == inner_drawn
    dead = w[ancestors] == 0
    assert (left[dead] == -INF).all()
    ratio = np.log(w[ancestors[~dead]] / a[ancestors[~dead]])
    np.testing.assert_allclose(left[~dead], np.asarray(inner_left)[~dead] + ratio, 1e-5, 3e-5)


def test_temperature_one_is_plain():
    log_w = smc.normalise(jax.random.normal(jax.random.key(0), (50,)))
    plain, annealed = (
        compiled["systematic"](jax.random.key(1), log_w, jnp.int32(0))
        for compiled in (BARE, ANNEALED)
    )
    assert (plain[0] == annealed[0]).all()
    np.testing.assert_allclose(plain[1], annealed[1], atol=1e-6)


def test_a_criterion_inside_sees_the_flattened_weights():
    """ESS 0.48 N of W, but 0.80 N of W^(1/2): only the criterion outside fires."""
    log_w = jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1]))
    uneven = smc.ess_below(0.6)
    inside = jax.jit(smc.annealed(by_time, smc.when(uneven, smc.systematic)))
    outside = jax.jit(smc.when(uneven, smc.annealed(by_time, smc.systematic)))
    ancestors, left, drawn = inside(jax.random.key(0), log_w, jnp.int32(1))
    assert not drawn and ancestors.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(left, log_w, rtol=1e-6)
    assert outside(jax.random.key(0), log_w, jnp.int32(1))[2]
