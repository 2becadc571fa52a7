"""A module with its matrices in 8 bits; norms, biases and the heads of rewards stay as they are."""

from typing import TypeVar, cast

import ml_dtypes
import numpy as np
from flax import nnx

from pfjax.models._asked import shown
from pfjax.models.decoder import Decoder
from pfjax.models.embedding import Embedding
from pfjax.models.linear import FORMATS, Linear, quantize, quantized

Module = TypeVar("Module", bound=nnx.Module)
OF_TABLES = "int8"
STORED = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}


def quantized_module(module: Module, weight_format: str) -> Module:
    """A copy with the decoder's projections in `weight_format`, int8 or fp8, embedding and head in int8.

    Weight-only: activations and the cache stay floating-point. Source of the scheme: per output
    channel, symmetric (Dettmers et al. 2022, arXiv 2208.07339, section 2). fp8 has 3 bits of a number,
    which a head shows, so that tables are int8 beside it.
    """
    require_format(weight_format)
    copy = nnx.merge(*nnx.split(module))
    decoder = cast(Decoder, getattr(copy, "decoder", copy))
    for layer in decoder.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(vars(part).items()):
                if isinstance(child, Linear):
                    setattr(part, name, quantized(child, weight_format))
    decoder.embed_tokens = _quantized_table(decoder.embed_tokens, OF_TABLES)
    if not decoder.config.tie_embeddings:
        decoder.lm_head = quantized(decoder.lm_head, OF_TABLES)
    return copy


def require_format(weight_format: str) -> None:
    """ValueError unless it is one of `FORMATS`."""
    if not isinstance(weight_format, str) or weight_format not in FORMATS:
        raise ValueError(
            f"weight_format is {shown(weight_format)}, wanted one of {', '.join(FORMATS)}."
        )


def quantized_rows(weight: np.ndarray, weight_format: str) -> tuple[np.ndarray, np.ndarray]:
    """`linear.quantize` on the host, the same bits: (8-bit rows, float32 scale of each)."""
    largest = np.maximum(weight.max(axis=1), -weight.min(axis=1))
    scale = np.where(
        largest > 0, largest * np.float32(1 / FORMATS[weight_format][1]), np.float32(1)
    )
    ratio = weight * (np.float32(1) / scale)[:, None]
    if weight_format == "int8":
        np.rint(ratio, out=ratio)
    return ratio.astype(STORED[weight_format]), scale


def _quantized_table(table: Embedding, weight_format: str) -> Embedding:
    graph, state = nnx.split(table)
    new = nnx.merge(graph, state)
    rows, scale = quantize(table.embedding[...], weight_format)
    new.embedding, new.scale = nnx.Param(rows), nnx.Param(scale)
    return new
