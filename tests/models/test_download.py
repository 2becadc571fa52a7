"""Fetching from the hub asks for safetensors first; the network itself is replaced."""

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError

from pfjax import models


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
    ],
)
def test_failures_are_one_sentence(error, words, monkeypatch):
    def fail(name, revision):
        raise error

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(models.CheckpointError, match=words) as caught:
        models.download("owner/name")
    assert "\n" not in str(caught.value)
