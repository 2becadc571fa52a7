"""Conditional filters and the kernels on them: which slots a path goes through.

Particles remember the slot they grew in, so a path tells its own genealogy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from pfjax import smc

INF = float("inf")
COMPILES = settings(deadline=None)  # the first example of a shape compiles
NUM_STEPS, SLOTS = 4, 3
KINDS = ("trace", "ancestor", "backward", "path", "path, ancestor")


def past(x, t):
    return jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape) <= t[..., None, None]


def rewind(x, t):
    return jnp.where(past(x, t), x, 0)


def splice(prefix, reference, t):
    return jnp.where(past(prefix, t), prefix, reference)


def slot_model(kind, log_g, n=SLOTS) -> smc.FeynmanKac:
    """Particles are the slots they grew in, or the path of them; log G is a table [t, slot]."""
    slots = jnp.arange(n, dtype=jnp.int32)
    if kind.startswith("path"):
        empty = jnp.zeros((n, NUM_STEPS), jnp.int32)
        return smc.FeynmanKac(
            init=lambda keys: empty.at[:, 0].set(slots),
            propagate=lambda keys, x, t: x.at[:, t].set(slots),
            weigh=lambda x, t: (x, log_g[t, x[:, t]]),
            log_transition=lambda x_prev, x, t: (
                0.4 * (x[:, t] * x_prev[:, t - 1]).astype(jnp.float32)
            ),
            rewind=rewind,
            splice=splice,
        )
    return smc.FeynmanKac(
        init=lambda keys: slots,
        propagate=lambda keys, x, t: slots,
        weigh=lambda x, t: (x, log_g[t, x]),
        log_transition=lambda x_prev, x, t: 0.4 * (x_prev * x).astype(jnp.float32),
    )


def slot_kernel(kind, log_g, n=SLOTS) -> smc.Algorithm:
    model = slot_model(kind, log_g, n)
    if kind == "backward":
        return smc.backward_gibbs(model, n, NUM_STEPS)
    return smc.particle_gibbs(model, n, NUM_STEPS, ancestor_sampling="ancestor" in kind)


@jax.jit
def slot_sweeps(key, log_g):
    zeros = jnp.zeros(NUM_STEPS, jnp.int32)
    return {kind: slot_kernel(kind, log_g).step(key, zeros) for kind in KINDS}


log_potentials = st.lists(
    st.lists(
        st.one_of(st.floats(-5.0, 5.0, width=32), st.just(-INF)), min_size=SLOTS, max_size=SLOTS
    ),
    min_size=NUM_STEPS,
    max_size=NUM_STEPS,
)


@COMPILES
@given(log_g=log_potentials, seed=st.integers(0, 2**31 - 1))
def test_the_new_path_is_a_path_of_live_particles(log_g, seed):
    """It goes through the slots that it says; a generation without others is the reference's."""
    sweeps = slot_sweeps(jax.random.key(seed), jnp.float32(log_g))
    for kind, (path, info) in jax.tree.map(np.asarray, sweeps).items():
        live = np.array(log_g) > -INF
        if info.infos.status[-1] == smc.ALL_DEAD:
            assert (path == 0).all()
            continue
        assert (path == info.slots).all(), kind
        if live[:, 0].all():
            assert live[np.arange(NUM_STEPS), path].all(), kind
            assert (path[~live[:, 1:].any(1)] == 0).all()
        if kind in ("trace", "path"):
            ancestors = info.infos.ancestors
            assert (ancestors[:, 0] == 0).all()
            for t in range(1, NUM_STEPS):
                assert ancestors[t, path[t]] == path[t - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_without_other_particles_the_path_stays(kind):
    """All others dead, all dead, and n = 1."""
    path, zero = jnp.array([1, 0, 1, 1], jnp.int32), jnp.zeros((NUM_STEPS, 2))
    kernels = {
        "others dead": slot_kernel(kind, jnp.full((NUM_STEPS, 3), -INF).at[:, :2].set(zero)),
        "all dead": slot_kernel(kind, jnp.zeros((NUM_STEPS, 3)).at[2].set(-INF)),
        "n = 1": slot_kernel(kind, zero, n=1),
    }
    steps = jax.jit(lambda key: {name: k.step(key, path) for name, k in kernels.items()})
    results = jax.tree.map(np.asarray, steps(jax.random.key(3)))
    for name in ("all dead", "n = 1"):
        assert (results[name][0] == path).all()
    status = {name: info.infos.status[-1] for name, (_, info) in results.items()}
    assert status == {"others dead": smc.OK, "all dead": smc.ALL_DEAD, "n = 1": smc.OK}
    leaves = [leaf for leaf in jax.tree.leaves(results) if leaf.dtype == np.float32]
    assert not any(np.isnan(leaf).any() for leaf in leaves)


@pytest.fixture(scope="module")
def chains(autoregression):
    """Three sweeps of each kernel from its own start."""

    def log_transition(x_prev, x, t):
        inside = (x >= 0.9 * x_prev - 0.3) & (x <= 0.9 * x_prev + 0.7)
        return jnp.where(inside, 0.0, -INF)

    model = autoregression._replace(log_transition=log_transition)
    kernels = [
        smc.particle_gibbs(model, 300, 5),
        smc.particle_gibbs(model, 300, 5, ancestor_sampling=True),
        smc.backward_gibbs(model, 300, 5),
    ]
    return jax.jit(lambda key: [smc.run(key, kernel, 4, lambda *x: x)[1] for kernel in kernels])


@pytest.mark.slow
def test_eight_devices_and_one_problem_give_the_bits_of_the_batch(chains):
    keys = jax.random.split(jax.random.key(4), 16)
    together = chains(keys)
    mesh = jax.make_mesh((8,), ("problem",))
    spread = chains(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("problem"))))
    assert len(spread[0][0].sharding.device_set) == 8
    alone = chains(keys[3])
    paths = np.asarray(together[0][0])
    assert paths.shape == (4, 5, 16) and (paths[0] != paths[-1]).any()
    for a, b, c in zip(*map(jax.tree.leaves, (together, spread, alone)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.asarray(a)[:, :, 3], c)


def test_refusals():
    plain = slot_model("trace", jnp.zeros((NUM_STEPS, SLOTS)))
    back = slot_model("path", jnp.zeros((NUM_STEPS, SLOTS)))
    no_density = plain._replace(log_transition=None)
    path, key = jnp.zeros(NUM_STEPS, jnp.int32), jax.random.key(0)
    with pytest.raises(ValueError, match=r"model.log_transition: got None.*smc.lift"):
        smc.ancestor_sampling_filter(no_density, SLOTS, path, NUM_STEPS)
    with pytest.raises(ValueError, match="model.log_transition: got None"):
        smc.backward_gibbs(no_density, SLOTS, NUM_STEPS)
    with pytest.raises(ValueError, match="model.splice: got None"):
        smc.ancestor_sampling_filter(back._replace(splice=None), SLOTS, path, NUM_STEPS)
    with pytest.raises(ValueError, match=r"use particle_gibbs\(..., ancestor_sampling=True\)"):
        smc.backward_gibbs(back, SLOTS, NUM_STEPS)
    with pytest.raises(ValueError, match="want a typed key"):
        smc.particle_gibbs(plain, SLOTS, NUM_STEPS).init(jax.random.PRNGKey(0))
    twisted = smc.twist(plain, lambda x, t: jnp.zeros(x.shape), NUM_STEPS)
    path, _ = smc.particle_gibbs(twisted, SLOTS, NUM_STEPS).init(key)
    with pytest.raises(ValueError, match="particles are Scored"):
        smc.particle_gibbs(twisted, SLOTS, NUM_STEPS, ancestor_sampling=True).step(key, path)
