"""The engine beside transformers and its-hub, and how its costs grow.

    python benchmarks/engine.py                       writes engine.json, engine.png and the Engine section
    python benchmarks/engine.py --only growth rows    those parts; the others stay as engine.json has them

Every part runs in a process of its own. Parts whose peer is missing are left out. --repeats is for
the parts that take seconds, --long-repeats for those that take minutes (transformers, its-hub).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from engine_parts import PARTS
from results import machine, write_section

HERE = Path(__file__).parent
# The other parts run on one device, whose products use all cores.
ON_ALL_DEVICES = ("its-hub",)
STEEPEST, LEAST_USED, MOST_READ = 1.1, 0.70, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long-repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cores = len(os.sched_getaffinity(0))
    if options.child:
        return run_child(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "engine.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for part in options.only:
        print(part, flush=True)
        report[part] = measured(part, options)
        path.write_text(json.dumps(report, indent=1) + "\n")
    body = "\n\n".join(
        [machine(), *("\n".join(TABLES[p](report[p])) for p in PARTS if p in report)]
    )
    print(body)
    write_section(options.out / "RESULTS.md", "Engine", body)
    if "lines" in report.get("growth", {}):
        plot(report["growth"], options.out / "engine.png")


def measured(part: str, options: argparse.Namespace) -> dict:
    """What a process of its own finds."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        numbers = ["--repeats", options.repeats, "--long-repeats", options.long_repeats]
        command = [sys.executable, __file__, "--only", part, "--child", found, *numbers]
        subprocess.run([str(word) for word in command], check=True)
        return json.loads(found.read_text())


def run_child(options: argparse.Namespace) -> None:
    """One part, into the file that --child names."""
    (part,) = options.only
    if part in ON_ALL_DEVICES:
        jax.config.update("jax_num_cpu_devices", options.cores)
    try:
        found = PARTS[part](options)
        found["load"] = os.getloadavg()[0]
    except ModuleNotFoundError as error:
        found = {"missing": error.name}
        print(f"  {error.name} is missing: left out", flush=True)
    options.child.write_text(json.dumps(found | {"machine": machine()}))


def half_billion(found: dict) -> list[str]:
    if "missing" in found:
        return [f"transformers: left out, {found['missing']} is not installed."]
    median = {r["name"]: statistics.median(r["seconds"]) for r in found["rows"]}
    ours = [median["pfjax, float32"], median["pfjax, bfloat16"]]
    lines = [
        "Half a billion random weights each (Qwen2), N = 16, 128 prompt tokens, 8 steps of 32 tokens, "
        f"{_runs(found['rows'])}; pfjax's lower bound in float32 {found['lower bound']:.1f} s:",
        "",
        "| search | seconds | / pfjax, float32 | / pfjax, bfloat16 | policy tokens | PRM tokens |",
        "|---|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        seconds = median[r["name"]]
        first = "" if r["first"] is None else f" (first run, with compilation, {r['first']:.1f})"
        tokens = f"{r['policy tokens']} | {r['prm tokens']}"
        ratios = " | ".join(f"{seconds / our:.2f}" for our in ours)
        lines.append(f"| {r['name']} | {seconds:.1f}{first} | {ratios} | {tokens} |")
    return lines


def its_hub(found: dict) -> list[str]:
    if "missing" in found:
        return [f"its-hub: left out, {found['missing']} is not installed."]
    ours = {r["n"]: r for r in found["rows"] if r["name"] == "pfjax"}
    lines = [
        f"Embedded pair, its-hub's particle filter on transformers, {_runs(found['rows'])}:",
        "",
        "| search | N | problems | right | seconds a problem | / pfjax | / lower bound of pfjax |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        own, seconds = ours[r["n"]], statistics.median(r["seconds"])
        ratios = f"{seconds / statistics.median(own['seconds']):.1f} | {seconds / own['lower bound']:.1f}"
        row = f"{r['name']} | {r['n']} | {r['problems']} | {r['right']:.2f} | {seconds:.4f}"
        lines.append(f"| {row} | {ratios} |")
    return lines


def prm_tokens(found: dict) -> list[str]:
    ratio = found["ours"] / found["whole"]
    steps = statistics.mean(found["generations"])
    return [
        f"PRM tokens of {found['problems']} problems at N = 16, {steps:.1f} generations on average "
        f"({min(found['generations'])} to {max(found['generations'])}): {found['ours']} with prompts and "
        f"probes; {found['whole']} if every prefix were read whole. Ratio {ratio:.3f}, wanted at most "
        f"{MOST_READ}: {_verdict(ratio <= MOST_READ)}."
    ]


def growth(found: dict) -> list[str]:
    lines = [
        "Seconds a call of the embedded pair as size^slope, fitted on both logarithms; slope wanted at "
        f"most {STEEPEST}:",
        "",
        "| size | from | to | slope | slope of the upper half | |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in found["lines"].items():
        slope, upper = fitted(points)[0], fitted(points[len(points) // 2 :])[0]
        seconds = [statistics.median(p["seconds"]) for p in points]
        ends = [f"{points[i]['size']} ({seconds[i]:.3f} s)" for i in (0, -1)]
        verdict = _verdict(max(slope, upper) <= STEEPEST)
        lines.append(f"| {name} | {ends[0]} | {ends[1]} | {slope:.2f} | {upper:.2f} | {verdict} |")
    return lines


def rows_used(found: dict) -> list[str]:
    some = found["rows"][-1]
    lines = [
        f"Rows used: tokens written per row decoded, steps of {some['mean']:.0f} +- "
        f"{some['deviation']:.0f} tokens, 128 at most, 32 particles, no PRM; wanted at least {LEAST_USED}:",
        "",
        "| problems | tokens | rows decoded | used | |",
        "|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        verdict = _verdict(r["used"] >= LEAST_USED)
        lines.append(
            f"| {r['name']} | {r['tokens']} | {r['decoded']} | {r['used']:.2f} | {verdict} |"
        )
    return lines


TABLES = dict(zip(PARTS, (half_billion, its_hub, prm_tokens, growth, rows_used), strict=True))


def fitted(points: list[dict]) -> np.ndarray:
    """(slope, offset) of log seconds against log size."""
    size = [p["size"] for p in points]
    return np.polyfit(np.log(size), np.log([statistics.median(p["seconds"]) for p in points]), 1)


def plot(found: dict, path: Path) -> None:
    """Seconds against each size, both axes logarithmic, with the fitted lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = found["lines"]
    figure, panels = plt.subplots(1, len(lines), figsize=(13, 4.5), layout="constrained")
    for axes, (name, points) in zip(panels, lines.items(), strict=True):
        size = np.array([p["size"] for p in points])
        seconds = np.array([p["seconds"] for p in points])
        middle = np.median(seconds, axis=1)
        spread = [middle - seconds.min(1), seconds.max(1) - middle]
        axes.errorbar(size, middle, spread, marker="o", ls="", capsize=3, label="median, range")
        slope, offset = fitted(points)
        axes.plot(size, np.exp(offset) * size**slope, label=f"slope {slope:.2f}")
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds a call")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _runs(rows: list[dict]) -> str:
    count = len(rows[0]["seconds"])
    return "one run each" if count == 1 else f"median of {count} runs"


def _verdict(met: bool) -> str:
    return "met" if met else "not met"


if __name__ == "__main__":
    main()
