"""Small programs that use everything in `pfjax.smc`: a key in, arrays out.

The models ask for float32 wherever they draw, so that nothing here depends on `jax_enable_x64`.
"""

import jax
import jax.numpy as jnp

from pfjax import smc

T, N = 4, 6


def normal(key):
    return jax.random.normal(key, dtype=jnp.float32)


MODEL = smc.lift(
    init=normal,
    propagate=lambda key, x, t: 0.8 * x + 0.5 * normal(key),
    log_potential=lambda x, t: jnp.where(x > 2, -jnp.inf, -((x - 0.5) ** 2)),
    log_transition=lambda before, x, t: -2.0 * (x - 0.8 * before) ** 2,
)
POSTERIOR = smc.Posterior(normal, lambda x: -0.5 * x**2, lambda x: -3.0 * (x - 1.0) ** 2)
HMM = smc.HiddenMarkov(
    jnp.log(jnp.float32([0.6, 0.4])),
    jnp.log(jnp.float32([[0.7, 0.3], [0.4, 0.6]])),
    jnp.log(jnp.float32([[0.9, 0.1], [0.2, 0.8]])),
)
SYMBOLS = jnp.int32([0, 1, 1, 0])
ONE = jnp.ones((1, 1), jnp.float32)
LINEAR = smc.LinearGaussian(jnp.zeros(1, jnp.float32), ONE, 0.9 * ONE, ONE, ONE, ONE)
SERIES = jnp.float32([[0.3], [jnp.nan], [1.1], [0.2]])
VOLATILITY = smc.StochasticVolatility(jnp.float32(-1.0), jnp.float32(0.9), jnp.float32(0.3))
RETURNS = jnp.float32([0.1, -0.3, 0.2, 0.5])
TABLE = jnp.log(jnp.float32([[0.2, 0.8], [0.5, 0.5]]))


def both(state, info):
    return state, info


def filtered(algorithm, steps=T):
    return lambda key: smc.run(key, algorithm, steps, both)


def _filter(model):
    return filtered(smc.particle_filter(model, N))


def _resampled(resampler):
    return filtered(smc.particle_filter(MODEL, N, resampler))


def _goes_on(key):
    algorithm = smc.particle_filter(MODEL, N)
    return smc.run(key, algorithm, 2, state=smc.run(key, algorithm, T)[0])


def _until(key):
    return smc.run_until(key, smc.particle_filter(MODEL, N), lambda state: state.t >= 2, T)


def _smoothed(key):
    k_filter, k_paths = jax.random.split(key)
    _, (states, infos) = smc.run(k_filter, smc.particle_filter(MODEL, N), T, both)
    paths = smc.backward_sampling(k_paths, MODEL, states, 3)
    weights, eves = smc.smoothing_weights(MODEL, states), smc.eve_indices(infos.ancestors)
    tree = smc.trajectories(states.particles, infos.ancestors), smc.alive(infos.ancestors)
    num_resamplings = infos.resampled.sum(dtype=jnp.int32)
    spread = smc.relative_variance(states.log_weights[-1], eves[-1], num_resamplings)
    return paths, weights, eves, tree, smc.unique_ancestors(infos.ancestors), spread


def _sampled(rejuvenate):
    return filtered(smc.tempering(POSTERIOR, N, SCHEDULE, rejuvenate), 3)


def _adaptive(key):
    algorithm = smc.adaptive_tempering(POSTERIOR, N, smc.resample_move(smc.random_walk(0.5)))
    return smc.run_until(key, algorithm, smc.at_posterior, 20)


def _exact(key):
    k_path, k_returns = jax.random.split(key)
    kalman = smc.kalman_filter(LINEAR, SERIES), smc.kalman_smoother(LINEAR, SERIES)
    hidden = smc.forward_algorithm(HMM, SYMBOLS), smc.forward_backward(HMM, SYMBOLS)
    drawn = smc.posterior_path(k_path, HMM, SYMBOLS), smc.simulate_returns(k_returns, VOLATILITY, 5)
    volatility = smc.quadrature_filter(VOLATILITY, RETURNS, 51)
    return kalman, hidden, drawn, volatility, smc.enumerate_sequences(TABLE, 3), smc.nile()


FILTERS = {
    "filter": _filter(MODEL),
    "filter, every step": _resampled(smc.stop_gradient(smc.multinomial)),
    "residual": _resampled(smc.residual),
    "ssp": _resampled(smc.ssp),
    "killing": _resampled(smc.killing),
    "stratified": _resampled(
        smc.annealed(lambda log_w, t: 2.0 + 0.0 * log_w[..., 0], smc.stratified)
    ),
    "filter, goes on": _goes_on,
    "filter, until": _until,
    "auxiliary": filtered(smc.auxiliary_filter(MODEL, N, lambda x, t: -((x - 0.5) ** 2))),
    "lookahead": filtered(smc.lookahead_filter(MODEL, N, 2)),
    "lookahead, killing": filtered(
        smc.lookahead_filter(MODEL, N, 2, choose=lambda n: smc.choice(n, smc.killing))
    ),
    "islands": filtered(smc.islands(smc.particle_filter(MODEL, N), 3)),
}
KERNELS = {
    "conditional": filtered(smc.conditional_particle_filter(MODEL, N, jnp.zeros(T, jnp.float32))),
    "particle Gibbs": filtered(smc.particle_gibbs(MODEL, N, T)),
    "ancestor sampling": filtered(smc.particle_gibbs(MODEL, N, T, ancestor_sampling=True)),
    **{
        f"conditional {scheme.__name__}": filtered(
            smc.particle_gibbs(MODEL, N, T, smc.conditional(scheme))
        )
        for scheme in (smc.multinomial, smc.stratified, smc.residual, smc.killing)
    },
    "backward Gibbs": filtered(smc.backward_gibbs(MODEL, N, T)),
    "parallel tempering": filtered(
        smc.parallel_tempering(MODEL, [1.0, 3.0], lambda m: smc.particle_gibbs(m, N, T), T)
    ),
    "smoothing": _smoothed,
}
OBSERVED = smc.PartialPosteriors(
    normal, lambda x: -0.5 * x**2, lambda x, t: -((x - RETURNS[t]) ** 2), len(RETURNS)
)
FAMILY = smc.ModelFamily(
    normal,
    lambda a: -0.5 * a**2,
    lambda a: smc.lift(
        normal, lambda key, x, t: a * x + normal(key), lambda x, t: -((x - RETURNS[t]) ** 2)
    ),
)
PRODUCTS = smc.Additive(lambda x: x, lambda before, x, t: before * x)
SCHEDULE = jnp.float32([0.2, 0.6, 1.0])
WALK = smc.random_walk(0.5)


def _tuned(key):
    def build(spread, step_size):
        return smc.random_walk(step_size * spread.std)

    k_found, k_frozen = jax.random.split(key)
    algorithm = smc.tempering(POSTERIOR, N, SCHEDULE, smc.tuned_move(build))
    state, found = smc.run(k_found, algorithm, 3, lambda state, info: smc.tuning(state))
    again = smc.tempering(POSTERIOR, N, SCHEDULE, smc.frozen_move(build, found))
    return state, smc.run(k_frozen, again, 3, both)


def _adaptive_persistent(key):
    algorithm = smc.adaptive_persistent_sampling(POSTERIOR, N, WALK, max_steps=8, target=1.5)
    return smc.run_until(key, algorithm, smc.at_posterior, 8)


def _additive(key):
    k_forward, k_paris, k_plain = jax.random.split(key, 3)
    pf = smc.particle_filter(MODEL, N)
    exact = smc.run(k_forward, smc.forward_smoothing(MODEL, pf, PRODUCTS), T)[0]
    drawn = smc.run(k_paris, smc.paris(MODEL, pf, PRODUCTS, 0.0), T)[0]
    _, (states, infos) = smc.run(k_plain, pf, T, both)
    sums = smc.expected_sum(exact), smc.expected_sum(drawn)
    return (
        sums,
        smc.smoothed_sum(MODEL, states, PRODUCTS),
        smc.fixed_lag(states, infos.ancestors, 2),
    )


SAMPLERS = {
    "tuned, frozen": _tuned,
    "IBIS": filtered(smc.ibis(OBSERVED, N, WALK)),
    "persistent": filtered(smc.persistent_sampling(POSTERIOR, N, SCHEDULE, WALK), 3),
    "adaptive persistent": _adaptive_persistent,
    "PMMH": filtered(smc.pmmh(FAMILY, N, T, 0.5)),
    "SMC^2": filtered(smc.smc_squared(FAMILY, N, 3, 0.5)),
    "additive": _additive,
    "tempering": _sampled(smc.resample_move(smc.repeated(smc.random_walk(0.5), 2))),
    "waste-free": _sampled(smc.waste_free(smc.random_walk(0.5), 2)),
    "adaptive tempering": _adaptive,
}
MODELS = {
    "twist": _filter(smc.twist(MODEL, lambda x, t: 0.1 * x, T)),
    "power": _filter(smc.power(MODEL, 2.0, lambda x: -(x**2))),
    "tempered": _filter(smc.tempered_target(MODEL, 0.5)),
    "hidden Markov": _filter(
        smc.guided(smc.hidden_markov(HMM, SYMBOLS), smc.hidden_markov_proposal(HMM, SYMBOLS))
    ),
    "linear Gaussian": _filter(
        smc.guided(
            smc.linear_gaussian(LINEAR, SERIES), smc.linear_gaussian_proposal(LINEAR, SERIES)
        )
    ),
    "stochastic volatility": _filter(smc.stochastic_volatility(VOLATILITY, RETURNS)),
    "tabular": _filter(
        smc.tabular_language_model(
            TABLE, T, lambda s: 0.5 * s.sum(dtype=jnp.int32).astype(jnp.float32)
        )
    ),
    "normals": lambda key: smc.normals(jax.random.split(key, 5), 3),
    "exact answers": _exact,
}
PROGRAMS = FILTERS | KERNELS | SAMPLERS | MODELS
# Programs that differ from others in their resampler alone.
SAME_CODE = {"filter, every step", "residual", "ssp", "killing", "stratified", "lookahead, killing"}
SAME_CODE |= {f"conditional {s}" for s in ("multinomial", "stratified", "residual", "killing")}
