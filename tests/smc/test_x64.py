"""Nothing depends on `jax_enable_x64`: with the flag every program has the bits and types it has without.

The models here ask for float32 wherever they draw; one that does not gets float64 with the flag, which
is its own affair, and must then run in every algorithm.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import MODEL, PROGRAMS, SAME_CODE, N, T, filtered

from pfjax import smc

W = np.array([0.5, 0.3, 0.15, 0.05])
NUM_DRAWS = 40_000
QUICKLY = {"xla_backend_optimization_level": 0}  # for compilation, which is most of the time
SCHEMES = {
    "systematic": smc.systematic,
    "stratified": smc.stratified,
    "multinomial": smc.multinomial,
    "residual": smc.residual,
    "ssp": smc.ssp,
    "killing": smc.killing,
}
CONDITIONAL = [smc.multinomial, smc.systematic, smc.stratified, smc.residual, smc.killing]
RESAMPLERS = (
    SCHEMES
    | {f"conditional {s.__name__}": smc.conditional(s) for s in CONDITIONAL}
    | {f"2 of 4 {name}": smc.choice(2, scheme) for name, scheme in SCHEMES.items()}
    | {
        "optimal": smc.optimal(2),
        "systematic choice": smc.systematic_choice(2),
        "in place": smc.in_place(smc.systematic),
        "stop_gradient": smc.stop_gradient(smc.multinomial),
        "adaptive": smc.when(smc.ess_below(0.9), smc.systematic),
        "annealed": smc.annealed(lambda log_w, t: jnp.full(t.shape, 2.0, jnp.float32), smc.ssp),
        "unbiased entropic": smc.unbiased_entropic(4),
        "with parent": smc.with_parent(
            smc.conditional(smc.systematic), jnp.full(NUM_DRAWS, 2, jnp.int32)
        ),
    }
)


@pytest.fixture(scope="module")
def resampled():
    """Every scheme on 40 000 problems of four particles, (with the flag, without)."""
    log_w = np.tile(np.log(np.float32(W)), (NUM_DRAWS, 1))

    def run(key, log_w):
        keys = jax.random.split(key, NUM_DRAWS)
        t = jnp.ones(NUM_DRAWS, jnp.int32)
        return {name: resampler(keys, log_w, t) for name, resampler in RESAMPLERS.items()}

    return jax.tree.map(np.asarray, both_ways(run, jax.random.key(1), log_w))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESAMPLERS)
def test_shares_are_the_weights(resampled, name):
    """E[weight left to the copies of i] = W_i with the flag, and every bit is the one without."""
    assert_same(*(r[name] for r in resampled))
    ancestors, left, _ = resampled[0][name]
    assert ancestors.dtype == np.int32 and left.dtype == np.float32
    if "conditional" in name or "parent" in name:
        # Slot 0 is given; what the others are then is the law of the scheme, tested elsewhere.
        assert (ancestors[:, 0] == (2 if "parent" in name else 0)).all()
        return
    shares = [(np.exp(left.astype(float)) * (ancestors == i)).sum(1).mean() for i in range(4)]
    np.testing.assert_allclose(shares, W, atol=0.01)


def both_ways(program, *arguments) -> tuple:
    """The results with the flag and without it, typed keys as their words."""
    results = []
    for flag in (True, False):
        with jax.enable_x64(flag):
            compiled = jax.jit(program).lower(*arguments).compile(QUICKLY)
            results.append(jax.tree.map(_words, compiled(*arguments)))
    return tuple(results)


def _words(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same(with_flag, without):
    for a, b in zip(*map(jax.tree.leaves, (with_flag, without)), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in SAME_CODE])
def test_programs_have_the_bits_they_have_without(name):
    assert_same(*both_ways(PROGRAMS[name], jax.random.key(3)))


@pytest.mark.exhaustive
def test_sharded_particles_have_the_bits_they_have_without():
    mesh = jax.make_mesh((2,), ("particle",))
    algorithm = smc.particle_filter(
        smc.shard_particles(MODEL, mesh),
        N,
        smc.on_mesh(smc.adaptive_systematic, mesh),
        move=smc.all_to_all_rows(mesh),
    )
    assert_same(*both_ways(filtered(algorithm), jax.random.key(3)))


def double(x, t):
    return -((x - jnp.float64(0.5)) ** 2)


DOUBLE = {
    "filter": lambda m: smc.particle_filter(m, N),
    "auxiliary": lambda m: smc.auxiliary_filter(m, N, smc.per_particle(double)),
    "lookahead": lambda m: smc.lookahead_filter(m, N, 2),
    "islands": lambda m: smc.islands(smc.particle_filter(m, N), 2),
    "particle Gibbs": lambda m: smc.particle_gibbs(m, N, T),
    "parallel tempering": lambda m: smc.parallel_tempering(
        m, [1.0, 3.0], lambda tempered: smc.particle_gibbs(tempered, N, T), T
    ),
    "twist": lambda m: smc.particle_filter(smc.twist(m, smc.per_particle(double), T), N),
    "power": lambda m: smc.particle_filter(smc.power(m, 2.0, lambda x: -(x**2)), N),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("name", DOUBLE)
def test_potentials_in_float64_run_everywhere(name, is_mixed):
    """Potentials, or only what is beside them (eta, psi), in float64, under standard promotion."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model = smc.lift(
            init=lambda key: jax.random.normal(key),
            propagate=lambda key, x, t: 0.8 * x + 0.5 * jax.random.normal(key),
            log_potential=lambda x, t: double(x, t).astype(
                jnp.float32 if is_mixed else jnp.float64
            ),
        )
        algorithm = DOUBLE[name](model)
        state, _ = jax.jit(lambda key: smc.run(key, algorithm, T))(jax.random.key(0))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
