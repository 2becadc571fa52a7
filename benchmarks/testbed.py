"""What the embedded task can show, and what its PRM lets the search find.

    python benchmarks/testbed.py    writes benchmarks/testbed.json, testbed.png and the section in RESULTS.md

On held-out test problems, all comparisons paired: the filter beside independent samples with as many solutions,
under the embedded PRM, and under the exact checker with and without noise, which is the ceiling. Then the PRM as
the search sees it: among siblings, by kind of slip, and from one step to the next.
"""

import argparse
import json
import os
from pathlib import Path

import jax
from results import machine, write_section

import pfjax
from pfjax import models
from pfjax.evaluation import gain, prm
from pfjax.evaluation.checked import orchard, scored
from pfjax.evaluation.orchard import told_apart

HERE = Path(__file__).parent
NOISE = (0.0, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="embedded:small")
    parser.add_argument("--prm", default="embedded:prm")
    parser.add_argument("--split", default="test")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--counts", default="1,4,16,64")
    parser.add_argument("--ceiling-counts", default="4,16")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    pfjax.compilation_cache()
    problems = orchard(options.problems, options.split)
    solver = pfjax.load(options.policy, options.prm, mesh=models.problem_mesh())
    assert isinstance(solver.prm, models.PRM)
    report = {"machine": machine(), "problems": len(problems), "split": options.split}
    report["search"] = _compared("PRM", solver, problems, options.counts)
    report["ceiling"] = {
        str(noise): _compared(
            f"checker, noise {noise}",
            solver.with_prm(gain.checker(problems, noise)),
            problems,
            options.ceiling_counts,
        )
        for noise in NOISE
    }
    rows = scored(solver.solve([p.question for p in problems], 16, 1, method="best-of-n"), problems)
    report["siblings"], report["calibration"] = prm.siblings(rows), prm.calibration(rows)
    report["told apart"] = told_apart(solver.prm, split=options.split)
    report["bellman"] = prm.bellman(solver, problems)
    (options.out / "testbed.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, options.out / "testbed.png")
    write_section(options.out / "RESULTS.md", "The testbed", section(report))
    print(section(report))


def _compared(name: str, solver, problems, counts: str) -> dict:
    rows = gain.compare(solver, problems, [int(n) for n in counts.split(",")])
    for row in rows:
        print(f"{name}: {row['method']} {row['particles']} {row['accuracy']:.3f}", flush=True)
    return {"rows": rows, "differences": gain.differences(rows)}


def section(report: dict) -> str:
    """Markdown: accuracy by N under the PRM and under the checker, differences, and the PRM's measures."""
    lines = [
        report["machine"],
        "",
        f"{report['problems']} problems of the split {report['split']!r}.",
    ]
    lines += ["", "Under the embedded PRM:", "", *_accuracies(report["search"])]
    lines += ["", *_differences(report["search"])]
    for noise, found in report["ceiling"].items():
        lines += [
            "",
            f"Under the exact checker, verdicts turned round with probability {noise}:",
            "",
        ]
        lines += [*_accuracies(found), "", *_differences(found)]
    lines += ["", "PRM among siblings (same problem, same step; samples of the policy):", ""]
    lines += ["| slip | sibling AUC | 95 % interval | pairs |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {r['AUC']:.3f} | {r['low']:.3f}–{r['high']:.3f} | {r['pairs']} |"
        for kind, r in report["siblings"].items()
    ]
    lines += ["", "A slip put into a reference solution, told from the right step:", ""]
    lines += ["| slip | share | median margin | pairs |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {r['share']:.3f} | {r['median margin']:.1f} | {r['pairs']} |"
        for kind, r in report["told apart"].items()
    ]
    c, b = report["calibration"], report["bellman"]
    lines += [
        "",
        f"Brier score {c['Brier']:.3f}, expected calibration error {c['ECE']:.3f}, base rate {c['base rate']:.3f}. "
        f"Bellman error {b['rms']:.2f} (root mean square, {b['roll-outs']} roll-outs); by step, mean and root mean "
        "square: "
        + ", ".join(
            f"{int(t) + 1}: {r['mean']:+.2f}, {r['rms']:.2f}" for t, r in b["by step"].items()
        )
        + ".",
    ]
    return "\n".join(lines)


def _accuracies(found: dict) -> list[str]:
    counts = sorted({r["particles"] for r in found["rows"]})
    by = {(r["method"], r["particles"]): r for r in found["rows"]}
    lines = [
        "| | " + " | ".join(f"N = {n}" for n in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for name in dict.fromkeys(method for method, _ in by):
        cells = [
            f"{by[name, n]['accuracy']:.3f} ({by[name, n]['95% low']:.3f}–{by[name, n]['95% high']:.3f})"
            for n in counts
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    tokens = [
        f"{by[gain.PF, n]['policy tokens']} / {by['majority', n]['policy tokens']}" for n in counts
    ]
    return [*lines, "| policy tokens, pf / independent | " + " | ".join(tokens) + " |"]


def _differences(found: dict) -> list[str]:
    lines = ["| N | paired difference | | 95 % interval |", "|---|---|---|---|"]
    return lines + [
        f"| {d['particles']} | {d['of']} - {d['minus']} | {d['difference']:+.3f} "
        f"| {d['95% low']:+.3f} to {d['95% high']:+.3f} |"
        for d in found["differences"]
    ]


def plot(report: dict, path: Path) -> None:
    """Accuracy against N, under the PRM and under the exact checker."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    exact = report["ceiling"]["0.0"]
    for axes, found, title in zip(
        both, (report["search"], exact), ("embedded PRM", "exact checker"), strict=True
    ):
        rows = found["rows"]
        for name in dict.fromkeys(r["method"] for r in rows):
            mine = [r for r in rows if r["method"] == name]
            x, y = [r["particles"] for r in mine], [r["accuracy"] for r in mine]
            low = [r["accuracy"] - r["95% low"] for r in mine]
            high = [r["95% high"] - r["accuracy"] for r in mine]
            style = "--" if name.startswith("any") else ":" if name.startswith("argmax") else "-"
            axes.errorbar(x, y, [low, high], marker="o", ms=4, capsize=2, label=name, ls=style)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="particles N", title=title, ylim=(0, 1))
        axes.grid(alpha=0.3)
    both[0].set_ylabel("accuracy")
    both[1].legend(fontsize=8)
    figure.suptitle(f"{report['problems']} held-out problems, 95 % intervals")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
