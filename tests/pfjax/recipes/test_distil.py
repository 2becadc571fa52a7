"""Distillation resumes bitwise after SIGKILL, end to end on real parts; what its batches hold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from pfjax import models
from pfjax.distill import interruption
from pfjax.distill.interruption import Interrupted
from pfjax.recipes import RECIPES, distil
from pfjax.recipes.recipe import told

FIXTURES = Path(__file__).parents[2] / "models/fixtures"
SCRIPT = """
import sys
import time
from pathlib import Path
from pfjax.distill import trainer
from pfjax.recipes import distil
distil.ROWS = 16
distil.train(
    Path(sys.argv[1]),
    lambda step, steps, row: print(step, flush=True),
    distil.Options(problems=8, particles=4, held_out=0),
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
    batch = distil.batches_of(found, 100)
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


def test_batches_are_as_wide_as_the_data_and_hold_as_many_rows_as_there_is_room():
    def shape(lengths, vocab_size=1000):
        found = [distil.Example(i, [5] * 10, [6] * n, 1.0) for i, n in enumerate(lengths)]
        return distil.batches_of(found, vocab_size)(0)["ids"].shape

    assert shape([3, 5]) == (2, 32)
    assert shape([150] * 100) == (64, 160)
    assert shape([700] + [3] * 99) == (distil.TOKENS // 736, 736)
    rows, width = shape([150] * 100, vocab_size=150_000)
    assert rows == 2 and rows * width * 150_000 <= distil.LOGITS
    assert shape([distil.TOKENS]) == (1, distil.TOKENS + 32)


@pytest.fixture
def real(tmp_path):
    """The options of a command: a random Qwen2 policy of 60 thousand parameters, and questions."""
    shutil.copytree(FIXTURES / "tied", tmp_path / "policy")
    path = tmp_path / "policy/generation_config.json"
    budget = {"max_new_tokens": 128, "step_tokens": 16}
    path.write_text(json.dumps(json.loads(path.read_text()) | budget))
    rows = [json.dumps({"problem": f"Ann has {i} figs. How many?"}) for i in range(6)]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows) + "\n")
    return [
        *("--policy", str(tmp_path / "policy"), "--prm", str(FIXTURES / "prm")),
        *("--questions", str(tmp_path / "asked.jsonl"), "--particles", "8"),
        *("--temperature", "3", "--steps", "250", "--out", str(tmp_path / "run")),
    ]


def command(options) -> subprocess.Popen:
    env = os.environ | {"PFJAX_CACHE": str(jax.config.jax_compilation_cache_dir)}
    return subprocess.Popen(
        [sys.executable, "-m", "pfjax", "train", "distil", *options, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


@pytest.mark.slow
def test_a_real_policy_learns_from_its_own_particles_and_loads_in_transformers(tmp_path, real):
    """Above 20 s: it searches with a PRM, is killed while it trains, goes on, and is exported."""
    with command(real) as killed:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run/checkpoints/100").exists() and time.monotonic() < deadline:
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
    assert not (tmp_path / "run/model").exists()
    with command(real) as resumed:
        out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0 and " from step " in err, err
    metrics = json.loads(out)["metrics"]
    assert metrics["problems searched"] == 6 and metrics["solutions"] > 6
    assert set(metrics) == {"problems searched", "solutions", "too long"}  # no orchard
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [*range(20, 250, 20), 250]
    assert rows[-1]["per_token"] < rows[0]["per_token"] - 0.5
    learned = models.load_policy(tmp_path / "run/model")
    assert learned.eos_ids == (2, 0)
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model", dtype=torch.float32)
    tokens = np.random.default_rng(1).integers(0, learned.config.vocab_size, (2, 29))
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(learned.logits(tokens), wanted, rtol=0, atol=2e-4)


def test_nothing_finished_is_one_sentence(tmp_path, real):
    """Six tokens are no solution; the folder keeps what was searched."""
    path = tmp_path / "policy/generation_config.json"
    path.write_text(path.read_text().replace("128", "6"))
    asked = ["2+3?", "4+5?"]
    options = distil.Options(real[1], real[3], questions=asked, particles=2, temperature=0.1)
    with pytest.raises(ValueError) as caught:
        distil.train(tmp_path / "run", lambda *a: None, options)
    text = str(caught.value)
    assert text.startswith(
        "no solution of 2 problems with 2 particles each was finished within 6 tokens"
    )
    assert text.endswith(".") and "max_new_tokens" in text


def test_solutions_that_are_too_long_are_dropped_and_counted(tmp_path, monkeypatch):
    found = [distil.Example(i, [5], [6] * n, 1.0) for i, n in enumerate((3, distil.WIDEST, 4))]
    monkeypatch.setattr(distil, "collect", lambda *a, **k: found)
    monkeypatch.setattr(distil.trainer, "fit", lambda params, *a, **k: params)
    monkeypatch.setattr(distil.models, "export", lambda *a, **k: None)
    options = distil.Options(problems=3, held_out=0)
    metrics = distil.train(tmp_path / "a", lambda *a: None, options)
    assert metrics == {"problems searched": 3, "solutions": 2, "too long": 1}
    del found[2], found[0]
    with pytest.raises(
        ValueError, match="no finished solution of 3 problems .* at most 2048 tokens"
    ):
        distil.train(tmp_path / "b", lambda *a: None, options)


def test_measuring_says_how_far_it_is_and_stops_on_a_signal():
    seen = []
    measured = told(lambda *row: seen.append(row), 30, "measuring")
    measured(1, 4)
    assert seen == [(30, 30, {"measuring": 1})]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="while measuring 2 of 4 problems"):
            with interruption.watched():
                signal.raise_signal(signal.SIGINT)
                measured(2, 4)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_both_policies_are_measured_on_as_many_problems_as_asked_for(tmp_path):
    """Above 20 s: compiles six searches."""
    rows = []
    options = distil.Options(problems=2, particles=2, steps=2, held_out=3)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = distil.train(tmp_path, lambda *row: rows.append(row[2]), options)
    assert found["PF@8 after"]["problems"] == 3
    assert [row["measuring"] for row in rows if "measuring" in row].count(3) >= 6
