"""Accuracy against particles on 500 held-out orchard problems, all methods at the same number of
sampled solutions.

    python benchmarks/accuracy.py    writes benchmarks/accuracy.json, accuracy.png and the table in RESULTS.md

PF, best-of-N and majority with N particles sample N solutions each; the tokens columns show how
equal that makes them.
"""

import argparse
import json
import os
from pathlib import Path

import jax
from results import machine, write_section

import pfjax
from pfjax import models
from pfjax.evaluation.intervals import paired_difference
from pfjax.evaluation.orchard import measure_methods, measure_policy, measure_prm, measure_search
from pfjax.search.loading import EMBEDDED, resolve

HERE = Path(__file__).parent
BASELINES = ("best-of-n", "weighted-best-of-n", "majority")
METHODS = ("pf", *BASELINES)
COUNTS = (1, 2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    solver = pfjax.load(mesh=models.problem_mesh())
    rows = []
    for n in COUNTS:
        rows.append(measure_search(solver, particles=n, problems=options.problems))
        rows += measure_methods(solver, BASELINES, n, problems=options.problems)
        print("\n".join(_row(r) for r in rows[-4:]), flush=True)
    policies = {
        name: measure_policy(models.load_policy(resolve(name)), problems=options.problems)
        for name in ("embedded:small", "embedded:large")
    }
    assert solver.prm is not None
    prm = measure_prm(solver.prm, solver.policy, problems=options.problems)
    report = {"machine": machine(), "search": rows, "policies": policies, "prm": prm}
    (options.out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, options.out / "accuracy.png")
    write_section(options.out / "RESULTS.md", "Accuracy", table(report))
    write_section(EMBEDDED / "README.md", "Measured quality", quality(report))


def quality(report: dict) -> str:
    """Markdown: policies and PRM on held-out test problems."""
    lines = [
        report["machine"],
        "",
        "| policy | pass@1 (temperature 1) | 95 % interval | step accuracy |",
        "|---|---|---|---|",
    ]
    for name, p in report["policies"].items():
        low, high = p["pass@1 95% low"], p["pass@1 95% high"]
        lines.append(
            f"| {name} | {p['pass@1']:.3f} | {low:.3f}–{high:.3f} | {p['step accuracy']:.3f} |"
        )
    prm, samples = report["prm"], report["policies"]["embedded:small"]["samples"]
    lines += [
        "",
        f"{prm['problems']} test problems, {samples} samples each. PRM on samples of embedded:small:",
        f"step AUC {prm['step AUC']:.3f} over {prm['steps']} steps up to the first error (base rate",
        f"{prm['base rate']:.3f}), solution AUC {prm['solution AUC']:.3f}, "
        f"Brier score {prm['Brier score']:.3f}.",
    ]
    return "\n".join(lines)


def table(report: dict) -> str:
    """Markdown: quality, methods by N, paired differences to the better baseline."""
    lines = [
        quality(report),
        "",
        "| method | N | accuracy | 95 % interval | policy tokens | PRM tokens | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(r) for r in report["search"]]
    lines += [
        "",
        "| N | PF minus the better of best-of-N and majority (paired) | 95 % interval |",
        "|---|---|---|",
    ]
    found = {(r["method"], r["particles"]): r for r in report["search"]}
    for n in COUNTS:
        baselines = [found[m, n] for m in ("best-of-n", "majority")]
        best = max(baselines, key=lambda r: r["accuracy"])
        d, low, high = paired_difference(found["pf", n]["correct"], best["correct"])
        lines.append(f"| {n} | {d:+.3f} ({best['method']}) | {low:+.3f} to {high:+.3f} |")
    return "\n".join(lines)


def plot(report: dict, path: Path) -> None:
    """Accuracy against N with 95 % intervals; the large policy's pass@1 as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for shift, method in enumerate(METHODS):
        rows = [r for r in report["search"] if r["method"] == method]
        x = [r["particles"] * 2 ** (0.03 * (shift - 2)) for r in rows]
        y = [r["accuracy"] for r in rows]
        below = [r["accuracy"] - r["95% low"] for r in rows]
        above = [r["95% high"] - r["accuracy"] for r in rows]
        axes.errorbar(x, y, [below, above], marker="o", capsize=2, label=method, lw=1.5)
    large = report["policies"]["embedded:large"]["pass@1"]
    axes.axhline(large, color="grey", ls="--", lw=1, label="pass@1 of embedded:large")
    axes.set_xscale("log", base=2)
    axes.set_xticks(COUNTS, [str(n) for n in COUNTS])
    axes.set(xlabel="particles N", ylabel="accuracy", ylim=(0, 1))
    axes.set_title("embedded:small on 500 held-out orchard problems, 95 % intervals")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _row(r: dict) -> str:
    return (
        f"| {r['method']} | {r['particles']} | {r['accuracy']:.3f} | {r['95% low']:.3f}–{r['95% high']:.3f} "
        f"| {r['policy tokens']} | {r['prm tokens']} | {r['seconds']:.1f} |"
    )


if __name__ == "__main__":
    main()
