"""`pfjax train`: what it refuses, and what signals do to real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pfjax
from pfjax.cli import app

FIXTURES = Path(__file__).parents[2] / "models/fixtures"
TIED = str(FIXTURES / "tied")
ASKED = ["--policy", TIED, "--questions", "asked.jsonl"]

# A recipe of a small regression; jobs that a shell starts in the background ignore SIGINT.
SCRIPT = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax.numpy as jnp, numpy as np
from pfjax import recipes
from pfjax.cli import main
from pfjax.distill import run_folder, trainer

def loss(params, batch):
    error = jnp.mean((batch["x"] @ params["w"]) ** 2)
    return error, {"loss": error}

def batch(i):
    time.sleep(0.01)
    return {"x": np.full((4, 3), i % 7, np.float32)}

def run(folder, progress):
    with run_folder.claimed(folder, "tiny", {}):
        schedule = trainer.Schedule(100_000, 0.01)
        report = lambda step, row: progress(step, 100_000, row)
        trainer.fit({"w": jnp.ones(3)}, loss, batch, schedule, folder=folder, report=report)
    return {}

def sleep(folder, progress):
    progress(0, 1, {"asleep": 1})
    time.sleep(600)

recipes.RECIPES |= {"tiny": recipes.Recipe("tiny", run), "sleeping": recipes.Recipe("sleeping", sleep)}
main()
"""


def call(*args):
    return CliRunner().invoke(app, ["train", *map(str, args)])


@pytest.mark.parametrize(
    "args, words",
    [
        (["distil", "--out", ""], "--out is '', wanted a folder"),
        (["distil", "--out", " "], "--out is ' ', wanted a folder"),
        (["distil", "--out", "file"], "--out file is a file"),
        (["distil", "--out", "file/below"], "file/below cannot be written (Not a directory)"),
        (["distil", "--out", "old"], "old belongs to embedded-small, not to distil"),
        (["embedded-small", "--out", "old"], "old was begun with name x, not embedded-small"),
        (["embedded-prm", "--out", "other"], "other holds checkpoints of another run"),
        (["nothing"], "recipe is 'nothing', wanted one of embedded-small"),
        (["embedded-small", "--policy", "x"], "'embedded-small' takes no --policy; leave it out"),
        (["embedded-prm", "--prm-kind", "x"], "'embedded-prm' takes no --prm-kind"),
        (["embedded-large", "--seed", 1], "'embedded-large' has a fixed seed; leave --seed out"),
        (["distil", "--questions", "none.jsonl"], "none.jsonl: No such file"),
        (["distil", "--questions", "bad.jsonl"], "bad.jsonl, line 1: wanted a JSON object"),
        (["distil", "--particles", 0], "particles is 0, wanted a whole number from 1 to 65536"),
        (["distil", "--problems", 0], "problems is 0, wanted a whole number from 1"),
        (["distil", "--steps", -1], "steps is -1, wanted a whole number from 1"),
        (["distil", "--temperature", "nan"], "temperature is nan, wanted a number from 0"),
        (["distil", "--seed", -1], "key is -1, wanted a number from 0"),
        (["distil", "--prm-kind", "qwen"], "prm-kind is 'qwen' but there is no PRM's folder"),
        (["distil", "--prm", "x", "--prm-kind", "y"], "prm-kind is 'y', wanted one of qwen"),
        (["distil", "--prm", "none"], "without a PRM the filter has nothing to teach"),
        (
            ["distil", "--policy", TIED],
            "does not know the embedded task; give --questions FILE.jsonl",
        ),
        (["distil", *ASKED], "without a PRM the filter has nothing to teach; give --prm FOLDER"),
        (["distil", *ASKED, "--prm", "embedded:prm"], "judges the embedded task alone"),
        (["distil", "--policy", "missing", *ASKED[2:], "--prm", "self"], "missing"),
        (["distil", *ASKED, "--prm", "missing"], "missing"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("bad.jsonl").write_text("no\n")
    Path("asked.jsonl").write_text('{"problem": "2+3?"}\n')
    Path("old").mkdir()
    plan = {"recipe": "embedded-small", "settings": {"name": "x"}}
    Path("old/run.json").write_text(json.dumps(plan))
    Path("other/checkpoints").mkdir(parents=True)
    before = sorted(map(str, Path().rglob("*")))
    result = call(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("pfjax: ")]
    assert len(said) == 1 and words in said[0] and len(said[0]) < 400, result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(map(str, Path().rglob("*"))) == before


def begin(tmp_path: Path, recipe: str) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"PFJAX_CACHE": str(tmp_path), "PYTHONPATH": str(Path(pfjax.__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT, "train", recipe, "--out", str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=env, text=True, **pipes)
    guard = threading.Timer(120, process.kill)
    guard.daemon = True
    guard.start()
    return process


def until(process: subprocess.Popen, words: str) -> str:
    """Reads stderr up to a line with the words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"{words!r} was never said")


@pytest.mark.slow
def test_a_signal_saves_says_where_and_the_run_goes_on(tmp_path):
    """Four processes, each of which imports JAX."""
    step = 0
    for turn, signum in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGINT]):
        with begin(tmp_path, "tiny") as process:
            try:
                if turn:
                    assert f"goes on from step {step} of 100000" in until(process, "goes on")
                until(process, "/100000 grad")
                if not turn:
                    with begin(tmp_path, "tiny") as second:
                        out, err = second.communicate(timeout=60)
                    assert second.returncode == 2 and "in use by another process" in err
                time.sleep(0.3)
                process.send_signal(signum)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 128 + signum, err
        said = err.splitlines()[-1]
        wanted = "; run the same command to go on"
        assert said.startswith("pfjax: interrupted at step ") and said.endswith(wanted), err
        now = int(said.removeprefix("pfjax: interrupted at step ").removesuffix(wanted))
        assert now > step and (tmp_path / f"run/checkpoints/{now}").is_dir()
        step = now
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(20, step + 1, 20))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path, signum):
    with begin(tmp_path, "sleeping") as process:
        try:
            until(process, "asleep")
            process.send_signal(signal.SIGINT)
            until(process, "stopping when this step is done; once more ends at once")
            process.send_signal(signum)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + signum
