"""What one round of distillation gains: the Distillation section of benchmarks/RESULTS.md.

python benchmarks/distil.py              the recipe, resumable in runs/distil; distil.json and the section
python benchmarks/distil.py --render     the section again, from distil.json
"""

import argparse
import json
from pathlib import Path

from results import machine, write_section

from pfjax.recipes import distil

HERE = Path(__file__).parent


def body(found: dict) -> str:
    """Accuracy on held-out problems before and after, with 95 % intervals."""
    metrics, rows = found["metrics"], []
    for name in [key.removesuffix(" before") for key in metrics if key.endswith(" before")]:
        before, after = metrics[f"{name} before"], metrics[f"{name} after"]
        kind = "accuracy" if "accuracy" in before else "pass@1"
        gain = 100 * (after[kind] - before[kind])
        shown = " | ".join(_interval(m, kind) for m in (before, after))
        rows.append(f"| {name} | {shown} | {gain:+.1f} |")
    problems = metrics["pass@1 at temperature 1.0 before"]["problems"]
    lines = [
        f"`pfjax train distil`: {metrics['problems searched']} problems searched with 16 particles at temperature 0.5, "
        f"{metrics['solutions']} distinct solutions; {problems} held-out problems, {found['machine']}",
        "",
        "| | before | after | points |",
        "|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines)


def _interval(metrics: dict, kind: str) -> str:
    low = metrics.get(f"{kind} 95% low", metrics.get("95% low"))
    high = metrics.get(f"{kind} 95% high", metrics.get("95% high"))
    return f"{metrics[kind]:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--render", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/distil"))
    options = parser.parse_args()
    path = HERE / "distil.json"
    if not options.render:
        metrics = distil.distil.run(
            options.out, lambda step, steps, row: print(step, row, flush=True)
        )
        path.write_text(
            json.dumps({"metrics": metrics, "machine": machine()}, indent=1, default=float) + "\n"
        )
    text = body(json.loads(path.read_text()))
    print(text)
    write_section(HERE / "RESULTS.md", "Distillation", text)


if __name__ == "__main__":
    main()
