"""Look-ahead: what it keeps, hand-computed; the cases in which it is another filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc


def test_one_draft_is_sequential_importance_sampling(autoregression):
    """The same particles, weights and evidence as a filter that never resamples."""
    ahead = smc.lookahead_filter(autoregression, 9, 1)
    plain = smc.particle_filter(autoregression, 9, smc.when(smc.never, smc.systematic))

    def start_alike(key):
        return smc.run(key, ahead, 5), smc.run(key, plain, 5)

    (a, a_infos), (b, b_infos) = jax.jit(start_alike)(jax.random.key(0))
    # Both split the key in (choose, move), so the draws are the same.
    np.testing.assert_array_equal(np.asarray(a.particles), np.asarray(b.particles))
    np.testing.assert_allclose(np.exp(a.log_weights), np.exp(b.log_weights), atol=1e-6)
    np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=1e-5)
    assert a_infos.ancestors.tolist() == b_infos.ancestors.tolist()


def test_a_hand_computed_step():
    """Weights 1/4 and 3/4, two drafts each with potentials 4, 0 and 0, 8: candidates 1/2 and 3."""
    log_g = jnp.log(jnp.array([[1.0, 0.0, 3.0, 0.0], [4.0, 0.0, 0.0, 8.0]]))
    slots = jnp.arange(4)
    model = smc.FeynmanKac(
        init=lambda keys: {"slot": slots, "parent": slots},
        propagate=lambda keys, x, t: {"slot": slots, "parent": x["slot"]},
        weigh=lambda x, t: (x, log_g[t]),
    )

    def choose(key, log_w, t):
        rows = jnp.where(t == 0, jnp.array([0, 2]), jnp.array([3, 0]))
        return rows.astype(jnp.int32), log_w[rows], jnp.array(True)

    algorithm = smc.lookahead_filter(model, 2, 2, choose=lambda n: choose)
    first, info = jax.jit(algorithm.init)(jax.random.key(0))
    np.testing.assert_allclose(np.exp(first.log_weights), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(first.log_evidence, 0.0, atol=1e-6)
    second, info = jax.jit(algorithm.step)(jax.random.key(1), first)
    np.testing.assert_allclose(np.exp(second.log_weights), [3 / 3.5, 0.5 / 3.5], rtol=1e-6)
    np.testing.assert_allclose(second.log_evidence, np.log(3.5), rtol=1e-6)
    assert info.ancestors.tolist() == [1, 0] and int(second.t) == 1
    assert second.particles["slot"].tolist() == [3, 0]
    assert second.particles["parent"].tolist() == [2, 0]


def test_every_draft_has_its_own_key():
    seen = []
    model = smc.FeynmanKac(
        init=lambda keys: jnp.zeros(keys.shape),
        propagate=lambda keys, x, t: seen.append(jax.random.key_data(keys)) or x,
        weigh=lambda x, t: (x, jnp.zeros(x.shape)),
    )
    algorithm = smc.lookahead_filter(model, 5, 3)

    @jax.jit
    def two_steps(keys):
        algorithm.step(keys[1], algorithm.step(keys[0], algorithm.init(keys[2])[0])[0])
        return jnp.stack(seen)

    data = np.asarray(two_steps(jax.random.split(jax.random.key(0), (3, 2)))).reshape(-1, 2)
    assert len(np.unique(data, axis=0)) == 2 * 2 * 5 * 3


def test_move_copies_the_rows(autoregression):
    calls = []

    def move(particles, ancestors):
        calls.append(ancestors.shape)
        return smc.gather(particles, ancestors)

    algorithm = smc.lookahead_filter(autoregression, 4, 3, move=move)
    jax.eval_shape(lambda key: algorithm.step(key, algorithm.init(key)[0]), jax.random.key(0))
    assert calls == [(4,), (12,), (4,)]


def test_refusals(autoregression):
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.lookahead_filter(autoregression, 0, 2)
    with pytest.raises(ValueError, match="drafts: got 0, want at least 1"):
        smc.lookahead_filter(autoregression, 2, 0)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.lookahead_filter(autoregression, 2, 2).init(jax.random.PRNGKey(0))
    column = autoregression._replace(weigh=lambda x, t: (x, x[..., None]))
    with pytest.raises(ValueError, match=r"got log G of shape \(4, 1\), want \(4,\)"):
        smc.lookahead_filter(column, 2, 2).init(jax.random.key(0))
