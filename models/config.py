"""The shape of a decoder: sizes, and in which of a few ways the families differ.

This module knows nothing of arrays or files; `_families.py` reads and writes config.json.
"""

from dataclasses import dataclass

from pfjax.models.rope import KINDS, Rope


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence with the cause and the fix."""


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
_SIZES += ("num_kv_heads", "head_dim", "max_positions")
ACTIVATIONS = ("silu", "gelu_tanh")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of one pre-norm decoder; the defaults are Qwen2's (arXiv 2407.10671).

    A layer i with `sliding_layers[i]` sees the last `sliding_window` tokens only, at the angles of
    `local_rope` if that is given. `attention_scale` multiplies the scores (None: head_dim^-0.5).
    Scores and logits are soft-capped by c tanh(x / c). Logits are divided by `logits_divisor`.
    `unit_offset_norm` scales by 1 + w; `sandwich_norms` normalises what attention and MLP add.
    `vocab_padding` rows behind the vocabulary make it divisible by a mesh axis.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope: Rope = Rope()
    local_rope: Rope | None = None
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    qkv_bias: bool = True
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: str = "silu"
    unit_offset_norm: bool = False
    sandwich_norms: bool = False
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] = ()
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_divisor: float = 1.0
    vocab_padding: int = 0
    family: str = "qwen2"
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
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json asks for the activation {self.activation!r}; pfjax has "
                f"{' and '.join(ACTIVATIONS)} only."
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise CheckpointError(
                f"config.json: sliding_window is {self.sliding_window}, wanted >= 1; correct it."
            )
        if self.sliding_layers and len(self.sliding_layers) != self.num_layers:
            raise CheckpointError(
                f"config.json lists {len(self.sliding_layers)} layer types for {self.num_layers} "
                "layers; the file is damaged."
            )
        for rope in (self.rope, self.local_rope):
            if rope is not None:
                _check_rope(rope, self.head_dim)

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def window(self, layer: int) -> int | None:
        """How many tokens, its own included, a token sees in a layer; None: all."""
        sliding = bool(self.sliding_layers) and self.sliding_layers[layer]
        return self.sliding_window if sliding else None


def _check_rope(rope: Rope, head_dim: int) -> None:
    if rope.kind not in KINDS:
        raise CheckpointError(
            f"config.json asks for rope type {rope.kind!r}; pfjax has {', '.join(KINDS)} only."
        )
    size = rope.rotated(head_dim)
    if size < 2 or size % 2 or size > head_dim:
        raise CheckpointError(
            f"config.json: {rope.fraction} of head_dim {head_dim} is rotated, {size} entries; wanted "
            "a positive even number; correct partial_rotary_factor."
        )
    if rope.kind == "longrope" and not len(rope.short) == len(rope.long) == size // 2:
        raise CheckpointError(
            f"config.json: longrope has {len(rope.short)} short and {len(rope.long)} long factors, "
            f"wanted {size // 2} each; the file is damaged."
        )
    positive = (rope.theta, rope.factor, rope.attention_factor, *rope.short, *rope.long)
    positive += (rope.beta_fast, rope.beta_slow)
    if not all(0 < value < float("inf") for value in positive):
        raise CheckpointError(
            "config.json: a rope parameter is not a positive number; the file is damaged."
        )
    if rope.kind == "llama3" and not 0 < rope.low_frequency < rope.high_frequency:
        raise CheckpointError(
            f"config.json: llama3 rope blends from {rope.low_frequency} to {rope.high_frequency}, "
            "wanted an increasing pair; the file is damaged."
        )
    if rope.kind == "yarn" and not (rope.theta > 1 and rope.beta_slow <= rope.beta_fast):
        raise CheckpointError(
            f"config.json: yarn rope has theta {rope.theta}, beta_slow {rope.beta_slow} and beta_fast "
            f"{rope.beta_fast}, wanted theta > 1 and beta_slow <= beta_fast; the file is damaged."
        )
    if rope.kind in ("llama3", "longrope", "yarn") and rope.original_positions < 1:
        raise CheckpointError(
            f"config.json: {rope.kind} rope needs original_max_position_embeddings >= 1."
        )
