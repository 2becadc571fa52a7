"""Lineages against particles that carry their own history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import smc


@pytest.mark.parametrize("batch", [(), (2, 2)])
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
