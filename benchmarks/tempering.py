"""Adaptive tempering beside blackjax on blackjax's own normalising-constant case, in one process.

    python benchmarks/tempering.py            writes tempering.json and its section of RESULTS.md
    python benchmarks/tempering.py --small    a few runs, to see that it works

Prior N(0, I), likelihood N(0; x, C) in two dimensions with the C of blackjax's test, 200 particles,
ten transitions of HMC a step. blackjax's kernel (step 0.1, 10 leapfrogs) is unstable where C is
narrowest, so that its last moves are all rejected; everything is repeated with one that is not (0.04,
25 leapfrogs). A fixed schedule is one that pfjax found with 2000 particles; rules play no part in it.
For the same target blackjax takes more temperatures, since it chooses them from the particles before
they move and without their weights; 0.94 and 0.83 are the targets at which both take as many.

Needs blackjax, which also has the HMC for both.
"""

import argparse
import json
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import extend_params, resampling
from results import machine, write_section

from pfjax import smc

HERE = Path(__file__).parent
NUM_PARTICLES, NUM_TRANSITIONS, MAX_STEPS = 200, 10, 40
KERNELS = {"blackjax's test": (0.1, 10), "stable": (0.04, 25)}
RULES = {"conditional": smc.conditional_ess, "ESS after": smc.ess_after}
RESAMPLERS = {"every step": smc.systematic, "ESS < n/2": smc.adaptive_systematic}
# Beside .9: what takes pfjax as many steps as blackjax's .9, and blackjax as many as pfjax's .9.
OURS = [("conditional", "every step", 0.9), ("conditional", "ESS < n/2", 0.9)]
OURS += [("ESS after", "ESS < n/2", 0.9), ("conditional", "every step", 0.94)]
OURS += [("conditional", "ESS < n/2", 0.94)]
THEIRS = [0.9, 0.83]


def covariance() -> np.ndarray:
    """C of `NormalizingConstantTest`, tests/smc/test_tempered_smc.py of blackjax, in float64."""
    key = jax.random.split(jax.random.key(2356))[1]
    root = np.tril(np.asarray(jax.random.uniform(key, (2, 2), jnp.float32), float))
    return root @ root.T


COVARIANCE = covariance()
PRECISION = np.linalg.inv(COVARIANCE)
EXACT = -0.5 * np.linalg.slogdet(np.eye(2) + COVARIANCE)[1] - np.log(2 * np.pi)


def log_prior(x: jax.Array) -> jax.Array:
    return -0.5 * (x[0] ** 2 + x[1] ** 2) - float(np.log(2 * np.pi))


def log_likelihood(x: jax.Array) -> jax.Array:
    (a, b), (_, c) = PRECISION.tolist()
    scale = -0.5 * np.linalg.slogdet(COVARIANCE)[1] - np.log(2 * np.pi)
    return -0.5 * (a * x[0] ** 2 + 2 * b * x[0] * x[1] + c * x[1] ** 2) + float(scale)


def hmc(step_size: float, num_leapfrogs: int) -> smc.Kernel:
    """Ten transitions with one evaluation at the start, as in blackjax's samplers."""

    def kernel(key, x, log_density):
        one = blackjax.hmc(log_density, step_size, jnp.ones(2), num_leapfrogs)

        def advance(state, key):
            state, info = one.step(key, state)
            return state, info.acceptance_rate

        state, rates = jax.lax.scan(advance, one.init(x), jax.random.split(key, NUM_TRANSITIONS))
        return state.position, smc.KernelInfo(jnp.mean(rates), jnp.float32(step_size))

    return kernel


def pfjax_adaptive(kernel: smc.Kernel, rule: str, resampler: str, fraction: float):
    """key -> (log Z, number of temperatures), and the temperatures of one run."""
    posterior = smc.Posterior(lambda k: jax.random.normal(k, (2,)), log_prior, log_likelihood)
    move = smc.resample_move(kernel, RESAMPLERS[resampler])
    algorithm = smc.adaptive_tempering(
        posterior, NUM_PARTICLES, move, fraction=fraction, rule=RULES[rule]
    )

    def run(key):
        state, infos = smc.run_until(key, algorithm, smc.at_posterior, MAX_STEPS)
        rates = infos.kernel.acceptance_rate.mean(-1)
        return state.log_evidence, state.t + 1, state.t, rates[state.t]

    return run


def pfjax_fixed(kernel: smc.Kernel, resampler: str, schedule: jax.Array):
    posterior = smc.Posterior(lambda k: jax.random.normal(k, (2,)), log_prior, log_likelihood)
    move = smc.resample_move(kernel, RESAMPLERS[resampler])
    algorithm = smc.tempering(posterior, NUM_PARTICLES, schedule, move)

    def run(key):
        state, infos = smc.run(key, algorithm, schedule.size)
        last = infos.kernel.acceptance_rate[-1].mean()
        return state.log_evidence, state.t + 1, state.t, last

    return run


def blackjax_run(kernel: tuple[float, int], target: float | None, schedule=None):
    """Adaptive for a target ESS, or along a schedule."""
    step_size, num_leapfrogs = kernel
    parameters = extend_params(
        {
            "step_size": step_size,
            "inverse_mass_matrix": jnp.ones(2),
            "num_integration_steps": num_leapfrogs,
        }
    )
    parts = log_prior, log_likelihood, blackjax.hmc.build_kernel(), blackjax.hmc.init, parameters
    if schedule is None:
        sampler = blackjax.adaptive_tempered_smc(
            *parts, resampling.systematic, target, num_mcmc_steps=NUM_TRANSITIONS
        )
    else:
        sampler = blackjax.tempered_smc(*parts, resampling.systematic, NUM_TRANSITIONS)

    def run(key):
        k_init, k_run = jax.random.split(key)
        state = sampler.init(jax.random.normal(k_init, (NUM_PARTICLES, 2)))
        state = state._replace(tempering_param=jnp.float32(0))

        def advance(carry):
            i, state, log_z, _ = carry
            at = () if schedule is None else (schedule[i],)
            state, info = sampler.step(jax.random.fold_in(k_run, i), state, *at)
            rate = info.update_info.acceptance_rate.mean()
            return i + 1, state, log_z + info.log_likelihood_increment, rate

        def unfinished(carry):
            return (carry[1].tempering_param < 1) & (carry[0] < MAX_STEPS)

        start = (jnp.int32(0), state, jnp.float32(0), jnp.float32(0))
        steps, _, log_z, rate = jax.lax.while_loop(unfinished, advance, start)
        return log_z, steps, steps, rate

    return run


def measured(name: str, run, num_runs: int, kernel: tuple[float, int]) -> dict:
    """A row of the table; likelihoods are those evaluated without a gradient."""
    keys = jax.random.split(jax.random.key(1), num_runs)
    log_z, steps, moves, rate = (np.asarray(a, float) for a in jax.jit(jax.vmap(run))(keys))
    # blackjax weighs, and its rule evaluates the particles once more; pfjax keeps what it knows.
    likelihoods = NUM_PARTICLES * (
        (2 - ("fixed" in name)) * steps if name.startswith("blackjax") else steps
    )
    row = {
        "name": name,
        "runs": num_runs,
        "bias": log_z.mean() - EXACT,
        "sd": log_z.std(ddof=1),
        "steps": steps.mean(),
        "gradients": (moves * NUM_PARTICLES * (1 + NUM_TRANSITIONS * kernel[1])).mean(),
        "likelihoods": likelihoods.mean(),
        "last acceptance": rate.mean(),
    }
    print(_line(row), flush=True)
    return row


def found_schedule(kernel: smc.Kernel, fraction: float) -> jax.Array:
    """The temperatures that one adaptive run finds, resampling at every step."""
    posterior = smc.Posterior(lambda k: jax.random.normal(k, (2,)), log_prior, log_likelihood)
    move = smc.resample_move(kernel, smc.systematic)
    algorithm = smc.adaptive_tempering(posterior, 10 * NUM_PARTICLES, move, fraction=fraction)
    found = []
    for state, _ in smc.iterate(jax.random.key(5), algorithm, MAX_STEPS):
        found.append(float(state.particles.inverse_temperature[0]))
        if found[-1] == 1:
            break
    return jnp.asarray(found, jnp.float32)


def rows_of(kernel: tuple[float, int], num_runs: int, small: bool) -> list[dict]:
    """Every contender with one HMC kernel; the first of each library if small."""
    ours, runs = hmc(*kernel), {}
    for rule, resampler, fraction in OURS[: 1 if small else None]:
        run = pfjax_adaptive(ours, rule, resampler, fraction)
        runs[f"pfjax, {rule} {fraction}, {resampler}"] = run
    for target in THEIRS[: 1 if small else None]:
        runs[f"blackjax, {target}, every step"] = blackjax_run(kernel, target)
    if not small:
        schedule = found_schedule(ours, 0.9)
        for resampler in RESAMPLERS:
            runs[f"pfjax, fixed, {resampler}"] = pfjax_fixed(ours, resampler, schedule)
        runs["blackjax, fixed, every step"] = blackjax_run(kernel, None, schedule)
    return [measured(name, run, num_runs, kernel) for name, run in runs.items()]


def table(report: dict) -> str:
    header = "| bias of log Z | sd | temperatures | gradients | likelihoods | last acceptance |"
    lines = [
        report["machine"],
        "",
        f"log Z = {report['exact']:.4f}. {__doc__.split(chr(10) * 2)[2]}",
    ]
    for name, rows in report["kernels"].items():
        error = rows[0]["runs"]
        lines += ["", f"| HMC: {name}, {error} runs " + header, "|---|---|---|---|---|---|---|"]
        lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _line(row: dict) -> str:
    standard_error = row["sd"] / row["runs"] ** 0.5
    return (
        f"| {row['name']} | {row['bias']:+.4f} ± {standard_error:.4f} | "
        f"{row['sd']:.4f} ± {row['sd'] / (2 * row['runs']) ** 0.5:.4f} | {row['steps']:.1f} | "
        f"{row['gradients']:.3g} | {row['likelihoods']:.3g} | {row['last acceptance']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    num_runs = 4 if options.small else options.runs
    names = list(KERNELS)[:1] if options.small else KERNELS
    report = {
        "machine": machine(),
        "exact": EXACT,
        "kernels": {name: rows_of(KERNELS[name], num_runs, options.small) for name in names},
    }
    body = table(report)
    print(body)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tempering.json").write_text(json.dumps(report, indent=1) + "\n")
    write_section(options.out / "RESULTS.md", "Adaptive tempering", body)


if __name__ == "__main__":
    main()
