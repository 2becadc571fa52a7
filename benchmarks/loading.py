"""Loading sharded safetensors beside `cp`: seconds and peak memory.

    python benchmarks/loading.py            writes loading.json and the "Loading" section of RESULTS.md
    python benchmarks/loading.py --small    in seconds, to see that it runs

A random Qwen2 checkpoint of about 1 GB in shards of 200 MB, bfloat16 on disk and in memory. Medians
of 5, files in the page cache, each load in a process of its own: the peak is its resident memory
above that of the same process before it loads, and loading begins after jax has started.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from results import machine, write_section
from safetensors.numpy import save_file

HERE = Path(__file__).parent
SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 28}
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
SHARD = 200 * 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load, options.devices)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        size = write(folder, SMALL if options.small else SIZES)
        rows: dict[str, list[dict]] = {"cp": [], "load": [], "load on 4 devices": []}
        for _ in range(options.repeats):
            rows["cp"].append({"seconds": copy(folder, Path(name) / "copy"), "peak": 0})
            rows["load"].append(in_process(folder, 1))
            rows["load on 4 devices"].append(in_process(folder, 4))
    report = {"machine": machine(), "bytes": size, "rows": rows}
    body = table(report)
    print(body)
    if not options.small:
        (options.out / "loading.json").write_text(json.dumps(report, indent=1) + "\n")
        write_section(options.out / "RESULTS.md", "Loading", body)


def write(folder: Path, sizes: dict) -> int:
    """A random checkpoint in shards; returns its bytes of weights."""
    from pfjax.search.loading import resolve

    folder.mkdir()
    embedded = resolve("embedded:small")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(embedded / name, folder)
    e, f = sizes["hidden_size"], sizes["intermediate_size"]
    fields = json.loads((embedded / "config.json").read_text()) | sizes
    fields |= {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": e // 16}
    (folder / "config.json").write_text(json.dumps(fields))
    shapes = {"model.embed_tokens.weight": (fields["vocab_size"], e), "model.norm.weight": (e,)}
    for i in range(sizes["num_hidden_layers"]):
        layer = {"mlp.gate_proj.weight": (f, e), "mlp.up_proj.weight": (f, e)}
        layer |= {"mlp.down_proj.weight": (e, f), "self_attn.o_proj.weight": (e, e)}
        for name, rows in (("q", e), ("k", e // 4), ("v", e // 4)):
            layer[f"self_attn.{name}_proj.weight"] = (rows, e)
            layer[f"self_attn.{name}_proj.bias"] = (rows,)
        layer |= {"input_layernorm.weight": (e,), "post_attention_layernorm.weight": (e,)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    draw, shards, held, total = np.random.default_rng(0), [], {}, 0
    weight_map = {}
    for name, shape in shapes.items():
        held[name] = draw.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        weight_map[name] = f"model-{len(shards):05d}.safetensors"
        if sum(x.nbytes for x in held.values()) > SHARD or name == list(shapes)[-1]:
            total += sum(x.nbytes for x in held.values())
            save_file(held, folder / f"model-{len(shards):05d}.safetensors")
            shards.append(len(held))
            held = {}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def copy(folder: Path, target: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def in_process(folder: Path, devices: int) -> dict:
    command = [sys.executable, __file__, "--load", str(folder), "--devices", str(devices)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def load(folder: Path, devices: int) -> dict:
    """Seconds and bytes of peak memory of one load in this process."""
    import jax
    import jax.numpy as jnp

    from pfjax import models

    mesh = models.make_mesh(1, devices) if devices > 1 else None
    jnp.zeros(8).block_until_ready()
    before = memory("VmRSS")
    began = time.perf_counter()
    policy = models.load_policy(folder, dtype=jnp.bfloat16, mesh=mesh)
    jax.block_until_ready(jax.tree.leaves(policy.split[1]))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": memory("VmHWM") - before}


def memory(field: str) -> int:
    """Bytes of this program, now or at most; getrusage's peak begins at that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def table(report: dict) -> str:
    size, rows = report["bytes"], report["rows"]
    lines = [report["machine"], "", f"{size / 1e9:.2f} GB of bfloat16 weights.", ""]
    lines += [
        "| | seconds | GB/s | of cp's speed | peak memory / weights |",
        "|---|---|---|---|---|",
    ]
    base = statistics.median(r["seconds"] for r in rows["cp"])
    for name, runs in rows.items():
        seconds = statistics.median(r["seconds"] for r in runs)
        peak = max(r["peak"] for r in runs) / size
        cells = f"{seconds:.3f} | {size / seconds / 1e9:.2f} | {base / seconds:.2f}"
        lines.append(f"| {name} | {cells} | {'' if name == 'cp' else f'{peak:.2f}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
