"""What weights of fewer bits cost the embedded pair.

    python benchmarks/weight_formats.py            writes weight-formats.json and its section of RESULTS.md
    python benchmarks/weight_formats.py --small    in seconds, to see that it runs

Per token of held-out reference solutions: the divergence KL(float32 || format) of the small policy,
and how often the likeliest token changes. Per step of the small policy's samples: how far the PRM's
log-odds move. Then the particle filter with both models in the format, 8 particles, on validation
problems. Where the format computes in bfloat16 the filter is left out: such loops are slow on CPUs.
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from results import machine, write_section

import pfjax
from pfjax import models
from pfjax.evaluation.orchard import measure_search
from pfjax.search.loading import resolve
from pfjax.tasks import generate

HERE = Path(__file__).parent
FORMATS = {
    "float32": {},
    "bfloat16": {"dtype": jnp.bfloat16},
    "int8": {"weight_format": "int8"},
    "fp8": {"weight_format": "fp8"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    count, held_out = (8, 8) if options.small else (500, 500)
    exact, rows = None, []
    for name, how in FORMATS.items():
        policy = models.load_policy(resolve("embedded:small"), **how)
        prm = models.load_prm(resolve("embedded:prm"), **how)
        logp, margins = token_log_probs(policy, count), step_margins(prm, count)
        if exact is None:
            exact = logp, margins
        row = compare(*exact, logp, margins)
        row["bytes"] = sum(np.asarray(x).nbytes for m in (policy, prm) for x in leaves(m))
        if "dtype" not in how:
            solver = pfjax.load(execution=pfjax.Execution(**how))
            row["PF@8"] = measure_search(
                solver, particles=8, split="validation", problems=held_out
            )["accuracy"]
        rows.append({"format": name} | row)
        print(rows[-1], flush=True)
    report = {"machine": machine(), "problems": count, "held out": held_out, "rows": rows}
    if not options.small:
        (options.out / "weight-formats.json").write_text(json.dumps(report, indent=1) + "\n")
        write_section(options.out / "RESULTS.md", "Weight formats", table(report))


def leaves(model) -> list:
    import jax

    return jax.tree.leaves(model.split[1])


def token_log_probs(policy: models.Policy, count: int) -> np.ndarray:
    """float32[tokens, vocabulary] of reference solutions, teacher-forced."""
    rows = []
    for i in range(count):
        problem = generate(i, "validation")
        start = models.Prompt().ids(policy.tokenizer, problem.question)
        ids = start + [t for step in problem.steps for t in policy.tokenizer.encode(step)]
        padded = np.zeros((1, 192), np.int32)
        padded[0, : len(ids)] = ids
        z = np.asarray(policy.logits(padded))[0, len(start) - 1 : len(ids) - 1].astype(np.float64)
        rows.append(
            z
            - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - z.max(-1, keepdims=True)
        )
    return np.concatenate(rows)


def step_margins(prm: models.PRM, count: int) -> np.ndarray:
    """Log-odds of every step of the reference solutions, each with one number changed in half."""
    values = []
    for i in range(count):
        problem = generate(i, "validation")
        steps = [step.strip() for step in problem.steps]
        if i % 2:
            k = i % len(steps)
            digits = [c for c in steps[k] if c.isdigit()]
            steps[k] = steps[k].replace(digits[-1], str((int(digits[-1]) + 3) % 10))
        values.append(np.asarray(prm.score(problem.question, steps), np.float64))
    return np.concatenate(values)


def compare(logp: np.ndarray, margins: np.ndarray, other: np.ndarray, moved: np.ndarray) -> dict:
    divergence = np.sum(np.exp(logp) * (logp - other), axis=-1)
    return {
        "KL": float(divergence.mean()),
        "tokens changed": float((logp.argmax(-1) != other.argmax(-1)).mean()),
        "log-odds moved": float(np.abs(margins - moved).mean()),
        "verdicts changed": float(((margins > 0) != (moved > 0)).mean()),
    }


def table(report: dict) -> str:
    lines = [report["machine"], "", f"{report['problems']} problems; PF@8 on {report['held out']}."]
    lines += [
        "",
        "| format | MB, both | KL per token | likeliest token changed | PRM log-odds moved | verdict changed | PF@8 |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for r in report["rows"]:
        accuracy = f"{r['PF@8']:.3f}" if "PF@8" in r else ""
        lines.append(
            f"| {r['format']} | {r['bytes'] / 1e6:.2f} | {r['KL']:.2e} | {r['tokens changed']:.2%} | "
            f"{r['log-odds moved']:.3f} | {r['verdicts changed']:.2%} | {accuracy} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
