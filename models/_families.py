"""config.json of every family to a DecoderConfig, old field names and new.

A file leaves out what equals its family's default in transformers, so the defaults stand here too.
`_family_fields.py` writes the file.
"""

from collections.abc import Callable
from math import sqrt

from pfjax.models._rope_fields import positions, read_rope
from pfjax.models.config import CheckpointError, DecoderConfig

FAMILIES = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2ForProcessRewardModel": "qwen2",
    "Qwen2ForPrmModel": "qwen2",  # Skywork-o1-Open-PRM
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
    "GraniteForCausalLM": "granite",
    "Phi3ForCausalLM": "phi3",
    "MistralForCausalLM": "mistral",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def architecture(family: str) -> str:
    """The name transformers gives a family's language model."""
    return next(name for name, of in FAMILIES.items() if of == family)


def config_from_dict(raw: dict) -> DecoderConfig:
    """The decoder of a parsed config.json; CheckpointError if it is not one we port."""
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise CheckpointError(
            f"config.json names the architecture {architecture!r}, wanted one that pfjax loads: "
            f"{', '.join(FAMILIES)}."
        )
    try:
        fields = _sizes(raw) | _SWITCHES[family](raw)
        return DecoderConfig(**fields, family=family, architecture=architecture)
    except KeyError as error:
        raise CheckpointError(f"config.json lacks the field {error.args[0]!r}.") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"config.json holds a value that is not a number: {error}.") from None


def _sizes(raw: dict) -> dict:
    heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    if heads < 1:
        raise CheckpointError(f"config.json: num_heads is {heads}, wanted >= 1; correct it.")
    rope = read_rope(raw, raw.get("rope_parameters") or raw.get("rope_scaling"))
    return dict(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=hidden,
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or hidden // heads),
        max_positions=positions(raw, rope),
        rope=rope,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        activation=_activation(raw.get("hidden_act", "silu")),
    )


def _activation(name: str) -> str:
    return _ACTIVATIONS.get(name, name)


def _windows(raw: dict, window: object, is_sliding: Callable[[int], bool]) -> dict:
    """Sliding layers from `layer_types`, else by `is_sliding(layer)`; none without a window."""
    if window is None:
        return {}
    count, types = int(raw["num_hidden_layers"]), raw.get("layer_types")
    if types is None:
        sliding = tuple(is_sliding(i) for i in range(min(count, 10_000)))
    else:
        unknown = [t for t in types if t not in ("sliding_attention", "full_attention")]
        if unknown:
            raise CheckpointError(
                f"config.json names the layer type {unknown[0]!r}, wanted sliding_attention or "
                "full_attention."
            )
        sliding = tuple(t == "sliding_attention" for t in types)
    return dict(sliding_window=int(window), sliding_layers=sliding)  # pyright: ignore[reportArgumentType]


def _late_windows(raw: dict) -> dict:
    """Qwen's: the layers from `max_window_layers` on, and only if asked for."""
    if not raw.get("use_sliding_window"):
        return {}
    first = int(raw.get("max_window_layers", 28))
    return _windows(raw, raw.get("sliding_window", 4096), lambda i: i >= first)


def _biases(raw: dict) -> dict:
    bias = bool(raw.get("attention_bias", False))
    return dict(qkv_bias=bias, output_bias=bias, mlp_bias=bool(raw.get("mlp_bias", False)))


def _qwen2(raw: dict) -> dict:
    return dict(qkv_bias=True) | _late_windows(raw)


def _qwen3(raw: dict) -> dict:
    fields = _biases(raw) | _late_windows(raw)
    return fields | dict(qk_norm=True, head_dim=int(raw.get("head_dim") or 128))


def _granite(raw: dict) -> dict:
    return _biases(raw) | dict(
        attention_scale=float(raw.get("attention_multiplier", 1.0)),
        embedding_multiplier=float(raw.get("embedding_multiplier", 1.0)),
        residual_multiplier=float(raw.get("residual_multiplier", 1.0)),
        logits_divisor=float(raw.get("logits_scaling", 1.0)),
    )


def _phi3(raw: dict) -> dict:
    fields = dict(qkv_bias=False, rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)))
    return fields | _windows(raw, raw.get("sliding_window"), lambda i: True)


def _mistral(raw: dict) -> dict:
    return dict(qkv_bias=False) | _windows(raw, raw.get("sliding_window", 4096), lambda i: True)


def _gemma(raw: dict) -> dict:
    bias = bool(raw.get("attention_bias", False))
    return dict(
        qkv_bias=bias,
        output_bias=bias,
        head_dim=int(raw.get("head_dim") or 256),
        tie_embeddings=bool(raw.get("tie_word_embeddings", True)),
        activation=_activation(
            raw.get("hidden_activation") or raw.get("hidden_act") or "gelu_pytorch_tanh"
        ),
        unit_offset_norm=True,
        sandwich_norms=True,
        attention_scale=float(raw.get("query_pre_attn_scalar", 256)) ** -0.5,
        embedding_multiplier=sqrt(max(int(raw["hidden_size"]), 0)),
    )


def _optional(value: object) -> float | None:
    return None if value is None else float(value)  # pyright: ignore[reportArgumentType]


def _gemma2(raw: dict) -> dict:
    windows = _windows(raw, raw.get("sliding_window", 4096), lambda i: i % 2 == 0)
    return _gemma(raw) | windows | dict(
        attention_softcap=_optional(raw.get("attn_logit_softcapping", 50.0)),
        logit_softcap=_optional(raw.get("final_logit_softcapping", 30.0)),
    )  # fmt: skip


def _gemma3(raw: dict) -> dict:
    """Five sliding layers to a full one, each kind with rotary parameters of its own.

    transformers reads attn_logit_softcapping for Gemma 2 alone.
    """
    if raw.get("use_bidirectional_attention"):
        raise CheckpointError(
            "config.json asks for bidirectional attention; pfjax has causal only."
        )
    period = int(raw.get("sliding_window_pattern") or 6)
    new = raw.get("rope_parameters") or {}
    whole, local = (
        new.get("full_attention") or raw.get("rope_scaling"),
        new.get("sliding_attention"),
    )
    base = float(raw.get("rope_local_base_freq") or 10_000.0)
    windows = _windows(raw, raw.get("sliding_window", 4096), lambda i: (i + 1) % period != 0)
    return _gemma(raw) | windows | dict(
        qk_norm=True,
        rope=read_rope(raw, whole, 1_000_000.0),
        local_rope=read_rope({}, local, base),
        logit_softcap=_optional(raw.get("final_logit_softcapping")),
    )  # fmt: skip


_SWITCHES = {
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "llama": _biases,
    "granite": _granite,
    "phi3": _phi3,
    "mistral": _mistral,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
