"""What users mix up: one sentence each, with the argument, what it got and what to write instead.

Nothing is compiled: every mistake is found while the program is traced, or before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import FAMILY, HMM, LINEAR

from pfjax import smc

KEY = jax.random.key(0)
Y = np.array([0.1, -0.3, 0.2])


def draw(key):
    return jax.random.normal(key, dtype=jnp.float32)


def one(key, x, t):
    return 0.5 * x + draw(key)


def log_potential(x, t):
    return -(x**2)


def walk(key, x, log_density):
    return x + draw(key), ()


MODEL = smc.lift(draw, one, log_potential)
PF = smc.particle_filter(MODEL, 8)
GIBBS = smc.conditional(smc.multinomial)
POSTERIOR = smc.Posterior(draw, log_potential_of_one := lambda x: -(x**2), log_potential_of_one)
MESH = jax.make_mesh((1,), ("particle",))


def run(algorithm, num_steps=3, **keywords):
    return jax.eval_shape(lambda key: smc.run(key, algorithm, num_steps, **keywords), KEY)


def weighing(weigh, **others):
    return run(smc.particle_filter(MODEL._replace(weigh=weigh, **others), 8))


def resampling(resampler):
    return run(smc.particle_filter(MODEL, 8, resampler))


def closing_over(y):
    return run(smc.particle_filter(smc.lift(draw, one, lambda x, t: -((x - y[t]) ** 2)), 8))


def observing(observations):
    model = smc.state_space(draw, one, lambda x, y, t: -((x - y) ** 2), observations)
    return run(smc.particle_filter(model, 8))


def sampling(rejuvenate, schedule=(0.5, 1.0), num_steps=2):
    return run(smc.tempering(POSTERIOR, 8, jnp.float32(schedule), rejuvenate), num_steps)


def scaled(scale, x):
    kernel = smc.random_walk(scale)
    return kernel(KEY, x, lambda x: -sum(jnp.sum(a**2) for a in jax.tree.leaves(x)))


def proposing(init, propagate):
    return run(smc.particle_filter(smc.guided(MODEL, smc.lift_proposal(init, propagate)), 8))


ADAPTIVE = smc.adaptive_tempering(POSTERIOR, 8, smc.resample_move(walk))
STATE = smc.start(KEY, jnp.zeros(8, jnp.float32), 8)
MISTAKES = {
    "weigh without particles": (
        lambda: weighing(lambda x, t: log_potential(x, t)),
        "model.weigh: got an array of shape .8,., want the pair .particles, log G.",
    ),
    "weigh the wrong way round": (
        lambda: weighing(lambda x, t: (log_potential(x, t), x)),
        "model.weigh: got .log G, particles.",
    ),
    "weigh the wrong way round, particles a tree": (
        lambda: weighing(
            lambda x, t: (-(x["a"] ** 2), {"a": x["a"]}),
            init=lambda keys: {"a": jnp.zeros(keys.shape, jnp.float32)},
        ),
        "model.weigh: got .log G, particles.",
    ),
    "weigh in integers": (
        lambda: weighing(lambda x, t: (x, jnp.zeros(8, jnp.int32))),
        "log G of dtype int32, want floating point",
    ),
    "a weight too many": (
        lambda: weighing(lambda x, t: (x, x[..., None])),
        r"got log G of shape \(8, 1\), want \(8,\)",
    ),
    "run without a key": (lambda: smc.run(0, PF, 3), "key: got 0, want a typed key"),
    "run the wrong way round": (lambda: smc.run(PF, KEY, 3), r"want a key; write run\(key, algo"),
    "a raw key": (lambda: smc.run(jax.random.PRNGKey(0), PF, 3), "want a typed key"),
    "a model for an algorithm": (
        lambda: run(MODEL),
        "algorithm: got a FeynmanKac, want an Algorithm.*particle_filter",
    ),
    "a function for an algorithm": (lambda: run(one), "algorithm: got the function one"),
    "an algorithm for a model": (
        lambda: smc.particle_filter(PF, 8),
        "model: got an Algorithm, want a Feyn",
    ),
    "no model": (lambda: smc.lookahead_filter("model", 8, 2), "model: got 'model', want a Feyn"),
    "no steps": (lambda: run(PF, 0), "number of steps: got 0, want at least 1"),
    "half a step": (lambda: run(PF, 2.5), "number of steps: got 2.5, want a whole number"),
    "no particles": (lambda: smc.particle_filter(MODEL, 0), "n: got 0, want at least 1"),
    "a number of particles that is none": (
        lambda: smc.particle_filter(MODEL, True),
        "n: got True, want a whole number",
    ),
    "numpy closed over": (lambda: closing_over(Y), "log_potential: got a numpy array.*asarray"),
    "a list closed over": (lambda: closing_over(Y.tolist()), "log_potential: got a numpy array"),
    "observations of different lengths": (
        lambda: observing({"a": Y, "b": Y[:2]}),
        "observations: got leaves with",
    ),
    "optimal without n": (lambda: resampling(smc.optimal), r"want optimal\(n\)"),
    "optimal of another n": (
        lambda: resampling(smc.optimal(4)),
        r"resampler: got ancestors of shape \(4,\) for log-weights of shape \(8,\)",
    ),
    "choice of another n, wrapped": (
        lambda: resampling(smc.when(smc.ess_below(0.5), smc.in_place(smc.choice(4)))),
        r"resampler: got ancestors of shape \(4,\)",
    ),
    "a resampler by name": (lambda: resampling("systematic"), "resampler: got 'systematic'"),
    "a wrapped name": (lambda: smc.in_place("ssp"), "resampler: got 'ssp'"),
    "a resampler that returns ancestors": (
        lambda: resampling(lambda key, log_w, t: jnp.arange(8)),
        "resampler: got an array of shape .8,. from",
    ),
    "a fraction for a criterion": (lambda: smc.when(0.5, smc.ssp), "criterion: got 0.5.*ess_below"),
    "a count for a fraction": (lambda: smc.ess_below(50), "fraction: got 50, want a fraction"),
    "a fraction that is no number": (lambda: smc.ess_below(float("nan")), "fraction: got nan"),
    "every half": (lambda: smc.every(0.5), "k: got 0.5, want a whole number"),
    "init of one particle": (
        lambda: run(smc.particle_filter(MODEL._replace(init=draw), 8)),
        "model.init: got a function of one particle.*smc.lift",
    ),
    "init of one particle that ignores its key": (
        lambda: run(smc.particle_filter(MODEL._replace(init=lambda key: jnp.zeros(3)), 8)),
        "model.init: got particles of shape .3,. for keys of shape .8,.*smc.lift",
    ),
    "propagate of one particle": (
        lambda: run(smc.particle_filter(MODEL._replace(propagate=one), 8)),
        "model.propagate: got a function of one particle.*smc.lift",
    ),
    "a kernel for a rejuvenation": (lambda: sampling(walk), "rejuvenate: got a kernel.*resample_m"),
    "a random walk for a rejuvenation": (
        lambda: sampling(smc.random_walk(0.5)),
        "rejuvenate: got a kernel",
    ),
    "a kernel that tells nothing": (
        lambda: sampling(smc.resample_move(lambda key, x, log_density: x)),
        "kernel: got an array of shape ..,? want the pair .particle, info.",
    ),
    "a schedule cut short": (
        lambda: sampling(smc.resample_move(walk), num_steps=1),
        "number of steps: got 1, want at least 2",
    ),
    "adaptive tempering under run": (lambda: run(ADAPTIVE), "want smc.run_until.*at_posterior"),
    "adaptive tempering on islands": (
        lambda: smc.islands(ADAPTIVE, 2),
        "algorithm: got one that chooses its targets",
    ),
    "a proposal without its ratio": (
        lambda: proposing(draw, one),
        "proposal.init: got an array of shape .8,., want the pair .particles, log M/q.",
    ),
    "a move without its ratio": (
        lambda: proposing(lambda key: (draw(key), jnp.float32(0)), one),
        "proposal.propagate: got an array",
    ),
    "backward sampling with infos": (
        lambda: smc.backward_sampling(KEY, MODEL, run(PF)[1], 2),
        "states: got an Info, want the stacked states",
    ),
    "backward sampling with one state": (
        lambda: smc.backward_sampling(KEY, MODEL, run(PF)[0], 2),
        "states: got the state of one generation",
    ),
    "smoothing with infos": (
        lambda: smc.smoothing_weights(MODEL, run(PF)[1]),
        "states: got an Info",
    ),
    "a scale of another tree": (
        lambda: scaled({"a": 0.1}, {"b": jnp.zeros(2)}),
        "scale: got .* for particles of",
    ),
    "a scale of another shape": (
        lambda: scaled(jnp.ones(3), jnp.zeros(2)),
        "scale: got .3,. .shapes. for particles of .2,.",
    ),
    "collecting a word": (
        lambda: run(PF, collect=lambda state, info: "ess"),
        "collect: got 'ess', want a tree of arrays",
    ),
    "collecting by name": (lambda: run(PF, collect="ess"), "collect: got 'ess', want a function"),
    "an axis that the mesh has not": (
        lambda: smc.on_mesh(smc.systematic, MESH, "particles"),
        r"axis: got 'particles', want one of the axes of the mesh, \('particle',\)",
    ),
    "shards on no axis": (lambda: smc.shard_particles(MODEL, MESH, "x"), "axis: got 'x'"),
    "moves on no axis": (lambda: smc.all_to_all_rows(MESH, "x"), "axis: got 'x'"),
    "gathers on no axis": (lambda: smc.all_gather_rows(MESH, "x"), "axis: got 'x'"),
    "a plain resampler in particle Gibbs": (
        lambda: smc.particle_gibbs(MODEL, 8, 3, smc.systematic),
        "resampler: got systematic, want a conditional one",
    ),
    "a plain resampler under a reference": (
        lambda: smc.conditional_particle_filter(MODEL, 8, Y, smc.when(smc.ess_below(0.5), smc.ssp)),
        "want a conditional one",
    ),
    "a plain resampler in backward Gibbs": (
        lambda: smc.backward_gibbs(MODEL._replace(log_transition=log_potential), 8, 3, smc.ssp),
        "resampler: got ssp, want a conditional one",
    ),
    "a reference that ends too soon": (
        lambda: run(smc.conditional_particle_filter(MODEL, 8, jnp.float32(Y)), 4),
        "number of steps: got 4, want at most 3: the reference",
    ),
    "a path that ends too soon": (
        lambda: smc.particle_gibbs(MODEL, 8, 4).step(KEY, jnp.float32(Y)),
        "path: got 3 generations, want 4",
    ),
    "chains of another length": (
        lambda: jax.eval_shape(
            smc.parallel_tempering(
                MODEL, [1.0, 2.0], lambda m: smc.particle_gibbs(m, 8, 3), 4
            ).init,
            KEY,
        ),
        "path: got 3 generations, want 4",
    ),
    "a conditional resampler in a plain filter": (
        lambda: smc.particle_filter(MODEL, 8, smc.when(smc.ess_below(0.5), GIBBS)),
        "resampler: got a conditional one.*want a plain one",
    ),
    "a conditional resampler between islands": (
        lambda: smc.islands(PF, 2, GIBBS),
        "exchange: got a conditional one",
    ),
    "a criterion for a resampler": (
        lambda: smc.particle_filter(MODEL, 8, smc.ess_below(0.5)),
        "resampler: got the function criterion, want a function of .key, log_w, t.",
    ),
    "a resampler for a criterion": (
        lambda: smc.when(smc.systematic, smc.ess_below(0.5)),
        "criterion: got the function systematic",
    ),
    "a policy without its horizon": (
        lambda: resampling(smc.entropic),
        "resampler: got the function",
    ),
    "an annealing that is a number": (lambda: smc.annealed(2.0, smc.ssp), "schedule: got 2.0"),
    "a forecast of one particle": (
        lambda: run(smc.auxiliary_filter(MODEL, 8, lambda x, t: 0.0)),
        r"log_eta: got shape \(\) for weights of shape \(8,\)",
    ),
    "a twist of all at once": (
        lambda: run(smc.particle_filter(smc.twist(MODEL, lambda x, t: x.sum(), 3), 8)),
        r"log_psi: got shape \(\) for particles of axes \(8,\)",
    ),
    "islands of paths": (
        lambda: run(smc.islands(smc.particle_gibbs(MODEL, 8, 3), 2)),
        "algorithm: got an array .* want a State",
    ),
    "choosing without a number": (
        lambda: smc.lookahead_filter(MODEL, 4, 2, choose=smc.systematic),
        "choose: got the function systematic, want a function of .n., the number of rows",
    ),
    "choosing as many as there are": (
        lambda: run(smc.lookahead_filter(MODEL, 4, 2, choose=lambda n: smc.systematic)),
        "choose: got 8 rows from choose.4., want 4",
    ),
    "going on from infos": (lambda: run(PF, state=run(PF)[1]), "state: got an Info"),
    "going on with other particles": (
        lambda: run(smc.particle_filter(MODEL, 20), state=STATE),
        "state: got 8 particles, want the 20 of the filter",
    ),
    "going on with other problems": (
        lambda: smc.run(jax.random.split(KEY, 3), PF, 3, state=STATE),
        r"state: got \(\) problems for keys of shape \(3,\)",
    ),
    "ending by particles": (
        lambda: smc.run_until(KEY, PF, lambda state: state.particles > 3, 3),
        "done: got bool of shape .8,., want one flag",
    ),
    "ending by a number": (lambda: smc.run_until(KEY, PF, 5, 3), "done: got 5, want a function"),
    "a model for a posterior": (
        lambda: smc.tempering(MODEL, 8, jnp.float32([1.0]), smc.resample_move(walk)),
        "posterior: got a FeynmanKac, want a Posterior",
    ),
    "a posterior for partial ones": (
        lambda: smc.ibis(POSTERIOR, 8, walk),
        "posteriors: got a Posterior, want a PartialPosteriors",
    ),
    "a model for a family": (
        lambda: smc.pmmh(MODEL, 8, 3, 0.5),
        "family: got a FeynmanKac, want a ModelFamily",
    ),
    "a series without its axis": (
        lambda: smc.kalman_filter(LINEAR, jnp.float32(Y)),
        r"observations: got shape \(3,\), want \[steps, 1\].*y\[:, None\]",
    ),
    "a symbol that is not emitted": (
        lambda: smc.forward_algorithm(HMM, jnp.int32([0, 1, 5])),
        "observations: got int32 of shape .3,., want one integer from 0 to 1",
    ),
    "a schedule that is no number": (
        lambda: sampling(smc.resample_move(walk), (0.5, float("nan"))),
        "schedule: got .0.5, nan., want numbers >= 0",
    ),
    "genealogy of infos": (
        lambda: smc.eve_indices(run(PF)[1]),
        "ancestors: got an Info, want integers",
    ),
    "islands of what reads its own evidence": (
        lambda: smc.islands(
            smc.persistent_sampling(POSTERIOR, 8, jnp.float32([0.5, 1.0]), walk), 2
        ),
        "algorithm: got one that weighs its particles by its own evidence",
    ),
    "persistent sampling with unequal weights left": (
        lambda: smc.persistent_sampling(POSTERIOR, 8, jnp.float32([1.0]), walk, scheme=smc.optimal),
        "scheme: got .*optimal.* want one of systematic",
    ),
    "one key for two problems": (
        lambda: smc.systematic(KEY, jnp.zeros((2, 4)), jnp.int32(1)),
        r"log_w: got shape \(2, 4\) for keys of shape \(\)",
    ),
    "keys without problems": (
        lambda: smc.optimal(2)(jax.random.split(KEY), jnp.zeros(4), jnp.int32(1)),
        r"log_w: got shape \(4,\) for keys of shape \(2,\)",
    ),
    "the variance of all generations": (
        lambda: smc.relative_variance(
            jnp.zeros(4), jnp.zeros(4, jnp.int32), jnp.zeros(3, jnp.int32)
        ),
        "num_resamplings, eves: got shapes",
    ),
    "a kernel for a proposal": (
        lambda: smc.pmmh(FAMILY, 8, 3, smc.random_walk(0.5)),
        "proposal: got the function kernel, want a function of .key, theta.",
    ),
    "no reference": (
        lambda: smc.conditional_particle_filter(MODEL, 8, None),
        "reference: got leaves of shapes",
    ),
    "a reference of one generation": (
        lambda: smc.conditional_particle_filter(MODEL, 8, [0.0, 0.0, 0.0]),
        "reference: got leaves of shapes",
    ),
    "a horizon that is a number": (lambda: smc.bounded(PF, 3), "horizon: got 3, want a Horizon"),
    "a scheme that cannot choose": (lambda: smc.choice(4, smc.adaptive_systematic), "scheme: got"),
    "choosing by a name": (lambda: smc.choice(4, "ssp"), "scheme: got 'ssp', want one of system"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence(name):
    mistake, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        mistake()
    text = str(caught.value)
    assert ", want " in text and "\n" not in text and len(text) < 400


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray, list], ids=["jax", "numpy", "list"])
def test_observations_of_every_kind_are_taken(kind):
    state, _ = observing(
        kind(Y.astype(np.float32).tolist() if kind is list else Y.astype(np.float32))
    )
    assert state.log_weights.shape == (8,)


def test_numbers_that_python_collects_become_arrays():
    _, rows = run(PF, collect=lambda state, info: (1.5, 2, info.ess))
    assert [(row.shape, row.dtype.name) for row in rows] == [
        ((3,), "float32"),
        ((3,), "int32"),
        ((3,), "float32"),
    ]


def test_what_fails_for_reasons_of_its_own_is_not_explained_away():
    def broken(keys):
        raise ValueError("my own trouble")

    with pytest.raises(ValueError, match="my own trouble"):
        run(smc.particle_filter(MODEL._replace(init=broken), 8))

    def kernel(key, x, log_density):
        raise TypeError("my own trouble")

    with pytest.raises(TypeError, match="my own trouble"):
        sampling(smc.resample_move(kernel))


@pytest.mark.parametrize("num_steps", [np.int64(3), np.int32(3)])
def test_whole_numbers_of_numpy_are_whole_numbers(num_steps):
    state, _ = run(smc.particle_filter(MODEL, np.int64(8)), num_steps)
    assert state.log_weights.shape == (8,)
