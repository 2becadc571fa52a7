"""Algorithms of pfjax.smc beside the same ones of particles and blackjax, in one process.

    python benchmarks/smc_algorithms.py            writes smc_algorithms.json and its part of RESULTS.md
    python benchmarks/smc_algorithms.py --small    in seconds, to see that it runs

One problem for all: x_t = a x_t-1 + 0.7 N(0, 1), y_t = x_t + N(0, 1), x_0 ~ N(0, 1), with a ~ U(0, 1)
unknown where parameters are learnt; IBIS and persistent sampling learn the mean of normal observations. log Z
is exact by the Kalman filter and quadrature over a (particles' SMC^2 leaves p(y_0) out of its log Z, and its
PMMH does not run with numpy 2: it is then left out). Medians of 5 after one call that is not timed, the
contenders taking turns; every call is another seed. Moves are the same random walk, one a particle.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from results import machine, write_section

from pfjax import smc

HERE = Path(__file__).parent
SCALE, NOISE, TRUE = 0.15, 0.7, 0.8
Thunks = dict[str, Callable[[int], tuple[float, float]]]  # seed -> (log Z or nan, an estimate)


def observations(num_steps: int) -> np.ndarray:
    rng, x, rows = np.random.default_rng(0), 0.0, []
    for _ in range(num_steps):
        rows.append(x + rng.normal())
        x = TRUE * x + NOISE * rng.normal()
    return np.array(rows)


def kalman(y: np.ndarray, a: float) -> tuple[float, np.ndarray]:
    """log p(y | a) in float64, and the smoothed mean of sum_t x_t-1 x_t from the dense posterior."""
    t = len(y)
    cov = np.zeros((t, t))
    var = [1.0]
    for _ in range(t - 1):
        var.append(a * a * var[-1] + NOISE**2)
    for i in range(t):
        for j in range(i, t):
            cov[i, j] = cov[j, i] = a ** (j - i) * var[i]
    total = cov + np.eye(t)
    log_z = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    mean = cov @ np.linalg.solve(total, y)
    posterior = cov - cov @ np.linalg.solve(total, cov)
    return log_z, sum(posterior[i, i + 1] + mean[i] * mean[i + 1] for i in range(t - 1))


def learnt(y: np.ndarray) -> tuple[float, float]:
    """log p(y) and E[a | y], by quadrature over a."""
    grid = (np.arange(400) + 0.5) / 400
    log_z = np.array([kalman(y, a)[0] for a in grid])
    w = np.exp(log_z - log_z.max())
    return float(np.log(w.mean()) + log_z.max()), float(w @ grid / w.sum())


def family(y: np.ndarray) -> smc.ModelFamily:
    series = jnp.float32(y)
    return smc.ModelFamily(
        lambda key: jax.random.uniform(key, dtype=jnp.float32),
        lambda a: jnp.where((a > 0) & (a < 1), 0.0, -jnp.inf),
        lambda a: model(a, series),
    )


def model(a: float | jax.Array, series: jax.Array) -> smc.FeynmanKac:
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, dtype=jnp.float32)

    return smc.lift(
        draw,
        lambda key, x, t: a * x + NOISE * draw(key),
        lambda x, t: norm.logpdf(series[t], x, 1.0),
        log_transition=lambda before, x, t: norm.logpdf(x, a * before, NOISE),
    )


def peer_model(y: np.ndarray):
    """particles' form of the same model, with its prior; None if it is not installed."""
    try:
        import particles
        import particles.state_space_models as ssms
        from particles import distributions as dists
    except ImportError:
        return None

    if not hasattr(np, "float"):
        np.float = float  # numpy took it away in 1.24, particles 0.3 still asks for it

    class Autoregression(ssms.StateSpaceModel):
        default_params = {"a": TRUE}

        def PX0(self):
            return dists.Normal()

        def PX(self, t, xp):
            return dists.Normal(loc=self.a * xp, scale=NOISE)

        def PY(self, t, xp, x):
            return dists.Normal(loc=x)

        def add_func(self, t, xp, x):
            return 0.0 * x if xp is None else xp * x

        def upper_bound_log_pt(self, t):
            return -np.log(NOISE) - 0.5 * np.log(2 * np.pi)

    prior = dists.StructDist({"a": dists.Uniform(0.0, 1.0)})
    return particles, ssms, Autoregression, prior


def squared(y: np.ndarray, n: int, num_inner: int) -> Thunks:
    algorithm = smc.smc_squared(family(y), n, num_inner, SCALE)
    compiled = jax.jit(lambda key: smc.run(key, algorithm, len(y), lambda s, i: ())[0])

    def ours(seed):
        state = jax.block_until_ready(compiled(jax.random.key(seed)))
        mean = jnp.exp(state.log_weights) @ state.particles.theta
        return float(state.log_evidence), float(mean)

    thunks: Thunks = {"pfjax": ours}
    peer = peer_model(y)
    if peer:
        particles, _, ssm, prior = peer
        from particles import smc_samplers as ssp

        def theirs(seed):
            np.random.seed(seed)
            move = ssp.AdaptiveMCMCSequence(walk(), len_chain=2)
            fk = ssp.SMC2(ssm, prior, y, init_Nx=num_inner, wastefree=False, move=move)
            run = particles.SMC(fk=fk, N=n, ESSrmin=0.5)
            run.run()
            return run.logLt, float(np.average(run.X.theta["a"], weights=run.W))

        thunks["particles"] = theirs
    return thunks


def walk():
    """particles' random walk with the same fixed scale."""
    from particles import smc_samplers as ssp

    class Walk(ssp.ArrayRandomWalk):
        def calibrate(self, W, x):
            x.shared["chol_cov"] = np.full((1, 1), SCALE)

    return Walk()


def marginal(y: np.ndarray, num_inner: int, num_iterations: int) -> Thunks:
    kernel = smc.pmmh(family(y), num_inner, len(y), SCALE)
    compiled = jax.jit(lambda key: smc.run(key, kernel, num_iterations, lambda c, m: c.theta)[1])

    def ours(seed):
        return float("nan"), float(jax.block_until_ready(compiled(jax.random.key(seed))).mean())

    thunks: Thunks = {"pfjax": ours}
    peer = peer_model(y)
    if peer:
        _, _, ssm, prior = peer
        from particles import mcmc

        def theirs(seed):
            np.random.seed(seed)
            chain = mcmc.PMMH(
                num_iterations,
                ssm_cls=ssm,
                prior=prior,
                data=y,
                Nx=num_inner,
                adaptive=False,
                rw_cov=np.full((1, 1), SCALE**2),
            )
            chain.run()
            return float("nan"), float(chain.chain.theta["a"].mean())

        thunks["particles"] = theirs
    return thunks


def smoothing(y: np.ndarray, n: int, kind: str) -> Thunks:
    """E[sum_t x_t-1 x_t | y], online: the exact backward kernel, or two draws from it (PaRIS)."""
    m = model(TRUE, jnp.float32(y))
    products = smc.Additive(lambda x: 0.0 * x, lambda before, x, t: before * x)
    pf = smc.particle_filter(m, n)
    if kind == "exact":
        algorithm = smc.forward_smoothing(m, pf, products)
    else:
        bound = -float(np.log(NOISE) + 0.5 * np.log(2 * np.pi))
        algorithm = smc.paris(m, pf, products, bound)
    compiled = jax.jit(lambda key: smc.run(key, algorithm, len(y), lambda s, i: ())[0])

    def ours(seed):
        state = jax.block_until_ready(compiled(jax.random.key(seed)))
        return float(state.log_evidence), float(smc.expected_sum(state))

    thunks: Thunks = {"pfjax": ours}
    peer = peer_model(y)
    if peer:
        particles, ssms, ssm, _ = peer
        from particles import collectors

        def theirs(seed):
            np.random.seed(seed)
            collector = collectors.Online_smooth_ON2() if kind == "exact" else collectors.Paris()
            fk = ssms.Bootstrap(ssm=ssm(a=TRUE), data=y)
            fk.add_func = fk.ssm.add_func
            fk.upper_bound_log_pt = fk.ssm.upper_bound_log_pt
            run = particles.SMC(fk=fk, N=n, ESSrmin=0.5, collect=[collector])
            run.run()
            return run.logLt, float(next(iter(run.summaries.__dict__[collector.summary_name][-1:])))

        thunks["particles"] = theirs
    return thunks


def batches(y: np.ndarray, n: int) -> Thunks:
    """IBIS for the mean of y_t ~ N(x, 1), x ~ N(0, 2^2)."""
    series = jnp.float32(y)
    posteriors = smc.PartialPosteriors(
        lambda key: 2 * jax.random.normal(key, dtype=jnp.float32),
        lambda x: norm.logpdf(x, 0.0, 2.0),
        lambda x, t: norm.logpdf(series[t], x, 1.0),
        len(y),
    )
    algorithm = smc.ibis(posteriors, n, smc.random_walk(SCALE))
    compiled = jax.jit(lambda key: smc.run(key, algorithm, len(y), lambda s, i: ())[0])

    def ours(seed):
        state = jax.block_until_ready(compiled(jax.random.key(seed)))
        return float(state.log_evidence), float(jnp.exp(state.log_weights) @ state.particles)

    thunks: Thunks = {"pfjax": ours}
    if peer_model(y):
        import particles
        from particles import distributions as dists
        from particles import smc_samplers as ssp

        class Mean(ssp.StaticModel):
            def logpyt(self, theta, t):
                return -0.5 * (self.data[t] - theta["x"]) ** 2 - 0.5 * np.log(2 * np.pi)

        prior = dists.StructDist({"x": dists.Normal(scale=2.0)})

        def theirs(seed):
            np.random.seed(seed)
            move = ssp.AdaptiveMCMCSequence(walk(), len_chain=2)
            fk = ssp.IBIS(Mean(data=y, prior=prior), wastefree=False, move=move)
            run = particles.SMC(fk=fk, N=n, ESSrmin=0.5)
            run.run()
            return run.logLt, float(np.average(run.X.theta["x"], weights=run.W))

        thunks["particles"] = theirs
    return thunks


def mean_of_normals(y: np.ndarray) -> tuple[float, float]:
    """log Z and posterior mean of the model of `batches`."""
    t = len(y)
    total = np.eye(t) + 4.0
    log_z = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    return float(log_z), float(4 * y.sum() / (1 + 4 * t))


def persistent(y: np.ndarray, n: int, num_steps: int) -> Thunks:
    """Persistent sampling of the same posterior along lambda_t = (t / steps)^3."""
    schedule = (np.arange(1, num_steps + 1, dtype=np.float32) / num_steps) ** 3
    series = jnp.float32(y)
    posterior = smc.Posterior(
        lambda key: 2 * jax.random.normal(key, dtype=jnp.float32),
        lambda x: norm.logpdf(x, 0.0, 2.0),
        lambda x: jnp.sum(norm.logpdf(series, x, 1.0)),
    )
    algorithm = smc.persistent_sampling(posterior, n, jnp.asarray(schedule), smc.random_walk(SCALE))
    compiled = jax.jit(lambda key: smc.run(key, algorithm, num_steps, lambda s, i: ())[0])

    def ours(seed):
        state = jax.block_until_ready(compiled(jax.random.key(seed)))
        mean = jnp.exp(state.log_weights) @ state.particles.position
        return float(state.log_evidence), float(mean)

    thunks: Thunks = {"pfjax": ours}
    try:
        import blackjax
        from blackjax.smc import extend_params, resampling
    except ImportError:
        return thunks
    walk_kernel = blackjax.additive_step_random_walk.build_kernel()

    def step(key, state, logdensity, scale):
        move = lambda key, x: SCALE * jax.random.normal(key, x.shape, x.dtype)  # noqa: E731
        return walk_kernel(key, state, logdensity, move)

    sampler = blackjax.persistent_sampling_smc(
        posterior.log_prior,
        posterior.log_likelihood,
        num_steps + 1,
        step,
        blackjax.additive_step_random_walk.init,
        extend_params({"scale": jnp.float32(SCALE)}),
        resampling.systematic,
        num_mcmc_steps=1,
    )

    def run(key):
        k_init, k_run = jax.random.split(key)
        keys = jax.random.split(k_init, n)
        state = sampler.init(jax.vmap(posterior.sample_prior)(keys))

        def advance(state, x):
            i, at = x
            return sampler.step(jax.random.fold_in(k_run, i), state, at)[0], None

        rows = jnp.arange(num_steps), jnp.asarray(schedule)
        return jax.lax.scan(advance, state, rows)[0]

    compiled_peer = jax.jit(run)

    def theirs(seed):
        state = jax.block_until_ready(compiled_peer(jax.random.key(seed)))
        w = np.asarray(state.persistent_weights).ravel()
        x = np.asarray(state.persistent_particles).ravel()
        return float(state.log_Z), float(w @ x / w.sum())

    return thunks | {"blackjax": theirs}


def measure(name: str, thunks: Thunks, exact: tuple[float, float], repeats: int) -> list[dict]:
    rows = {
        who: {"algorithm": name, "name": who, "seconds": [], "log Z": [], "estimate": []}
        for who in thunks
    }
    for who, thunk in list(thunks.items()):
        try:
            thunk(0)
        except Exception as error:  # a peer that does not run with the numpy that is installed
            if who == "pfjax":
                raise
            del thunks[who], rows[who]
            print(f"{who} does not run {name}: {type(error).__name__}: {error}", flush=True)
    for seed in range(1, repeats + 1):
        for who, thunk in thunks.items():
            began = time.perf_counter()
            log_z, estimate = thunk(seed)
            rows[who]["seconds"].append(time.perf_counter() - began)
            rows[who]["log Z"].append(log_z)
            rows[who]["estimate"].append(estimate)
    for row in rows.values():
        row["exact"] = list(exact)
        print(_line(row), flush=True)
    return list(rows.values())


def _line(row: dict) -> str:
    """One row of the table: medians of seconds, means and standard deviations of the rest."""
    seconds = statistics.median(row["seconds"])
    log_z, estimate = (np.array(row[k]) for k in ("log Z", "estimate"))
    evidence = (
        ""
        if np.isnan(log_z).any()
        else f"{np.mean(log_z) - row['exact'][0]:+.3f} ± {np.std(log_z, ddof=1):.3f}"
    )
    error = f"{np.mean(estimate) - row['exact'][1]:+.4f} ± {np.std(estimate, ddof=1):.4f}"
    return f"| {row['algorithm']} | {row['name']} | {seconds:.4g} | {evidence} | {error} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # numpy's, of particles
    small = options.small
    y = observations(20 if small else 50)
    n, num_inner = (16, 16) if small else (100, 100)
    many = 100 if small else 2000
    few = 50 if small else 200
    exact, learn = kalman(y, TRUE), learnt(y)
    rows = []
    for name, thunks, truth in (
        (f"SMC^2, {n} x {num_inner}, T = {len(y)}", squared(y, n, num_inner), learn),
        (f"PMMH, {num_inner} particles, 200 iterations", marginal(y, num_inner, 200), learn),
        (f"IBIS, n = {many}, T = {len(y)}", batches(y, many), mean_of_normals(y)),
        (
            f"persistent sampling, n = {few}, 12 temperatures",
            persistent(y, few, 12),
            mean_of_normals(y),
        ),
        (f"forward smoothing, n = {few}", smoothing(y, few, "exact"), exact),
        (f"PaRIS, n = {few}, two draws", smoothing(y, few, "paris"), exact),
    ):
        rows += measure(name, thunks, truth, options.repeats)
    header = ["| algorithm | library | seconds | log Z - exact ± sd | estimate - exact ± sd |"]
    header += ["|---|---|---|---|---|"]
    body = "\n".join([machine(), "", *header, *map(_line, rows), "", *ratios(rows)])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "smc_algorithms.json").write_text(json.dumps(rows, indent=1) + "\n")
    write_section(options.out / "RESULTS.md", "SMC algorithms", body)


def ratios(rows: list[dict]) -> list[str]:
    """Seconds of pfjax over those of the peer."""
    lines = []
    for a, b in zip(rows, rows[1:], strict=False):
        if a["name"] == "pfjax" and b["algorithm"] == a["algorithm"]:
            ratio = statistics.median(a["seconds"]) / statistics.median(b["seconds"])
            lines.append(f"- {a['algorithm']}: {ratio:.3g} of the time of {b['name']}.")
    return lines


if __name__ == "__main__":
    main()
