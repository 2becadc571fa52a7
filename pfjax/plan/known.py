"""Published models by name, so that a plan needs no download: what config.json says of their sizes.

Facts of the config.json files on huggingface.co as of 2026; instruction-tuned variants have the sizes
of their base, and the context here is that of the Instruct model. Angles and windows are left out: no
size depends on them. Math-Shepherd and RLHFlow's PRM are fine-tuned whole and have the sizes of
Mistral-7B-v0.1 and Llama-3.1-8B. `pfjax_prm` names how a PRM reads solutions, as `export` notes it.
"""

from typing import NamedTuple


class _Sizes(NamedTuple):
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head_dim: int = 0


_QWEN25 = {
    "0.5B": _Sizes(896, 4864, 24, 14, 2, 151936, True),
    "1.5B": _Sizes(1536, 8960, 28, 12, 2, 151936, True),
    "3B": _Sizes(2048, 11008, 36, 16, 2, 151936, True),
    "7B": _Sizes(3584, 18944, 28, 28, 4, 152064, False),
    "14B": _Sizes(5120, 13824, 48, 40, 8, 152064, False),
    "32B": _Sizes(5120, 27648, 64, 40, 8, 152064, False),
    "72B": _Sizes(8192, 29568, 80, 64, 8, 152064, False),
}
_QWEN3 = {
    "0.6B": _Sizes(1024, 3072, 28, 16, 8, 151936, True, 128),
    "1.7B": _Sizes(2048, 6144, 28, 16, 8, 151936, True, 128),
    "4B": _Sizes(2560, 9728, 36, 32, 8, 151936, True, 128),
    "8B": _Sizes(4096, 12288, 36, 32, 8, 151936, False, 128),
    "14B": _Sizes(5120, 17408, 40, 40, 8, 151936, False, 128),
    "32B": _Sizes(5120, 25600, 64, 64, 8, 151936, False, 128),
}
_LLAMA_8B = _Sizes(4096, 14336, 32, 32, 8, 128256, False)
_MISTRAL = _Sizes(4096, 14336, 32, 32, 8, 32000, False)
_QWEN, _LLAMA = "Qwen2ForCausalLM", "LlamaForCausalLM"


def _fields(architecture: str, sizes: _Sizes, context: int, prm: str | None = None) -> dict:
    fields = {
        "architectures": [architecture],
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": sizes.tied,
        "max_position_embeddings": context,
    }
    fields |= {"head_dim": sizes.head_dim} if sizes.head_dim else {}
    return fields | ({"pfjax_prm": prm} if prm else {})


def _distilled(size: str) -> dict:
    """DeepSeek-R1-Distill-Qwen: Qwen2.5 with a head of its own at every size."""
    return _fields(_QWEN, _QWEN25[size]._replace(tied=False), 131072)


KNOWN = {
    **{f"Qwen2.5-{s}": _fields(_QWEN, sizes, 32768) for s, sizes in _QWEN25.items()},
    **{f"Qwen2.5-Math-{s}": _fields(_QWEN, _QWEN25[s], 4096) for s in ("1.5B", "7B")},
    **{
        f"Qwen2.5-Math-PRM-{s}": _fields("Qwen2ForProcessRewardModel", _QWEN25[s], 4096, "qwen")
        for s in ("7B", "72B")
    },
    **{
        f"Skywork-o1-Open-PRM-Qwen-2.5-{s}": _fields(_QWEN, _QWEN25[s], 4096, "skywork")
        for s in ("1.5B", "7B")
    },
    **{f"Qwen3-{s}": _fields("Qwen3ForCausalLM", sizes, 40960) for s, sizes in _QWEN3.items()},
    **{f"DeepSeek-R1-Distill-Qwen-{s}": _distilled(s) for s in ("1.5B", "7B", "14B", "32B")},
    "DeepSeek-R1-Distill-Llama-8B": _fields(_LLAMA, _LLAMA_8B, 131072),
    "Llama-3.1-8B": _fields(_LLAMA, _LLAMA_8B, 131072),
    "Llama-3.2-1B": _fields(_LLAMA, _Sizes(2048, 8192, 16, 32, 8, 128256, True, 64), 131072),
    "Llama-3.2-3B": _fields(_LLAMA, _Sizes(3072, 8192, 28, 24, 8, 128256, True, 128), 131072),
    "Llama3.1-8B-PRM-Deepseek-Data": _fields(_LLAMA, _LLAMA_8B, 131072, "rlhflow"),
    "Granite-3.1-2B": _fields(
        "GraniteForCausalLM", _Sizes(2048, 8192, 40, 32, 8, 49155, True), 131072
    ),
    "Granite-3.1-8B": _fields(
        "GraniteForCausalLM", _Sizes(4096, 12800, 40, 32, 8, 49155, True), 131072
    ),
    "Phi-4": _fields("Phi3ForCausalLM", _Sizes(5120, 17920, 40, 40, 10, 100352, False), 16384),
    "Mistral-7B-v0.1": _fields("MistralForCausalLM", _MISTRAL, 32768),
    "Mistral-7B-v0.3": _fields("MistralForCausalLM", _MISTRAL._replace(vocabulary=32768), 32768),
    "Math-Shepherd-Mistral-7B-PRM": _fields("MistralForCausalLM", _MISTRAL, 32768, "math-shepherd"),
    "Gemma-2-2b": _fields(
        "Gemma2ForCausalLM", _Sizes(2304, 9216, 26, 8, 4, 256000, True, 256), 8192
    ),
    "Gemma-2-9b": _fields(
        "Gemma2ForCausalLM", _Sizes(3584, 14336, 42, 16, 8, 256000, True, 256), 8192
    ),
    "Gemma-3-1b": _fields(
        "Gemma3ForCausalLM", _Sizes(1152, 6912, 26, 4, 1, 262144, True, 256), 32768
    ),
}
_BY_KEY = {name.lower(): name for name in KNOWN}


def find(name: str) -> str | None:
    """The name in the table of a published name: any case, owner and "-Instruct" left out.

    >>> find("Qwen/Qwen2.5-7B-Instruct"), find("google/gemma-2-2b-it"), find("GPT-2")
    ('Qwen2.5-7B', 'Gemma-2-2b', None)
    """
    key = name.rsplit("/", 1)[-1].lower()
    for ending in ("-instruct", "-it"):
        key = key.removesuffix(ending)
    return _BY_KEY.get(key) or _BY_KEY.get(f"{key}-instruct")
