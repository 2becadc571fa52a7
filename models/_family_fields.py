"""A DecoderConfig to the config.json fields that transformers (4 and 5) needs to rebuild it."""

from pfjax.models._rope_fields import write_rope
from pfjax.models.config import DecoderConfig

_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}
NOTED = ("bos_token_id", "pad_token_id", "eos_token_id", "initializer_range", "attention_dropout")
NOTED += ("use_cache",)


def noted(raw: dict) -> dict:
    """The fields of a config.json that an export keeps as they are: the decoder does not know them."""
    return {name: raw[name] for name in NOTED if name in raw}


def config_to_dict(config: DecoderConfig, dtype: str = "bfloat16") -> dict:
    """Every field is written, also where it equals the family's default."""
    rope = write_rope(config.rope)
    fields = {
        "architectures": [config.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope.theta,
        "rope_parameters": rope,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": _ACTIVATIONS[config.activation],
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if config.rope.kind != "default":  # transformers 4 knows no rope_parameters
        fields["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    if config.rope.kind == "longrope":
        fields["original_max_position_embeddings"] = config.rope.original_positions
    return fields | _WRITERS[config.family](config)


def _layer_types(config: DecoderConfig) -> dict:
    if not config.sliding_layers:
        return {"sliding_window": None}
    types = [("full", "sliding")[sliding] + "_attention" for sliding in config.sliding_layers]
    return {"sliding_window": config.sliding_window, "layer_types": types}


def _qwen2(config: DecoderConfig) -> dict:
    return _layer_types(config) | {"use_sliding_window": any(config.sliding_layers)}


def _qwen3(config: DecoderConfig) -> dict:
    return _qwen2(config) | {"attention_bias": config.qkv_bias}


def _llama(config: DecoderConfig) -> dict:
    return {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def _granite(config: DecoderConfig) -> dict:
    return _llama(config) | {
        "attention_multiplier": config.scale,
        "embedding_multiplier": config.embedding_multiplier,
        "residual_multiplier": config.residual_multiplier,
        "logits_scaling": config.logits_divisor,
    }


def _every_layer(config: DecoderConfig) -> dict:
    """Mistral and Phi-3 have one window for all layers."""
    return {"sliding_window": config.sliding_window}


def _phi3(config: DecoderConfig) -> dict:
    fraction = config.rope.fraction
    rotated = {} if fraction == 1.0 else {"partial_rotary_factor": fraction}
    return _every_layer(config) | rotated | {"pad_token_id": None}


def _gemma(config: DecoderConfig) -> dict:
    return _layer_types(config) | {
        "hidden_activation": _ACTIVATIONS[config.activation],
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": _whole(config.scale**-2),
        "final_logit_softcapping": config.logit_softcap,
        "attn_logit_softcapping": config.attention_softcap,
    }


def _whole(x: float) -> float | int:
    """A number that transformers wants as an integer."""
    return round(x) if abs(x - round(x)) < 1e-6 * x else x


def _gemma3(config: DecoderConfig) -> dict:
    local = config.local_rope or config.rope
    ropes = {
        "full_attention": write_rope(config.rope),
        "sliding_attention": write_rope(local),
    }
    scaling = write_rope(config.rope) if config.rope.kind != "default" else None
    return _gemma(config) | {
        "rope_parameters": ropes,
        "rope_scaling": scaling,
        "rope_local_base_freq": local.theta,
    }


_WRITERS = {
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "llama": _llama,
    "granite": _granite,
    "phi3": _phi3,
    "mistral": _every_layer,
    "gemma2": _gemma,
    "gemma3_text": _gemma3,
}
