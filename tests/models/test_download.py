"""Fetching from the hub asks for safetensors first; the network itself is replaced."""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError

from pfjax import models


class NoConnection(Exception):
    """As httpx has it: no OSError."""


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """No earlier downloads; the way to the hub itself is closed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """hub(files): the hub has these files; what was asked for is returned as a dict."""

    def make(files):
        asked = {}
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: files)

        def snapshot(name, **options):
            asked.update(options, name=name)
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    return make


def test_safetensors_are_preferred(hub, tmp_path):
    asked = hub(["config.json", "model.safetensors", "pytorch_model.bin"])
    assert models.download("owner/name", revision="main") == tmp_path
    assert "*.safetensors" in asked["allow_patterns"] and asked["revision"] == "main"
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])


def test_pickles_only_where_there_is_nothing_else(hub):
    asked = hub(["config.json", "pytorch_model-00001-of-00002.bin"])
    models.download("owner/name")
    assert "pytorch_model*.bin" in asked["allow_patterns"]


@pytest.mark.parametrize(
    "error, words",
    [
        (HFValidationError("bad"), "is no hub name; wanted OWNER/NAME"),
        (ConnectionError("unreachable\nand more"), r"cannot be fetched \(unreachable\)"),
        (
            NoConnection("no such host"),
            r"cannot be fetched \(no such host\); check the name and the",
        ),
        (NoConnection(), r"cannot be fetched \(NoConnection\)"),
    ],
)
def test_failures_are_one_sentence(error, words, monkeypatch, empty_cache):
    def fail(name, revision):
        raise error

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(models.CheckpointError, match=words) as caught:
        models.download("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["qwen", "", None, 5, "a/b/c", "https://huggingface.co/a/b", "../x", "a/b c"]
)
def test_what_is_no_name_is_not_asked_for(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", None)  # would be called
    with pytest.raises(models.CheckpointError, match="is no hub name; wanted OWNER/NAME"):
        models.download(name)


def test_an_earlier_download_needs_no_network(empty_cache, checkpoint):
    """Links to blobs, as the hub's library lays them; the policy loads from there."""
    with pytest.raises(models.CheckpointError, match="offline mode is enabled"):
        models.download("owner/name")
    repository, commit = empty_cache / "models--owner--name", "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for path in checkpoint("tied").iterdir():
        (repository / "snapshots" / commit / path.name).symlink_to(path)
    folder = models.download("owner/name")
    assert folder == repository / "snapshots" / commit
    assert models.load_policy(folder).config.hidden_size == 32


def test_the_command_prints_the_folder(hub, tmp_path, empty_cache, monkeypatch):
    from typer.testing import CliRunner

    from pfjax.cli import app

    asked = hub(["config.json", "model.safetensors"])
    found = CliRunner().invoke(app, ["download", "owner/name", "--revision", "v1", "--json"])
    assert json.loads(found.stdout) == {"name": "owner/name", "folder": str(tmp_path)}
    assert asked["revision"] == "v1" and found.exit_code == 0
    monkeypatch.undo()
    for arguments, words in (
        (["owner"], "is no hub name"),
        (["a/b", "--debug"], "cannot be fetched"),
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        found = CliRunner().invoke(app, ["download", *arguments])
        assert found.exit_code == 2 and found.stdout == "" and words in found.stderr
    assert found.stderr.splitlines()[-1].startswith("pfjax: a/b cannot be fetched")
