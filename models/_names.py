"""What a parameter is called in a Hugging Face file, and which architectures and dtypes exist."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

POLICY_ARCHITECTURE, PRM_ARCHITECTURE = "Qwen2ForCausalLM", "Qwen2ForProcessRewardModel"
_HEADS = {"lm_head": "lm_head", "score_in": "score.0", "score_out": "score.2"}
_DTYPES = ("float32", "bfloat16", "float16")


def tensor_name(path: tuple) -> tuple[str, bool]:
    """(Hugging Face name, whether it is stored transposed) of a module's parameter."""
    parts = [str(part) for part in path if part != "decoder"]
    stem = _HEADS.get(parts[0]) or ".".join(["model", *parts[:-1]])
    return f"{stem}.{'bias' if parts[-1] == 'bias' else 'weight'}", parts[-1] == "kernel"


def weight_dtype(dtype: DTypeLike) -> np.dtype:
    """A dtype that weights may have; ValueError for others."""
    if str(jnp.dtype(dtype)) not in _DTYPES:
        raise ValueError(f"dtype is {jnp.dtype(dtype)}, wanted one of {', '.join(_DTYPES)}.")
    return jnp.dtype(dtype)
