"""Operations that a decoder cannot avoid: two a weight and token, four a number of a column attended to.

    tokens (2 W + 4 h d c L)        W weights in products, h heads of d, c columns seen, L layers

W leaves out embeddings that are only looked up, norms and biases; a policy's head is in it, a PRM's is
not, since it is read once a step. A prefill stops at the last layer's keys and values: what stands
behind them is not computed. Knows nothing of devices.
"""

from collections.abc import Sequence
from math import prod

import jax
from flax import nnx

from pfjax.plan.weights import Model, Parameter, streamed

_BEHIND_KEYS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def count_weights(module: nnx.Module) -> int:
    """All numbers of a module, embeddings and norms too."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(module)))


def matrix_weights(model: Model) -> int:
    """Weights that every decoded or scored token is multiplied by."""
    return sum(p.size for p in _products(model))


def operations(model: Model, tokens: int, columns: int) -> int:
    """Of `tokens` that each see `columns`, with the head of a policy, without that of a PRM."""
    return tokens * (
        2 * matrix_weights(model) + _attention(model, model.config.num_layers, columns)
    )


def prefill_operations(model: Model, lengths: Sequence[int], columns: int | None = None) -> int:
    """Of prompts of so many tokens, each of which sees itself and those before it, or `columns`."""
    layers = model.config.num_layers
    kept = [p for p in _products(model) if "layers" in p.path]
    weights = sum(
        prod(p.shape) * (layers - 1 if p.path[-2] in _BEHIND_KEYS else layers) for p in kept
    )
    seen = [
        length * (length + 1) // 2 if columns is None else length * columns for length in lengths
    ]
    return 2 * weights * sum(lengths) + sum(_attention(model, layers - 1, s) for s in seen)


def search_operations(
    policy_tokens: int, prm_tokens: int, policy_weights: int, prm_weights: int
) -> int:
    """Two a weight and token of a whole search: no prompts, no padding, no attention."""
    return 2 * (policy_tokens * policy_weights + prm_tokens * prm_weights)


def _products(model: Model) -> list[Parameter]:
    return [p for p in streamed(model, "float32", None, 1) if len(p.shape) == 2]


def _attention(model: Model, layers: int, columns: int) -> int:
    """Scores and mixture of one token that sees so many columns in each layer."""
    return 4 * model.config.num_heads * model.config.head_dim * columns * layers
