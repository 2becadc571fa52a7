"""Waste-free: which rows are kept, with which weights, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc

SCHEDULE = np.array([0.3, 1.0], np.float32)
POSTERIOR = smc.Posterior(
    sample_prior=lambda key: jax.random.uniform(key),
    log_prior=lambda x: 0.0,
    log_likelihood=lambda x: -x,
)


def unequal(n):
    """The first n rows, with weights 1, 2, 3, ... times a constant."""
    left = jnp.log(jnp.arange(1.0, n + 1) / (n * (n + 1) / 2))

    def choose(key, log_w, t):
        batch = log_w.shape[:-1]
        rows = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (*batch, n))
        return rows, jnp.broadcast_to(left, rows.shape), jnp.ones(batch, bool)

    return choose


def test_every_point_of_every_chain_is_kept():
    """A kernel that adds 1 shows the chains: start, start + 1, ..., side by side."""
    rejuvenate = smc.waste_free(lambda key, x, log_density: (x + 1, ()), 3, choose=unequal)
    algorithm = smc.tempering(POSTERIOR, 12, SCHEDULE, rejuvenate)
    both = lambda state, info: (state, info)  # noqa: E731
    keys = jax.random.split(jax.random.key(0))
    states, infos = jax.jit(lambda keys: smc.run(keys, algorithm, 2, both)[1])(keys)
    x, log_w = np.asarray(states.particles.position), np.asarray(states.log_weights[1], float)
    chains = x[1].reshape(2, 3, 4)
    np.testing.assert_allclose(chains, x[0][:, :3, None] + np.arange(4), rtol=1e-6)
    assert infos.ancestors[1].tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 2
    w = np.repeat(np.array([1, 2, 3]) / 6 / 4, 4) * np.exp(-0.7 * x[1])
    np.testing.assert_allclose(np.exp(log_w), w / w.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(infos.log_evidence_increment[1], np.log(w.sum(-1)), rtol=1e-4)
    np.testing.assert_allclose(states.particles.log_likelihood[1], -x[1], rtol=1e-6)


def test_every_transition_has_its_own_key():
    rejuvenate = smc.waste_free(
        lambda key, x, log_density: (jax.random.key_data(key), ()), 3, choose=unequal
    )
    posterior = POSTERIOR._replace(
        sample_prior=lambda key: jax.random.key_data(key), log_likelihood=lambda x: 0.0
    )
    algorithm = smc.tempering(posterior, 12, SCHEDULE, rejuvenate)
    keys = jax.random.split(jax.random.key(0))
    state, _ = jax.jit(lambda keys: smc.run(keys, algorithm, 2))(keys)
    moved = np.asarray(state.particles.position).reshape(2, 3, 4, 2)[:, :, 1:]
    assert len(np.unique(moved.reshape(-1, 2), axis=0)) == 2 * 3 * 3


@pytest.mark.parametrize("num_chains", [5, 12])
def test_refuses_chains_that_do_not_fit(num_chains):
    algorithm = smc.tempering(
        POSTERIOR, 12, SCHEDULE, smc.waste_free(smc.random_walk(0.1), num_chains)
    )
    with pytest.raises(ValueError, match=f"num_chains: got {num_chains} for 12 particles"):
        smc.run(jax.random.key(0), algorithm, 2)


def test_refuses_no_chain():
    with pytest.raises(ValueError, match="num_chains: got 0"):
        smc.waste_free(smc.random_walk(0.1), 0)
