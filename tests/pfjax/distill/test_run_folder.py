"""A folder belongs to one run, and to one process at a time; what is refused leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pfjax.distill import log, run_folder
from pfjax.distill.run_folder import FolderError, claimed

SETTINGS = {"particles": 4, "schedule": (1, 2.5), "prm": None}
HOLD = """
import sys, time
from pathlib import Path
from pfjax.distill.run_folder import claimed
with claimed(Path(sys.argv[1]), "distil", {"particles": 4}):
    print("held", flush=True)
    time.sleep(600)
"""


def refusal(folder: Path, recipe: str = "distil", settings=SETTINGS) -> str:
    before = listing(folder)
    with pytest.raises(FolderError) as caught, claimed(folder, recipe, settings):
        raise AssertionError("not refused")
    text = str(caught.value)
    assert listing(folder) == before, "a refusal wrote something"
    assert len(text) < 250 and "\n" not in text and text.endswith("."), text
    return text


def listing(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.rglob("*")) if folder.is_dir() else []


def work(folder: Path, recipe: str = "distil", settings=SETTINGS) -> None:
    with claimed(folder, recipe, settings):
        (folder / "log.jsonl").touch()


def test_the_same_run_goes_on(tmp_path):
    work(tmp_path / "a/b")
    work(tmp_path / "a/b", settings={"particles": 4, "schedule": [1, 2.5], "prm": None})
    assert {p.name for p in (tmp_path / "a/b").iterdir()} == {"run.json", "log.jsonl"}


@pytest.mark.parametrize(
    "recipe, settings, words",
    [
        ("embedded-small", SETTINGS, ["belongs to distil, not to embedded-small", "--out"]),
        ("distil", SETTINGS | {"particles": 8}, ["particles 4, not 8", "--out"]),
        ("distil", SETTINGS | {"prm": "x"}, ["prm None, not x"]),
        ("distil", SETTINGS | {"new": 1}, ["new None, not 1"]),
        (
            "distil",
            {"particles": 4, "schedule": [1, 2.5]} | {"prm": "y" * 999},
            ["prm None, not y"],
        ),
    ],
)
def test_another_recipe_or_setting_is_refused(tmp_path, recipe, settings, words):
    work(tmp_path / "run")
    text = refusal(tmp_path / "run", recipe, settings)
    assert str(tmp_path / "run") in text and not [w for w in words if w not in text], text


@pytest.mark.parametrize("name", ["checkpoints", "search", "model", "stage-0"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    assert f"holds {name} of another run" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"recipe": "distil"}', '{"recipe": 1, "settings": 2}']
)
def test_a_damaged_run_file_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert "cannot be read" in refusal(tmp_path)


def test_files_and_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refusal(tmp_path / "file")
    assert "cannot be written" in refusal(tmp_path / "file/below")
    if Path("/proc/self").exists():
        assert "cannot be written" in refusal(Path("/proc/nothing/of/ours"))


def test_work_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), claimed(tmp_path / "a/b/c", "distil", SETTINGS):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with pytest.raises(KeyError), claimed(tmp_path / "a/b/c", "distil", SETTINGS):
        (tmp_path / "a/b/c/log.jsonl").touch()
        raise KeyError
    assert (tmp_path / "a/b/c/run.json").exists()


def test_one_process_at_a_time_and_the_lock_dies_with_it(tmp_path):
    if run_folder.fcntl is None:
        pytest.skip("this system has no flock")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "held\n"
            assert "in use by another process" in refusal(tmp_path / "run")
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert second.returncode and "in use by another process" in second.stderr
        finally:
            os.kill(first.pid, signal.SIGKILL)
    work(tmp_path / "run", settings={"particles": 4})


def test_two_threads_are_two_as_well(tmp_path):
    with ExitStack() as stack:
        stack.enter_context(claimed(tmp_path, "distil", SETTINGS))
        assert "in use" in refusal(tmp_path)


def test_where_there_are_no_locks_all_else_works(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "fcntl", None)
    work(tmp_path)
    assert "belongs to distil" in refusal(tmp_path, "embedded-prm")


@pytest.mark.parametrize(
    "text, kept",
    [
        ("", []),
        ('{"step": 20}\n{"step": 40}\n', [20, 40]),
        ('{"step": 20}\n{"step": 40}\n{"step": 60}\n', [20, 40]),
        ('{"step": 20}\n{"step": 4', [20]),
        ('{"step": 20}\n{"step": 40}', [20, 40]),
        ('{"step": 20}\nnull\n[]\n{"step": "x"}\n{}\n\udcff\n{"step": 40}\n', [20, 40]),
    ],
)
def test_the_log_is_cut_to_a_step_and_half_a_line_is_gone(tmp_path, text, kept):
    (tmp_path / "log.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    log.cut(tmp_path, 40)
    log.append(tmp_path, 60, {"loss": 1.0})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [*kept, 60]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]
