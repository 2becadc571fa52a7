"""Parameters of a model and what each device of a model axis holds of them, without arrays.

Shapes come from `jax.eval_shape` of the modules that are loaded, divisions from
`pfjax.models.sharding`. The layers of a decoder have equal shapes, so one is traced and counted
`num_layers` times. Knows nothing of caches.
"""

from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pfjax.models._fill import abstract
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.models.prm import ProcessRewardModel, TokenModel, ValueModel
from pfjax.models.quantize import quantized_module
from pfjax.models.sharding import vocab_padding, weight_spec


class Model(NamedTuple):
    """A model to plan for; `head` is that of its `PRMKind`, None for a policy.

    `reads_text` says that the search hands a PRM text instead of the policy's tokens.
    """

    name: str
    config: DecoderConfig
    head: str | None = None
    reads_text: bool = False


class Parameter(NamedTuple):
    """`copies` equal parameters: their path, shape, shape on one device, and bytes an entry."""

    path: tuple
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    itemsize: int
    copies: int

    @property
    def size(self) -> int:
        """Numbers in all copies."""
        return prod(self.shape) * self.copies

    @property
    def local_size(self) -> int:
        """Numbers of all copies on one device."""
        return prod(self.local_shape) * self.copies


@lru_cache(maxsize=256)
def parameters(
    model: Model, dtype: str, weight_format: str | None, size: int
) -> tuple[Parameter, ...]:
    """Every parameter as `load_policy` or `load_prm` would hold it on a model axis of `size`."""
    config = as_loaded(model, size)
    one_layer = replace(config, num_layers=1, sliding_layers=())
    graph, state = nnx.split(abstract(partial(_build, model.head), one_layer))
    kept = jnp.dtype(dtype)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kept), state)
    if weight_format is not None:
        stored = weight_format
        state = jax.eval_shape(
            lambda s: nnx.state(quantized_module(nnx.merge(graph, s), stored)), state
        )
    mesh = AbstractMesh((size,), ("model",))
    found = []
    for path, leaf in nnx.to_flat_state(state):
        sharding = NamedSharding(mesh, weight_spec(path, config, size))
        copies = config.num_layers if "layers" in path else 1
        local = sharding.shard_shape(leaf.shape)
        found.append(Parameter(path, leaf.shape, local, leaf.dtype.itemsize, copies))
    return tuple(found)


def weights(
    model: Model, dtype: str, weight_format: str | None, size: int
) -> tuple[nnx.GraphDef, nnx.State]:
    """The whole module, without arrays, as it would be loaded."""
    config = as_loaded(model, size)
    graph, state = nnx.split(abstract(partial(_build, model.head), config))
    kept = jnp.dtype(dtype)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kept), state)
    if weight_format is None:
        return graph, state
    stored = weight_format
    return nnx.split(nnx.eval_shape(lambda s: quantized_module(nnx.merge(graph, s), stored), state))


def as_loaded(model: Model, size: int) -> DecoderConfig:
    """The vocabulary padded to the axis; a PRM with a head of its own has no lm_head."""
    config = model.config
    config = replace(config, vocab_padding=vocab_padding(config.vocab_size, size))
    return replace(config, tie_embeddings=True) if model.head in ("classes", "value") else config


def _build(head: str | None, config: DecoderConfig, rngs: nnx.Rngs) -> nnx.Module:
    if head is None:
        return Decoder(config, rngs=rngs)
    if head == "tokens":
        return TokenModel(config, 0, 1, rngs=rngs)
    return (ProcessRewardModel if head == "classes" else ValueModel)(config, rngs=rngs)


def weight_bytes(model: Model, dtype: str, weight_format: str | None, size: int) -> int:
    """Bytes of weights on one device of a model axis."""
    return sum(p.local_size * p.itemsize for p in parameters(model, dtype, weight_format, size))


def count(model: Model) -> int:
    """Numbers that a checkpoint of the model stores, without padding."""
    return sum(p.size for p in parameters(model, "bfloat16", None, 1))


def streamed(
    model: Model, dtype: str, weight_format: str | None, size: int
) -> tuple[Parameter, ...]:
    """What one forward pass reads whole: layers, last norm and the policy's head.

    Of an embedding only rows are looked up, unless it is the head too; a PRM reads its head at a
    handful of positions.
    """
    chosen = []
    for p in parameters(model, dtype, weight_format, size):
        name = p.path[-2]
        if name == "embed_tokens":
            whole = model.head is None and model.config.tie_embeddings
        else:
            whole = "layers" in p.path or name == "norm"
            whole = whole or (model.head is None and name == "lm_head")
        chosen += [p] if whole else []
    return tuple(chosen)


def is_split(config: DecoderConfig, projection: str, size: int) -> bool:
    """Whether a projection of the layers, such as "k_proj", is divided over the axis."""
    part = "self_attn" if projection in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    path = ("layers", 0, part, projection, "weight")
    return weight_spec(path, config, size) != P()


def replicated(model: Model, size: int) -> list[str]:
    """Projections that every device of the axis holds whole, because it does not divide them."""
    names = ("q_proj", "o_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
    return [name for name in names if size > 1 and not is_split(model.config, name, size)]
