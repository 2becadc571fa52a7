"""Distillation resumes bitwise after SIGKILL, end to end on real parts; what its batches hold."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pfjax import models
from pfjax.recipes import RECIPES, distil

SCRIPT = """
import sys
from pathlib import Path
from pfjax.recipes import distil
distil.ROWS = 16
distil.train(
    Path(sys.argv[1]),
    lambda step, steps, row: print(step, flush=True),
    distil.Options(problems=8, particles=4),
    held_out=0,
    schedule=trainer.Schedule(steps=120, rate=5e-4, warmup=10),
    save_every=20,
)
"""


def start(folder: Path) -> subprocess.Popen:
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True, env=env
    )


def weights(folder: Path) -> dict[str, np.ndarray]:
    decoder = models.load_policy(folder / "model").decoder
    leaves = jax.tree_util.tree_leaves_with_path(decoder)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_distillation_killed_in_the_middle_gives_the_same_weights(tmp_path):
    """Above 20 s: three processes that search, train and export for real."""
    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=600) and whole.returncode == 0
    with start(tmp_path / "killed") as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if int(line) >= 60:
                break
        os.kill(killed.pid, signal.SIGKILL)
    assert not (tmp_path / "killed/model").exists()
    resumed = start(tmp_path / "killed")
    out, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0
    assert 20 < min(s for s in map(int, out.split()) if s > 0), "it started from the beginning"
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    before = weights_of_embedded()
    assert any(not np.array_equal(a[k], before[k]) for k in a)


def weights_of_embedded() -> dict[str, np.ndarray]:
    from pfjax.search.loading import resolve

    decoder = models.load_policy(resolve("embedded:small")).decoder
    leaves = jax.tree_util.tree_leaves_with_path(decoder)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_every_epoch_visits_every_problem_once_and_draws_by_weight():
    pairs = [(0.1, 0.5)] * 3 * distil.ROWS
    found = [
        distil.Example(i, [5], [i, kind], weight)
        for i, weights in enumerate(pairs)
        for kind, weight in enumerate(weights)
    ]
    batch = distil.batches_of(found)
    batches = [batch(i) for i in range(60)]
    visited = np.concatenate([b["ids"][:, 1] for b in batches[:3]])
    assert sorted(visited) == list(range(len(pairs)))
    # 3840 draws with probability 5/6: a standard deviation of 0.006, four of them.
    heavy = np.mean([b["ids"][:, 2] for b in batches])
    assert abs(heavy - 5 / 6) < 0.024
    assert all(np.allclose(b["weight"][:, 1:3], 0.6) for b in batches)
    assert float(batches[0]["problems"]) == distil.ROWS


def test_recipes_are_named():
    assert set(RECIPES) == {"embedded-small", "embedded-large", "embedded-prm", "distil"}
    assert all(r.summary for r in RECIPES.values())
