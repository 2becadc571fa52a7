"""Seconds, compilations and memory of 500 problems x 16 particles, warm, against a FLOP lower
bound.

    python benchmarks/speed.py                    writes the Speed section of benchmarks/RESULTS.md

The lower bound counts two operations a weight for every token that was sampled or read by the PRM (no
padding, no attention) at the rate of a large float32 matrix product measured in the same process.
"""

import argparse
import os
import resource
import statistics
import time
from pathlib import Path

import jax
from results import machine, write_section

import pfjax
from pfjax import models
from pfjax.bench import count_weights, matmul, search_operations
from pfjax.tasks import orchard

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    solver = pfjax.load(mesh=models.problem_mesh())
    questions = [orchard.generate(i, "test").question for i in range(options.problems)]
    began = time.perf_counter()
    solver.solve(questions, options.particles)
    first = time.perf_counter() - began
    times = []
    for key in range(options.repeats):
        began = time.perf_counter()
        results = solver.solve(questions, options.particles, key)
        times.append(time.perf_counter() - began)
        print(f"run {key}: {times[-1]:.1f} s", flush=True)
    policy_tokens = sum(r.counts.policy_tokens for r in results)
    prm_tokens = sum(r.counts.prm_tokens for r in results)
    assert solver.prm is not None
    weights = count_weights(solver.policy.decoder), count_weights(solver.prm.module)
    flops = search_operations(policy_tokens, prm_tokens, *weights)
    rate, median = matmul(2048).per_second, statistics.median(times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    body = "\n".join(
        [
            machine(),
            "",
            f"{options.problems} problems x {options.particles} particles, policy and PRM, everything counted:",
            "",
            "| figure | value |",
            "|---|---|",
            f"| median of {options.repeats} warm runs | {median:.1f} s (min {min(times):.1f}, max {max(times):.1f}) |",
            f"| first run, with compilation | {first:.1f} s |",
            f"| compilations of jitted entry points | {solver.compilations()} |",
            f"| peak resident memory | {memory:.2f} GiB |",
            f"| policy tokens, PRM tokens | {policy_tokens}, {prm_tokens} |",
            f"| needed matrix operations | {flops / 1e12:.2f} TFLOP |",
            f"| float32 matrix product here | {rate / 1e9:.0f} GFLOP/s |",
            f"| lower bound | {flops / rate:.1f} s; measured is {median * rate / flops:.1f}x |",
        ]
    )
    print(body)
    write_section(HERE / "RESULTS.md", "Speed", body)


if __name__ == "__main__":
    main()
