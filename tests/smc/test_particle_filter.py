"""One step of the filter: order of resample, propagate, weigh; the dead; keys; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

INF = float("inf")


def scripted(log_g, batch=()) -> smc.FeynmanKac:
    """Particles are their own history of slots; log G is a table [t, n]."""
    table = jnp.float32(log_g)
    slots = jnp.broadcast_to(jnp.arange(table.shape[1]), (*batch, table.shape[1]))
    return smc.FeynmanKac(
        init=lambda keys: {"first": slots, "last": slots},
        propagate=lambda keys, x, t: {"first": x["first"], "last": slots + 10 * t[..., None]},
        weigh=lambda x, t: (x, table[t]),
    )


def test_a_hand_computed_run():
    """Weights 0, 1, 3 of 4: carried once, resampled once, and then gone."""
    model = scripted(np.log([[1e-30, 1.0, 3.0], [2.0, 2.0, 2.0], [1.0, 4.0, 1.0]]))
    algorithm = smc.particle_filter(model, 3, smc.when(smc.every(2), smc.systematic))
    init, step = (jax.jit(f) for f in algorithm)
    first, info = init(jax.random.key(0))
    np.testing.assert_allclose(np.exp(first.log_weights), [0, 0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(info.ess, 1 / (0.25**2 + 0.75**2), rtol=1e-6)
    np.testing.assert_allclose(first.log_evidence, np.log(4 / 3), rtol=1e-6)
    assert info.ancestors.tolist() == [0, 1, 2] and not info.resampled and int(first.t) == 0

    second, info = step(jax.random.key(1), first)
    np.testing.assert_allclose(np.exp(second.log_weights), [0, 0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(info.log_evidence_increment, np.log(2), rtol=1e-6)
    assert not info.resampled and second.particles["first"].tolist() == [0, 1, 2]
    assert second.particles["last"].tolist() == [10, 11, 12]

    third, info = step(jax.random.key(2), second)
    assert info.resampled and info.ancestors.tolist() in ([1, 2, 2], [2, 2, 2])
    assert third.particles["first"].tolist() == info.ancestors.tolist()
    np.testing.assert_allclose(np.exp(third.log_weights), np.array([1, 4, 1]) / 6, rtol=1e-6)
    np.testing.assert_allclose(third.log_evidence, np.log(4 / 3 * 2 * 2), rtol=1e-6)
    assert int(third.t) == 2 and int(info.status) == smc.OK


@pytest.mark.parametrize(
    "resampler",
    [smc.multinomial, smc.adaptive_systematic],
)
def test_all_dead_is_reported_and_stays(resampler):
    model = scripted([[0.0, -INF, -1.0], [-INF, -INF, -INF], [0.0, 0.0, 0.0]])
    algorithm = smc.particle_filter(model, 3, resampler)

    @jax.jit
    def run(key):
        return smc.run(key, algorithm, 3, lambda state, info: (state, info))[1]

    state, infos = jax.tree.map(np.asarray, run(jax.random.key(0)))
    assert infos.status.tolist() == [smc.OK, smc.ALL_DEAD, smc.ALL_DEAD]
    assert infos.ess[1:].tolist() == [0, 0]
    assert infos.ancestors[2].tolist() == [0, 1, 2] and not infos.resampled[2]
    assert (state.log_weights[1:] == -INF).all()
    assert state.log_evidence[1:].tolist() == [-INF, -INF]
    assert (state.particles["first"][2] == state.particles["first"][1]).all()
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves((state, infos)))


def test_one_dead_problem_leaves_its_neighbour_alone():
    table = jnp.array([[-INF, -INF], [0.0, -1.0]])
    model = smc.FeynmanKac(
        init=lambda keys: jnp.zeros((2, 2)),
        propagate=lambda keys, x, t: x,
        weigh=lambda x, t: (x, table),
    )
    algorithm = smc.particle_filter(model, 2)
    keys = jax.random.split(jax.random.key(0))
    state, infos = jax.jit(lambda keys: smc.run(keys, algorithm, 4))(keys)
    assert infos.status[-1].tolist() == [smc.ALL_DEAD, smc.OK]
    assert state.log_evidence[0] == -INF and np.isfinite(state.log_evidence[1])


@pytest.mark.parametrize(("n", "evidence"), [(1, 2 * 3 * 1), (2, (2 * 3 * 1 + 1 * 1 * 5) / 2)])
def test_few_particles(n, evidence):
    """The default never resamples two particles, so the evidence is the mean of the products."""
    log_g = np.log([[2.0, 1.0], [3.0, 1.0], [1.0, 5.0]])[:, :n]
    algorithm = smc.particle_filter(scripted(log_g), n)
    state, infos = jax.jit(lambda key: smc.run(key, algorithm, 3))(jax.random.key(3))
    assert state.log_weights.shape == (n,) and infos.ancestors.shape == (3, n)
    np.testing.assert_allclose(np.exp(state.log_weights).sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(state.log_evidence, np.log(evidence), rtol=1e-6)
    np.testing.assert_allclose(
        state.log_evidence, np.asarray(infos.log_evidence_increment).sum(), rtol=1e-6
    )


def test_extreme_weights():
    """Potentials from 1e-38 to 1e38: the float64 answer, and no particle of weight 0."""
    log_g = np.log(np.logspace(-38, 38, 7))
    algorithm = smc.particle_filter(scripted([log_g] * 3), 7, smc.when(smc.never, smc.systematic))
    state, infos = jax.jit(lambda key: smc.run(key, algorithm, 3))(jax.random.key(0))
    np.testing.assert_allclose(infos.ess, 1, rtol=1e-6)
    exact = np.log(np.exp(3 * log_g).sum() / 7)
    np.testing.assert_allclose(state.log_evidence, exact, rtol=1e-6)


def test_every_particle_of_every_step_has_its_own_key():
    model = smc.FeynmanKac(
        init=lambda keys: keys,
        propagate=lambda keys, x, t: keys,
        weigh=lambda x, t: (x, jnp.zeros(x.shape)),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    algorithm = smc.particle_filter(model, 5)

    @jax.jit
    def run(keys):
        seen = smc.run(keys, algorithm, 4, lambda state, info: state.particles)[1]
        return jax.random.key_data(seen)

    data = np.asarray(run(keys)).reshape(-1, 2)
    assert len(np.unique(data, axis=0)) == 4 * 3 * 5


def test_gather_moves_every_leaf_and_typed_keys():
    ancestors = jnp.array([[1, 1, 0], [2, 0, 2]], jnp.int32)
    keys = jax.random.split(jax.random.key(0), (2, 3))
    rows = {"x": jnp.arange(24).reshape(2, 3, 2, 2), "flag": jnp.arange(6).reshape(2, 3) % 2 == 0}
    moved, moved_keys = smc.gather((rows, keys), ancestors)
    for b, j in np.ndindex(2, 3):
        a = int(ancestors[b, j])
        assert (moved["x"][b, j] == rows["x"][b, a]).all()
        assert moved["flag"][b, j] == rows["flag"][b, a]
        assert (jax.random.key_data(moved_keys[b, j]) == jax.random.key_data(keys[b, a])).all()


def test_move_is_called_with_the_ancestors():
    calls = []

    def move(particles, ancestors):
        calls.append(ancestors.shape)
        return smc.gather(particles, ancestors)

    algorithm = smc.particle_filter(scripted(np.zeros((2, 3))), 3, move=move)
    jax.eval_shape(lambda key: algorithm.step(key, algorithm.init(key)[0]), jax.random.key(0))
    assert calls == [(3,)]


def test_refusals(autoregression):
    with pytest.raises(ValueError, match="n: got 0, want at least 1"):
        smc.particle_filter(autoregression, 0)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.particle_filter(autoregression, 2).init(jax.random.PRNGKey(0))
    column = autoregression._replace(weigh=lambda x, t: (x, x[..., None]))
    with pytest.raises(ValueError, match=r"got log G of shape \(2, 1\), want \(2,\)"):
        smc.particle_filter(column, 2).init(jax.random.key(0))
