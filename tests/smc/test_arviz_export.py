"""What ArviZ gets is what was run: shapes, values, attributes; and an error of one sentence without it."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("arviz")

# ArviZ warns of its next version.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def weighted(key) -> smc.State:
    """Eight particles of which the odd ones are dead."""
    numbers = jnp.broadcast_to(jnp.arange(8.0), (*key.shape, 8))
    state = smc.start(key, {"mu": numbers, "tau": jnp.stack([numbers, -numbers], -1)}, 8)
    log_w = jnp.where(numbers % 2 == 1, -jnp.inf, jnp.log(jnp.maximum(numbers, 1.0)))
    return state._replace(log_weights=smc.normalise(log_w), log_evidence=state.log_evidence - 3.0)


@pytest.mark.parametrize("chains", [None, 3])
def test_particles_are_chosen_by_weight(chains):
    key = jax.random.key(0) if chains is None else jax.random.split(jax.random.key(0), chains)
    data = smc.particles_to_arviz(key, weighted(key), 1300)
    posterior = data["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["mu"].shape == (chains or 1, 1300)
    assert posterior["tau"].shape == (chains or 1, 1300, 2)
    mu = posterior["mu"].values
    for chain in mu:
        # Systematic: 1300 W = 100 (1, 2, 4, 6), to less than one.
        counts = np.bincount(chain.astype(int), minlength=8)
        assert np.abs(counts - [100, 0, 200, 0, 400, 0, 600, 0]).max() <= 1
    np.testing.assert_array_equal(posterior["tau"].values[..., 1], -mu)
    assert posterior.attrs["log_evidence"] == [-3.0] * (chains or 1)
    np.testing.assert_allclose(posterior.attrs["ess"], 13**2 / (1 + 4 + 16 + 36), rtol=1e-5)
    assert posterior.attrs["status"] == [0] * (chains or 1)
    assert set(data["posterior"].data_vars) == {"mu", "tau"}


def test_one_array_is_called_x():
    key = jax.random.key(0)
    state = weighted(key)
    data = smc.particles_to_arviz(key, state._replace(particles=jnp.arange(8)), 50)
    assert list(data["posterior"].data_vars) == ["x"]


def test_chains_of_pmmh_and_particle_gibbs():
    y = jnp.float32([0.3, -0.2, 1.1])

    def model(a):
        return smc.lift(
            init=lambda key: jax.random.normal(key, dtype=jnp.float32),
            propagate=lambda key, x, t: a * x + jax.random.normal(key, dtype=jnp.float32),
            log_potential=lambda x, t: -0.5 * (y[t] - x) ** 2,
        )

    family = smc.ModelFamily(
        lambda key: jax.random.uniform(key, dtype=jnp.float32),
        lambda a: jnp.where((a > 0) & (a < 1), 0.0, -jnp.inf),
        model,
    )
    kernel = smc.pmmh(family, 8, 3, 0.3)
    keys = jax.random.split(jax.random.key(0), 4)
    everything = lambda chain, move: (chain.theta, chain.path, move)  # noqa: E731
    theta, path, move = jax.jit(lambda k: smc.run(k, kernel, 20, everything)[1])(keys)
    data = smc.chains_to_arviz({"a": theta}, paths={"x": path}, sample_stats=move)
    posterior, stats = data["posterior"], data["sample_stats"]
    assert posterior["x"].shape == (4, 20, 3) and posterior["x"].dims[:2] == ("chain", "draw")
    np.testing.assert_array_equal(posterior["a"].values, np.asarray(theta).T)
    np.testing.assert_array_equal(posterior["x"].values[2, 7], path[7, :, 2])
    assert set(smc.MarginalMove._fields) == set(stats.data_vars)
    np.testing.assert_array_equal(stats["accepted"].values, np.asarray(move.accepted).T)
    gibbs = smc.particle_gibbs(model(0.5), 4, 3)
    paths = jax.jit(lambda k: smc.run(k, gibbs, 10, lambda path, sweep: path)[1])(keys)
    nested = smc.chains_to_arviz({}, paths={"state": {"x": paths, "y": -paths}})["posterior"]
    assert set(nested.data_vars) == {"state.x", "state.y"}
    assert nested["state.y"].shape == (4, 10, 3)


def test_refusals(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"key: got axes \(\) for a state of axes \(2,\)"):
        smc.particles_to_arviz(jax.random.key(0), weighted(keys), 5)
    with pytest.raises(ValueError, match="num_draws: got 0, want at least 1"):
        smc.particles_to_arviz(keys, weighted(keys), 0)
    with pytest.raises(ValueError, match=r"a: got axes \(5,\), want one of chains too"):
        smc.chains_to_arviz({"a": jnp.zeros(5)})
    with pytest.raises(ValueError, match=r"draws: got \(chains, draws\) .*'b': \(3, 5\)"):
        smc.chains_to_arviz({"a": jnp.zeros((5, 2)), "b": jnp.zeros((5, 3))})
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="arviz: is not installed; pip install arviz"):
        smc.chains_to_arviz({"a": jnp.zeros((5, 2))})
