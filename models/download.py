"""Fetching a checkpoint from the Hugging Face hub, only when asked to.

Nothing else in pfjax uses the network.
"""

import re
from pathlib import Path

from pfjax.models._asked import shown
from pfjax.models.config import CheckpointError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_TEXTS = ("*.json", "*.jinja")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def download(name: str, *, revision: str | None = None) -> Path:
    """The folder of a hub checkpoint such as "Qwen/Qwen2.5-1.5B-Instruct", fetched if it is not there.

    Weights are taken as safetensors, as pytorch_model.bin only where there are none. The hub's own
    cache and settings (HF_HOME, HF_TOKEN) apply. CheckpointError if it cannot be fetched, unless an
    earlier download of it is there.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(f"{shown(name)} is no hub name; wanted OWNER/NAME.")
    try:
        files = huggingface_hub.list_repo_files(name, revision=revision)
        safe = any(file.endswith(".safetensors") for file in files)
        wanted = [*_TEXTS, *(_WEIGHTS if safe else _PICKLES)]
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
        return Path(folder)
    except HFValidationError:
        raise CheckpointError(f"{name!r} is no hub name; wanted OWNER/NAME.") from None
    except Exception as error:  # of requests, httpx or httpx2, as the hub's version has it
        if there := _cached(name, revision):
            return there
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise CheckpointError(
            f"{name} cannot be fetched ({reason}); check the name and the network, or copy the folder."
        ) from None


def _cached(name: str, revision: str | None) -> Path | None:
    """What an earlier download left, without the network."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError):
        return None
    return Path(found) if (Path(found) / "config.json").exists() else None
