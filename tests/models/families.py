"""Tiny random checkpoints of every family, as transformers would save them."""

import numpy as np

from pfjax import models
from pfjax.models import DecoderConfig, Rope

SIZES = dict(vocab_size=131, hidden_size=48, intermediate_size=37, num_layers=3, max_positions=4096)
LLAMA3 = Rope(5e5, "llama3", factor=8.0, original_positions=24)
LONG = Rope(
    1e4, "longrope", original_positions=16, attention_factor=1.19,
    short=(1.0, 1.1, 1.3, 1.5), long=(1.0, 2.0, 5.0, 9.0),
)  # fmt: skip
YARN = Rope(
    1e4, "yarn", factor=4.0, original_positions=1024, attention_factor=1.138629436111989,
    beta_fast=16.0, beta_slow=1.5,
)  # fmt: skip
PLAIN = dict(qkv_bias=False)
GEMMA = dict(
    qkv_bias=False, activation="gelu_tanh", unit_offset_norm=True, sandwich_norms=True,
    embedding_multiplier=48**0.5, attention_scale=11.0**-0.5,
)  # fmt: skip


def _heads(heads: int, kv_heads: int, head_dim: int, tied: bool) -> dict:
    return dict(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, tie_embeddings=tied)


def _windows(window: int, *sliding: bool) -> dict:
    return dict(sliding_window=window, sliding_layers=sliding)


CASES: dict[str, dict] = {
    "qwen2-grouped-7": dict(family="qwen2", **_heads(7, 1, 8, True), rope=Rope(1e6)),
    "qwen2-ungrouped": dict(family="qwen2", **_heads(3, 3, 14, False), rms_norm_eps=1e-3),
    "qwen2-window": dict(family="qwen2", **_heads(6, 2, 8, False), **_windows(5, False, True, True)),
    "qwen3-tied": dict(family="qwen3", qk_norm=True, **PLAIN, **_heads(6, 2, 10, True), rope=Rope(1e6)),
    "qwen3-biases": dict(family="qwen3", qk_norm=True, output_bias=True, **_heads(5, 1, 12, False)),
    "qwen3-yarn": dict(
        family="qwen3", qk_norm=True, **PLAIN, **_heads(4, 2, 16, False), rope=YARN
    ),
    "qwen2-yarn-sharp": dict(
        family="qwen2", **_heads(4, 2, 12, True), rope=Rope(
            1e6, "yarn", factor=2.5, original_positions=1600, attention_factor=0.7, truncate=False),
    ),
    "qwen3-window": dict(
        family="qwen3", qk_norm=True, **PLAIN, **_heads(4, 4, 8, False), **_windows(3, False, False, True)
    ),
    "llama3": dict(family="llama", **PLAIN, **_heads(6, 2, 8, True), rope=LLAMA3, rms_norm_eps=1e-5),
    "llama-biases": dict(
        family="llama", output_bias=True, mlp_bias=True, **_heads(3, 3, 16, False), rope=Rope(1e4)
    ),
    "llama-linear": dict(
        family="llama", **PLAIN, **_heads(7, 1, 6, False), hidden_size=42,
        rope=Rope(1e4, "linear", factor=4.0),
    ),
    "granite": dict(
        family="granite", **PLAIN, **_heads(6, 2, 8, True), attention_scale=1 / 64,
        embedding_multiplier=12.0, residual_multiplier=0.22, logits_divisor=16.0, rope=Rope(1e7),
    ),
    "granite-biases": dict(
        family="granite", output_bias=True, mlp_bias=True, **_heads(3, 3, 16, False),
        attention_scale=0.4, embedding_multiplier=3.0, residual_multiplier=0.7, logits_divisor=0.5,
    ),
    "granite-grouped-7": dict(
        family="granite", **PLAIN, **_heads(7, 1, 6, True), attention_scale=0.5,
        residual_multiplier=1.4, logits_divisor=2.0,
    ),
    "phi4": dict(family="phi3", **PLAIN, **_heads(8, 2, 6, False), rope=Rope(25e4), rms_norm_eps=1e-5),
    "phi3-longrope": dict(family="phi3", **PLAIN, **_heads(6, 6, 8, False), rope=LONG),
    "phi3-partial": dict(
        family="phi3", **PLAIN, **_heads(5, 1, 12, True), **_windows(6, True, True, True),
        hidden_size=60, rope=Rope(1e4, "longrope", 2 / 3, original_positions=512, attention_factor=1.1,
                  short=LONG.short, long=LONG.long),
    ),
    "mistral-window": dict(
        family="mistral", **PLAIN, **_heads(8, 2, 8, False), **_windows(4, True, True, True)
    ),
    "mistral": dict(family="mistral", **PLAIN, **_heads(3, 3, 10, False), rope=Rope(1e6)),
    "mistral-grouped-7": dict(
        family="mistral", **PLAIN, **_heads(7, 1, 6, True), **_windows(2, True, True, True)
    ),
    "gemma2": dict(
        family="gemma2", **GEMMA, **_heads(4, 2, 16, True), **_windows(4, True, False, True),
        attention_softcap=5.0, logit_softcap=3.0,
    ),
    "gemma2-ungrouped": dict(
        family="gemma2", **GEMMA, **_heads(3, 3, 8, True), **_windows(6, True, False, True),
        attention_softcap=50.0, logit_softcap=30.0, rope=Rope(1e5),
    ),
    "gemma2-uncapped": dict(
        family="gemma2", **GEMMA, **_heads(6, 1, 8, False), **_windows(3, False, True, True)
    ),
    "gemma3": dict(
        family="gemma3_text", qk_norm=True, **GEMMA, **_heads(4, 2, 16, True),
        **_windows(4, True, True, False), rope=Rope(1e6, "linear", factor=8.0), local_rope=Rope(1e4),
    ),
    "gemma3-grouped": dict(
        family="gemma3_text", qk_norm=True, **GEMMA, **_heads(6, 1, 8, True),
        **_windows(7, True, False, True), rope=Rope(1e6), local_rope=Rope(1e3), logit_softcap=4.0,
    ),
    "gemma3-ungrouped": dict(
        family="gemma3_text", qk_norm=True, **GEMMA, **_heads(3, 3, 12, False),
        **_windows(2, False, True, True), rope=Rope(1e5), local_rope=Rope(1e4),
    ),
}  # fmt: skip


def config(name: str) -> DecoderConfig:
    """The configuration of a case; 50 heads' worth of sizes that real ones have in other ratios."""
    return DecoderConfig(**(SIZES | CASES[name]))


def decoder(config: DecoderConfig, seed: int = 5) -> models.Decoder:
    """Weights of scale 1/sqrt(fan in), biases and norms far from 0 and 1."""
    import jax.numpy as jnp
    from flax import nnx

    draw = np.random.default_rng(seed)

    def value(path, leaf):
        if path[-1] == "scale":
            return draw.uniform(0.5, 1.5, leaf.shape) - config.unit_offset_norm
        return draw.normal(size=leaf.shape) * (leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 0.5)

    graph, state = nnx.split(nnx.eval_shape(lambda: models.Decoder(config, rngs=nnx.Rngs(0))))
    flat = [
        (path, leaf.replace(jnp.asarray(value(path, leaf), jnp.float32)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(flat))
