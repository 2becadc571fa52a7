"""Resampling and the bootstrap filter beside blackjax and particles, in one process.

    python benchmarks/smc.py            writes smc.json, smc.png and the SMC section of RESULTS.md
    python benchmarks/smc.py --small    in seconds, to see that it runs

Medians of 5 calls, the contenders taking turns, each call after one that is not timed: the first
after another's turn pays for pages and caches that the other took. pfjax takes log-weights and
draws with one key per particle; blackjax takes linear float32 weights, particles linear float64
ones. The lower bound is the memory traffic that no method avoids at the copy rate of this device.
On other devices than a CPU the files carry the platform's name. Peers that are missing are skipped.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import smc_contenders as contenders
from results import machine, write_section

HERE = Path(__file__).parent
# Bytes per particle: read a weight, write an ancestor; read and write x, a log-weight, an ancestor.
NUM_STEPS = 200
BYTES = {"resample": 8, "filter": 2 * (8 + 4 + 4)}
GOALS = (
    ("resample", "pfjax systematic", "particles systematic", 10**6, 1.0),
    ("resample", "pfjax systematic", "blackjax systematic", 10**6, 0.25),
    ("resample", "form: histogram", "particles systematic", 10**6, 1.0),
    ("resample", "form: histogram", "blackjax systematic", 10**6, 0.25),
    *(
        ("filter", f"pfjax, {kind}", f"{peer}, ordinary", n, goal)
        for kind, goal in (("elementwise", 0.5), ("ordinary", 1.0))
        for peer in ("blackjax", "particles")
        for n in (10**3, 10**4, 10**5)
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    # particles is fastest on one BLAS thread, which must be said before numpy is loaded.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if not one_thread.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | one_thread)
    counts = (100, 1000) if options.small else (10**4, 10**5, 10**6)
    num_steps = 20 if options.small else NUM_STEPS
    report = {
        "machine": machine(),
        "copy bytes per second": bandwidth(options.small),
        "steps": num_steps,
        "resample": resampling(counts, options.repeats),
        "filter": filters(
            counts if options.small else (10**3, *counts), num_steps, options.repeats
        ),
    }
    report["kalman"] = contenders.kalman(contenders.observations(num_steps))
    report["exponent"] = exponents(report["filter"])
    body = table(report)
    print(body)
    platform = jax.default_backend()
    suffix = "" if platform == "cpu" else f"-{platform}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"smc{suffix}.json").write_text(json.dumps(report, indent=1) + "\n")
    write_section(options.out / "RESULTS.md", f"SMC{suffix.replace('-', ' on ')}", body)
    plot(report, options.out / f"smc{suffix}.png")


def measure(thunks: contenders.Thunks, repeats: int, keep: bool = True) -> dict[str, dict]:
    """Seconds a call and results of each; a sample of a short function is a mean over 0.1 s."""
    rows, calls = {}, {}
    for name, thunk in thunks.items():
        jax.block_until_ready(thunk(0))
        began = time.perf_counter()
        jax.block_until_ready(thunk(0))
        calls[name] = max(1, round(0.1 / (time.perf_counter() - began)))
        rows[name] = {"seconds": [], "results": []}
    for seed in range(1, repeats + 1):
        for name, thunk in thunks.items():
            jax.block_until_ready(thunk(0))
            began = time.perf_counter()
            for _ in range(calls[name]):
                result = jax.block_until_ready(thunk(seed))
            rows[name]["seconds"].append((time.perf_counter() - began) / calls[name])
            rows[name]["results"] += [result] if keep else []
    return rows


def resampling(counts: tuple[int, ...], repeats: int) -> list[dict]:
    """Indices alone, from weights whose log is standard normal (ESS = 0.37 N)."""
    rows = []
    for n in counts:
        log_w = np.random.default_rng(1).normal(size=n)
        thunks = (
            contenders.pfjax_resamplers(log_w)
            | contenders.forms_of_systematic(log_w)
            | contenders.blackjax_resamplers(log_w)
            | contenders.particles_resamplers(log_w)
        )
        expected = n * np.exp(log_w) / np.exp(log_w).sum()
        for name, row in measure(thunks, repeats).items():
            copies = np.bincount(np.asarray(row["results"][-1]), minlength=n)
            excess = float(np.abs(copies - expected).max())
            rows.append({"name": name, "n": n, "seconds": row["seconds"], "|copies - N W|": excess})
        print("\n".join(_line(r) for r in rows[-len(thunks) :]), flush=True)
    return rows


def filters(counts: tuple[int, ...], num_steps: int, repeats: int) -> list[dict]:
    """The bootstrap filter; a million particles for the fastest alone."""
    y, rows = contenders.observations(num_steps), []
    for n in counts:
        thunks = contenders.pfjax_filters(y, n)
        if n < 10**6:
            thunks |= contenders.blackjax_filter(y, n) | contenders.particles_filter(y, n)
        else:
            thunks = {"pfjax, elementwise": thunks["pfjax, elementwise"]}
        for name, row in measure(thunks, repeats).items():
            log_z = [float(z) for z in row["results"]]
            rows.append({"name": name, "n": n, "seconds": row["seconds"], "log Z": log_z})
        print("\n".join(_line(r) for r in rows[-len(thunks) :]), flush=True)
    return rows


def bandwidth(small: bool) -> float:
    """Bytes read and written a second by a copy, from memory, that changes every number."""
    size = 10**6 if small else 10**8 if jax.default_backend() == "cpu" else 4 * 10**9
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda seed, x: x + seed)
    row = measure({"copy": lambda seed: copy(jnp.float32(seed), x)}, 5, keep=False)["copy"]
    return 2 * size / statistics.median(row["seconds"])


def exponents(rows: list[dict]) -> dict[str, float]:
    """Slope of log seconds on log N over all N, for those that ran the most particles."""
    found = {}
    for name in (r["name"] for r in rows if r["n"] == max(r["n"] for r in rows)):
        points = [(r["n"], statistics.median(r["seconds"])) for r in rows if r["name"] == name]
        found[name] = float(np.polyfit(*np.log(points).T, 1)[0])
    return found


def table(report: dict) -> str:
    """Markdown: machine, both tables, evidence, growth, goals."""
    rate = report["copy bytes per second"]
    lines = [report["machine"], "", f"Copy: {rate / 1e9:.1f} GB/s, read and written. Milliseconds:"]
    for section in BYTES:
        rows = report[section]
        counts = sorted({r["n"] for r in rows})
        title = "indices alone" if section == "resample" else f"T = {report['steps']}, d = 2"
        lines += ["", f"| {section}, {title} |" + "".join(f" N = {n:.0e} |" for n in counts)]
        lines += ["|---|" + "---|" * len(counts)]
        bounds = [lower_bound(report, section, n) for n in counts]
        lines += ["| lower bound |" + "".join(f" {b:.3g} |" for b in bounds)]
        for name in dict.fromkeys(r["name"] for r in rows):
            times = {
                r["n"]: 1e3 * statistics.median(r["seconds"]) for r in rows if r["name"] == name
            }
            cells = [f" {times[n]:.3g} |" if n in times else " |" for n in counts]
            lines.append(f"| {name} |" + "".join(cells))
    growth = [f"{k}: time grows as N^{v:.2f} over all N." for k, v in report["exponent"].items()]
    tail = (evidence(report), growth, goals(report))
    return "\n".join([*lines, *(line for part in tail for line in ("", *part))])


def lower_bound(report: dict, section: str, n: int) -> float:
    """Milliseconds to move what no method avoids."""
    steps = report["steps"] if section == "filter" else 1
    return 1e3 * n * steps * BYTES[section] / report["copy bytes per second"]


def evidence(report: dict) -> list[str]:
    """log Z against the exact value; z pools the variance c / N of all bootstrap filters."""
    rows = report["filter"]
    spread = np.mean([r["n"] * np.var(r["log Z"], ddof=1) for r in rows])
    lines = [
        f"log Z by the Kalman filter: {report['kalman']:.4f}. "
        f"Variance of one estimate: {spread:.0f} / N.",
        "",
        "| log Z | N | mean - exact | z, bias -variance/2 removed |",
        "|---|---|---|---|",
    ]
    for r in rows:
        variance = spread / r["n"]
        error = np.mean(r["log Z"]) - report["kalman"]
        z = (error + variance / 2) / np.sqrt(variance / len(r["log Z"]))
        lines.append(f"| {r['name']} | {r['n']} | {error:+.4f} | {z:+.1f} |")
    return lines


def goals(report: dict) -> list[str]:
    """Each goal with the ratio measured; goals against a peer that did not run are left out."""
    names = {r["name"] for section in ("resample", "filter") for r in report[section]}
    lines = [
        f"{peer} is not installed here: left out."
        for peer in ("blackjax", "particles")
        if not any(name.startswith(peer) for name in names)
    ]
    rows = []
    for section, ours, peer, n, wanted in GOALS if report["steps"] == NUM_STEPS else ():
        times = {(r["name"], r["n"]): statistics.median(r["seconds"]) for r in report[section]}
        if (ours, n) in times and (peer, n) in times:
            ratio = times[ours, n] / times[peer, n]
            verdict = "met" if ratio <= wanted else "not met"
            rows.append(f"| {ours} / {peer}, N = {n:.0e} | {wanted} | {ratio:.2f} | {verdict} |")
    header = ["| ratio of medians | goal | measured | |", "|---|---|---|---|"]
    return lines + (header + rows if rows else [])


def plot(report: dict, path: Path) -> None:
    """Milliseconds against N, both axes logarithmic, with the lower bounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
    for axes, section in zip(panels, BYTES, strict=True):
        rows = [r for r in report[section] if section == "filter" or "systematic" in r["name"]]
        for name in dict.fromkeys(r["name"] for r in rows):
            points = [(r["n"], statistics.median(r["seconds"])) for r in rows if r["name"] == name]
            n, seconds = np.array(points).T
            axes.loglog(n, 1e3 * seconds, marker="o", label=name)
        n = sorted({r["n"] for r in rows})
        bounds = [lower_bound(report, section, m) for m in n]
        axes.loglog(n, bounds, color="grey", ls="--", lw=1, label="lower bound")
        axes.set(title=section, xlabel="particles N", ylabel="milliseconds")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _line(row: dict) -> str:
    seconds = row["seconds"]
    return (
        f"{row['name']:42s} N = {row['n']:<8d} {1e3 * statistics.median(seconds):9.3f} ms "
        f"(min {1e3 * min(seconds):.3f}, max {1e3 * max(seconds):.3f})"
    )


if __name__ == "__main__":
    main()
