"""Deliberate faults in pfjax.smc, each of which tests that are not exhaustive must see.

    python tests/mutants.py [words of a name ...]

Copies the tree into a temporary folder, makes one fault after the other there, and runs the tests
named beside it; a fault that they survive, or whose place is not found, is reported and exits 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """`old`, which the file under smc/ has once, becomes `new`; `tests` under tests/smc must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str = "test_by_hand.py"


MUTANTS = [
    Mutant(
        "backward slots read t of the generation before",
        "backward.py",
        "state.particles, x_after, t_after)",
        "state.particles, x_after, state.t)",
    ),
    Mutant(
        "smoothing weights read t of the generation before",
        "backward.py",
        "state.particles, after.particles, after.t)",
        "state.particles, after.particles, state.t)",
    ),
    Mutant(
        "one key resamples and moves in a filter",
        "particle_filter.py",
        "keys = particle_keys(k_move, state.log_weights.shape[-1])",
        "keys = particle_keys(k_resample, state.log_weights.shape[-1])",
        "test_keys.py",
    ),
    Mutant(
        "one key resamples and moves in a sampler",
        "samplers.py",
        "keys = particle_keys(k_move, left.shape[-1])",
        "keys = particle_keys(k_resample, left.shape[-1])",
        "test_keys.py",
    ),
    Mutant(
        "one key filters and draws the path",
        "particle_gibbs.py",
        "slot = draw_slot(k_draw, state.log_weights)",
        "slot = draw_slot(k_filter, state.log_weights)",
        "test_keys.py",
    ),
    Mutant("variance over n, not n - 1", "estimates.py", "axis=0, ddof=1)", "axis=0, ddof=0)"),
    Mutant(
        "ESS at the limit is below it",
        "wrappers.py",
        "effective_sample_size(log_w) < fraction",
        "effective_sample_size(log_w) <= fraction",
    ),
    Mutant(
        "lineage off by one",
        "_paths.py",
        "pick(row, slot), slot",
        "pick(row, slot), pick(row, slot)",
    ),
    Mutant(
        "adaptive tempering forgets carried weights",
        "tempering.py",
        "    log_w, log_l = jax.lax.stop_gradient((log_w, usable(log_likelihood)))",
        "    log_w, log_l = jax.lax.stop_gradient((0 * log_w, usable(log_likelihood)))",
    ),
    Mutant(
        "sign of a swap",
        "parallel_tempering.py",
        "gain = log_ratio(v[1:], v[:-1])",
        "gain = log_ratio(v[:-1], v[1:])",
    ),
    Mutant(
        "conditional systematic is not rotated",
        "conditional.py",
        "order[ancestors_from_ends(ends, n)][(slots + s) % n]",
        "order[ancestors_from_ends(ends, n)]",
    ),
    Mutant(
        "with_parent exchanges one name only",
        "conditional.py",
        "        names = jnp.where(slots == 0, parent[..., None], names)\n",
        "",
    ),
    Mutant("a twist ends too late", "transformers.py", ">= horizon - 1", ">= horizon"),
    Mutant("an observation too many", "state_space.py", "t < num_rows", "t <= num_rows"),
    Mutant(
        "ancestor sampling without the future",
        "conditional_filter.py",
        "state.log_weights + log_future",
        "state.log_weights + 0 * log_future",
    ),
    Mutant(
        "kernels move at temperature 1",
        "samplers.py",
        "log_power(log_l, x.inverse_temperature)",
        "log_power(log_l, jnp.ones_like(x.inverse_temperature))",
    ),
    Mutant("look-ahead mixes up its rows", "lookahead.py", "rows // drafts", "rows % n"),
    Mutant(
        "optimal's constant",
        "optimal.py",
        "jnp.log(num_light.astype(jnp.float32))",
        "jnp.log(jnp.float32(n))",
    ),
    Mutant(
        "bits of the default width",
        "resampling.py",
        "jax.random.bits(key, dtype=jnp.uint32)",
        "jax.random.bits(key)",
        "test_x64.py",
    ),
    Mutant(
        "evidence without compensation",
        "weights.py",
        "total = old + error\n",
        "total, error = old, 0 * error\n",
        "test_weighing.py",
    ),
    Mutant(
        "the peak stays in the weights",
        "_weighing.py",
        "peak = jnp.where(jnp.isneginf(peak), 0.0, peak)",
        "peak = 0.0 * jnp.where(jnp.isneginf(peak), 0.0, peak)",
        "test_weighing.py",
    ),
    Mutant(
        "NaN lives on",
        "_weighing.py",
        "is_broken = ~is_dead & ~((left < jnp.inf) & (log_g < jnp.inf))",
        "is_broken = ~is_dead & (log_g == jnp.inf)",
        "test_weighing.py",
    ),
]


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether its tests pass in a tree that has the fault, which is mended afterwards."""
    path = tree / "smc" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} times {mutant.old!r}"
        )
    path.write_text(text.replace(mutant.old, mutant.new))
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", f"tests/smc/{mutant.tests}"]
    command += ["-m", "not exhaustive and not tpu"]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    path.write_text(text)
    if result.returncode not in (0, 1):
        raise SystemExit(
            f"{mutant.name}: pytest ended with {result.returncode}\n{result.stdout[-2000:]}"
        )
    return result.returncode == 0


def main(words: list[str]) -> None:
    chosen = [m for m in MUTANTS if all(word in m.name for word in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        names = ("pyproject.toml", "pfjax", "smc", "models", "tests")
        for name in names:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, symlinks=True)
            else:
                tree.mkdir(exist_ok=True)
                shutil.copy(source, tree / name)
        for mutant in chosen:
            began = time.perf_counter()
            if survives(mutant, tree):
                survivors.append(mutant.name)
            verdict = "SURVIVES" if mutant.name in survivors[-1:] else "killed"
            print(f"{verdict:8s} {time.perf_counter() - began:5.1f} s  {mutant.name}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed")
    raise SystemExit(bool(survivors))


if __name__ == "__main__":
    main(sys.argv[1:])
