"""The shape of a decoder, read from a Hugging Face config.json.

Old (`rope_theta`, `torch_dtype`) and new (`rope_parameters`, `dtype`) field names are both
understood. This module knows nothing of arrays or files.
"""

from dataclasses import dataclass


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence with the cause and the fix."""


ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2ForProcessRewardModel")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
_SIZES += ("num_kv_heads", "head_dim", "max_positions")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a Qwen2 decoder (Qwen2 technical report, arXiv 2407.10671)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    architecture: str = "Qwen2ForCausalLM"

    def __post_init__(self):
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise CheckpointError(
                    f"config.json: {name} is {getattr(self, name)}, wanted >= 1; correct it."
                )
        if self.head_dim % 2:
            raise CheckpointError(
                f"config.json: head_dim is {self.head_dim}, wanted an even number; correct it."
            )
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: {self.num_heads} attention heads are not a multiple of "
                f"{self.num_kv_heads} key-value heads; the file is damaged."
            )


def config_from_dict(raw: dict) -> DecoderConfig:
    """The decoder of a parsed config.json; CheckpointError if it is not one we port."""
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"config.json names the architecture {architecture!r}, wanted one that pfjax loads: "
            f"{', '.join(ARCHITECTURES)}."
        )
    if raw.get("use_sliding_window"):
        raise CheckpointError(
            "config.json asks for sliding-window attention, which the Qwen2 port lacks; set "
            "use_sliding_window to false."
        )
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"config.json: rope_parameters is {rope!r}, wanted an object.")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise CheckpointError(
            f"config.json asks for rope type {rope_type!r}; pfjax has 'default' only."
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config.json asks for {raw['hidden_act']!r}; pfjax has 'silu' only.")
    try:
        heads = int(raw["num_attention_heads"])
        return DecoderConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            max_positions=int(raw.get("max_position_embeddings", 32768)),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
            architecture=architecture,
        )
    except KeyError as error:
        raise CheckpointError(f"config.json lacks the field {error.args[0]!r}.") from None
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"config.json holds a value that is not a number: {error}.") from None


def config_to_dict(config: DecoderConfig, dtype: str = "bfloat16") -> dict:
    """The config.json fields that transformers (4 and 5) needs to rebuild the same decoder."""
    return {
        "architectures": [config.architecture],
        "model_type": "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
