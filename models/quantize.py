"""A module with the matrices of its layers in 8 bits; embeddings, heads and norms stay as they are."""

from typing import TypeVar

from flax import nnx

from pfjax.models.linear import FORMATS, Linear, quantized

Module = TypeVar("Module", bound=nnx.Module)


def quantized_module(module: Module, weight_format: str) -> Module:
    """A copy with every projection of the decoder's layers in `weight_format`, int8 or fp8.

    Weight-only: activations and the cache stay floating-point. Source of the scheme: per output
    channel, symmetric (Dettmers et al. 2022, arXiv 2208.07339, section 2).
    """
    if weight_format not in FORMATS:
        raise ValueError(f"weight_format is {weight_format!r}, wanted one of {', '.join(FORMATS)}.")
    copy = nnx.merge(*nnx.split(module))
    decoder = getattr(copy, "decoder", copy)
    for layer in decoder.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(vars(part).items()):
                if isinstance(child, Linear):
                    setattr(part, name, quantized(child, weight_format))
    return copy
