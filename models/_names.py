"""Where a parameter stands in a Hugging Face file."""

from collections.abc import Container
from typing import NamedTuple

from pfjax.models.config import DecoderConfig

PRM_ARCHITECTURE = "Qwen2ForProcessRewardModel"
_HEADS = {"lm_head": "lm_head", "score_in": "score.0", "score_out": "score.2"}
_HEADS |= {"value_head": "v_head.summary"}


class Source(NamedTuple):
    """A tensor's name and which of its rows are the parameter's.

    `rows` is None for all; Phi-3 stores several projections in one tensor.
    """

    name: str
    rows: tuple[int, int] | None = None


def source(path: tuple, config: DecoderConfig) -> Source:
    """Where the parameter of a module path is stored."""
    parts = [str(part) for part in path if part != "decoder"]
    kind = "bias" if parts[-1] == "bias" else "weight"
    fused = _fused(config) if config.family == "phi3" else {}
    name, rows = parts[-2], None
    if name in fused:
        name, rows = fused[name]
    stem = _HEADS.get(parts[0]) or ".".join(["model", *parts[:-2], name])
    return Source(f"{stem}.{kind}", rows)


def is_scale(path: tuple, paths: Container[tuple]) -> bool:
    """Whether a parameter is the scales of an 8-bit weight, which no file holds."""
    return path[-1] == "scale" and any((*path[:-1], w) in paths for w in ("weight", "embedding"))


def _fused(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, int]]]:
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    f = config.intermediate_size
    return {
        "q_proj": ("qkv_proj", (0, q)),
        "k_proj": ("qkv_proj", (q, q + kv)),
        "v_proj": ("qkv_proj", (q + kv, q + 2 * kv)),
        "gate_proj": ("gate_up_proj", (0, f)),
        "up_proj": ("gate_up_proj", (f, 2 * f)),
    }
