"""Lineages against particles that carry their own history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc


@pytest.mark.parametrize("batch", [pytest.param((), marks=pytest.mark.slow), (2, 2)])
def test_lineage_is_what_the_particles_remember(batch):
    """Each particle writes its slot into its path: the paths at the end are the lineage."""
    num_steps, n = 6, 8
    slots = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (*batch, n))
    model = smc.FeynmanKac(
        init=lambda keys: jnp.full((*batch, n, num_steps), -1).at[..., 0].set(slots),
        propagate=lambda keys, x, t: x.at[..., t.max()].set(slots),
        weigh=lambda x, t: (x, 0.4 * x[..., t.max()].astype(jnp.float32)),
    )
    keys = jax.random.split(jax.random.key(2), batch) if batch else jax.random.key(2)
    algorithm = smc.particle_filter(model, n, smc.multinomial)
    state, infos = jax.jit(lambda key: smc.run(key, algorithm, num_steps))(keys)
    lineage = smc.ancestral_lineage(infos.ancestors)
    assert lineage.shape == (num_steps, *batch, n) and lineage.dtype == jnp.int32
    np.testing.assert_array_equal(np.moveaxis(np.asarray(lineage), 0, -1), state.particles)

    alive = np.asarray(smc.alive(infos.ancestors))
    for index in np.ndindex(num_steps, *batch):
        assert set(np.flatnonzero(alive[index])) == set(np.asarray(lineage[index]).tolist())
    assert alive[-1].all() and not alive[0].all()

    unique = np.asarray(smc.unique_ancestors(infos.ancestors))
    assert unique.shape == (num_steps, *batch) and (unique == alive.sum(-1)).all()
    assert (np.diff(unique, axis=0) >= 0).all() and (unique[0] < n).all()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [pytest.param((), marks=pytest.mark.slow), (2, 2)])
def test_eves_and_trajectories_against_particles_that_remember(batch):
    """A particle never forgets its first slot; what it collected on its way is its trajectory."""
    num_steps, n = 6, 8
    slots = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (*batch, n))
    model = smc.FeynmanKac(
        init=lambda keys: {"eve": slots, "sum": slots},
        propagate=lambda keys, x, t: {"eve": x["eve"], "sum": 3 * x["sum"] + slots},
        weigh=lambda x, t: (x, 0.7 * jnp.sin(x["sum"].astype(jnp.float32))),
    )
    keys = jax.random.split(jax.random.key(4), batch) if batch else jax.random.key(4)
    algorithm = smc.particle_filter(model, n, smc.when(smc.every(2), smc.multinomial))
    infos, x = jax.jit(
        lambda key: smc.run(key, algorithm, num_steps, lambda s, i: (i, s.particles))[1]
    )(keys)
    np.testing.assert_array_equal(smc.eve_indices(infos.ancestors), x["eve"])

    path = jax.tree.map(np.asarray, smc.trajectories(x, infos.ancestors))
    np.testing.assert_array_equal(path["sum"][-1], x["sum"][-1])
    assert (path["eve"] == np.asarray(x["eve"])[-1]).all()
    lineage = np.asarray(smc.ancestral_lineage(infos.ancestors))
    for t in range(1, num_steps):
        assert (path["sum"][t] == 3 * path["sum"][t - 1] + lineage[t]).all()
