"""Decoding, scoring and resampling of 7B models on one GPU against its own ceilings, and a peer.

    python benchmarks/gpu.py              writes gpu.json and the GPU section of RESULTS.md, in 9 minutes
    python benchmarks/gpu.py --small      tiny models, on a CPU within a minute, to see that it runs
    python benchmarks/gpu.py --render     the section again, from gpu.json

Random weights of the shape of Qwen2.5-7B and Qwen2.5-Math-PRM-7B in bfloat16, 32 particles a problem,
a prompt of 128 tokens, caches of 512 columns, steps of 64 tokens. The share of bandwidth counts what
an iteration must read (layers, head, allocated cache columns) at the measured copy rate; that of the
product rate counts two operations a weight and token. Medians of 5. Each run has a process of its
own: one that fails or outlasts its time costs its own parts. Variants are set by XLA_FLAGS.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PEER_SECONDS = 150
PEER = "peer"
FLAGS = {
    "WHILE": "--xla_gpu_enable_command_buffer=+WHILE",
    "no Triton GEMM": "--xla_gpu_enable_triton_gemm=false",
}


class Run(NamedTuple):
    """Parts of one process; `kept` seconds are left to later ones, `least` are needed to begin."""

    variant: str
    parts: tuple[str, ...]
    kept: int = 0
    least: int = 30


def main() -> None:
    options = _options()
    if options.child is not None:
        _child(options)
        return
    if options.render:
        report = json.loads((options.out / "gpu.json").read_text())
    else:
        report = measure(options)
    from gpu_table import body
    from results import write_section

    text = body(report)
    print(text, flush=True)
    if not options.small or options.out != HERE:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        write_section(options.out / "RESULTS.md", f"Engine on {text.split(' (')[0]}", text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--budget", type=float, default=520, help="seconds for all of it")
    parser.add_argument("--only", default="", help="part of the names of parts, variants or peer")
    parser.add_argument("--variant", default=None, choices=FLAGS, help="only this variant")
    parser.add_argument("--peer", action="store_true", help="only the peer")
    parser.add_argument("--hlo", type=Path, help="folder for compiled programs")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=HERE)
    for name in ("--child", "--parts", "--shape"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(options: argparse.Namespace) -> None:
    if options.child != PEER:
        from gpu_parts import run_child

        run_child(options)
        return
    from gpu_peer import run_peer

    run_peer(options)


def runs(options: argparse.Namespace) -> list[Run]:
    """What is measured, the most important first; the peer and WHILE have their time kept."""
    from gpu_parts import PARTS

    decode = "decode bf16 x 32", "decode int8 x 32"
    parts = tuple(PARTS)
    if options.small:
        parts = tuple(part for part in parts if not part.endswith(("x 128", "x 256")))
    planned = [
        Run("", parts, kept=80 + PEER_SECONDS - 20),
        Run("WHILE", decode, kept=PEER_SECONDS - 20, least=70),
        Run(PEER, ("transformers eager x 32", "transformers compiled x 32"), least=50),
        Run("", parts),
        Run("no Triton GEMM", decode[:1], least=60),
    ]
    planned = planned[:-1] if options.small else planned
    wanted = PEER if options.peer else options.variant
    if wanted:
        planned = [run for run in planned if run.variant == wanted]
    named = [
        run._replace(parts=tuple(p for p in run.parts if options.only in f"{p} {run.variant}"))
        for run in planned
    ]
    return [run for run in named if run.parts]


def measure(options: argparse.Namespace) -> dict:
    """Rows of all runs, and the parts that were skipped."""
    from gpu_models import BUDGET, PROMPT, SMALL_BUDGET, sizes

    options.began = time.time()
    budget = SMALL_BUDGET if options.small else BUDGET
    options.shape = json.dumps(
        {
            "sizes": sizes(options.small),
            "there": PROMPT + budget.max_tokens - budget.step_tokens,
            "new": budget.step_tokens,
        }
    )
    rows, done, planned = [], set(), runs(options)
    with tempfile.TemporaryDirectory() as scratch:
        for run in planned:
            left = [p for p in run.parts if (run.variant, p) not in done]
            while left:
                found = _run(options, run, left, Path(scratch))
                if found is None:
                    break
                rows += found
                done |= {(row["variant"], row["part"]) for row in found if "part" in row}
                left = [p for p in left if (run.variant, p) not in done]
                if not found or not found[-1].get("died"):
                    break
    machine = next((row["machine"] for row in rows if "machine" in row), "no device answered")
    wanted = dict.fromkeys((run.variant, part) for run in planned for part in run.parts)
    return {
        "machine": machine,
        "seconds": time.time() - options.began,
        "rows": [row for row in rows if "part" in row],
        "skipped": [" ".join(f"{p} {v}".split()) for v, p in wanted if (v, p) not in done],
    }


def _run(options: argparse.Namespace, run: Run, parts: list[str], scratch: Path):
    """Rows of one process, the last one an error if it died; None if there is no time."""
    end = options.began + options.budget
    until = end - run.kept if run.variant != PEER else min(end, time.time() + PEER_SECONDS)
    if until - time.time() < (0 if options.small else run.least):
        return None
    log = scratch / "log"
    log.write_text("")
    command = [sys.executable, str(HERE / "gpu.py"), "--child", run.variant, "--log", str(log)]
    command += ["--parts", ";".join(parts), "--shape", options.shape]
    command += ["--until", str(until), "--began", str(options.began)]
    command += ["--small"] if options.small else []
    command += ["--hlo", str(options.hlo)] if options.hlo else []
    print(f"{time.time() - options.began:6.1f} s  process: {run.variant or 'pfjax'}", flush=True)
    child = subprocess.Popen(
        command, env=_environment(options, run, scratch), start_new_session=True
    )
    try:
        code = child.wait(timeout=max(until + min(30, run.kept) - time.time(), 1))
        reason = f"the process ended with status {code}"
    except subprocess.TimeoutExpired:
        code, reason = 1, "out of time"
    finally:
        # Workers of torch.compile share the session that was started here.
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    found = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    begun = [part for part in parts if part not in {row.get("part") for row in found}]
    if code and begun:
        row = {"part": begun[0], "variant": run.variant, "error": reason, "died": True}
        print(f"{time.time() - options.began:6.1f} s  {row}", flush=True)
        found.append(row)
    return found


def _environment(options: argparse.Namespace, run: Run, scratch: Path) -> dict[str, str]:
    """Flags of the variant; what was autotuned once is kept for later processes."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS.get(run.variant, '')}".strip()
    changed = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    if options.small:
        changed["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    else:
        changed["JAX_COMPILATION_CACHE_DIR"] = str(scratch / "compiled")
    return os.environ | changed


if __name__ == "__main__":
    main()
