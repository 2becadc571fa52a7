"""Fetching a checkpoint from the Hugging Face hub, only when asked to.

Nothing else in pfjax uses the network.
"""

from pathlib import Path

from pfjax.models.config import CheckpointError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_TEXTS = ("*.json", "*.jinja")


def download(name: str, *, revision: str | None = None) -> Path:
    """The folder of a hub checkpoint such as "Qwen/Qwen2.5-1.5B-Instruct", fetched if it is not there.

    Weights are taken as safetensors, as pytorch_model.bin only where there are none. The hub's own
    cache and settings (HF_HOME, HF_TOKEN) apply. CheckpointError if it cannot be fetched.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        files = huggingface_hub.list_repo_files(name, revision=revision)
        safe = any(file.endswith(".safetensors") for file in files)
        wanted = [*_TEXTS, *(_WEIGHTS if safe else _PICKLES)]
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
    except HFValidationError:
        raise CheckpointError(f"{name!r} is no hub name; wanted OWNER/NAME.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"{name} cannot be fetched ({reason}); check the name and the network, or copy the folder."
        ) from None
    return Path(folder)
