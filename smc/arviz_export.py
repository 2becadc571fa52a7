"""Weighted particles and chains as ArviZ data, for its plots, summaries and files.

    x^1..D ~ choice of D of n particles by W        draws of chains: as they are

Reference: Kumar, Carroll, Hartikainen and Martin (2019), ArviZ: a unified library for exploratory
analysis of Bayesian models. The result is what the installed ArviZ has: an `InferenceData` before
version 1, an xarray `DataTree` since. Knows no algorithm; not for traced code.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from pfjax.smc._axes import require_typed
from pfjax.smc._checks import require_count
from pfjax.smc.choice import choice
from pfjax.smc.particle_filter import gather
from pfjax.smc.resampling import systematic
from pfjax.smc.types import Resampler, State
from pfjax.smc.weights import effective_sample_size

ArvizData: TypeAlias = object


def particles_to_arviz(
    key: Key[Array, "*batch"],
    state: State,
    num_draws: int,
    *,
    scheme: Resampler = systematic,
) -> ArvizData:
    """num_draws particles chosen by weight, with dimensions (chain, draw): a problem is a chain.

    The variables of group `posterior` are the leaves of the particles, `x` if they are one array.
    Its attributes have for every problem `ess` (of the weights), `log_evidence` and `status`. What
    ArviZ says of a chain (R-hat, its ESS) is not said of draws that are none. `scheme` as in `choice`.
    Raises `ImportError` without ArviZ, and `ValueError` for a raw key, a key whose axes are not those
    of the state, or more than one of them.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> state = smc.start(jax.random.key(0), {"mu": jnp.arange(8.0)}, 8)
    >>> data = smc.particles_to_arviz(jax.random.key(1), state, 4)  # doctest: +SKIP
    >>> data["posterior"]["mu"].dims  # doctest: +SKIP
    ('chain', 'draw')
    """
    arviz, num_draws = _arviz(), require_count("num_draws", num_draws)
    require_typed(key)
    if key.shape != state.log_evidence.shape or key.ndim > 1:
        raise ValueError(
            f"key: got axes {key.shape} for a state of axes {state.log_evidence.shape}, want those of "
            "the state, at most one; for more, take one of them at a time"
        )
    x, ess = jax.jit(_chosen, static_argnums=2)(key, state, choice(num_draws, scheme))
    x = x if key.ndim else jax.tree.map(lambda leaf: leaf[None], x)
    told = {
        "ess": ess,
        "log_evidence": state.log_evidence,
        "status": state.status,
    }
    attributes = {k: np.atleast_1d(v).tolist() for k, v in told.items()}
    return _data(arviz, {"posterior": _named({"": x}, 0)}, attributes)


def chains_to_arviz(
    draws: Mapping[str, PyTree[Array]],
    *,
    paths: Mapping[str, PyTree[Array]] | None = None,
    sample_stats: PyTree[Array] | None = None,
) -> ArvizData:
    """Draws of several chains, as `run` collects them with a key for every chain.

    Leaves of `draws` and of `sample_stats` have axes [draws, chains, ...], those of `paths` (of
    `pmmh`, `particle_gibbs`, `backward_gibbs`) [draws, steps, chains, ...]; all come behind (chain,
    draw), and a tree is as many variables as it has leaves. Discard a warm-up before. Raises
    `ImportError` without ArviZ, and `ValueError` for leaves of other numbers of draws or chains.

    >>> import jax, jax.numpy as jnp
    >>> from pfjax import smc
    >>> thetas, paths = jnp.zeros((100, 4)), jnp.zeros((100, 20, 4))
    >>> data = smc.chains_to_arviz({"theta": thetas}, paths={"x": paths})  # doctest: +SKIP
    >>> data["posterior"]["x"].sizes["draw"]  # doctest: +SKIP
    100
    """
    arviz = _arviz()
    posterior = _named(draws, 1)
    posterior |= _named(paths or {}, 2)
    groups = {"posterior": posterior}
    if sample_stats is not None:
        stats = sample_stats._asdict() if hasattr(sample_stats, "_asdict") else sample_stats
        groups["sample_stats"] = _named(stats, 1)
    shapes = {name: v.shape[:2] for group in groups.values() for name, v in group.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"draws: got (chains, draws) {shapes}, want the same of all; leaves have axes [draws, "
            "chains, ...], those of paths [draws, steps, chains, ...]"
        )
    return _data(arviz, groups, {})


def _chosen(
    key: Key[Array, "*batch"], state: State, choose: Resampler
) -> tuple[PyTree[Array], Float[Array, "*batch"]]:
    """The particles that are drawn, and the effective sample size of the weights."""
    rows = choose(key, state.log_weights, state.t)[0]
    return gather(state.particles, rows), effective_sample_size(state.log_weights)


def _named(tree: Mapping[str, PyTree[Array]], chain_axis: int) -> dict[str, np.ndarray]:
    """The leaves by the names on the way to them, with the axis of the chains in front."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(tree))[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".").strip(".") or "x"
        if np.ndim(leaf) <= chain_axis:
            raise ValueError(
                f"{name}: got axes {np.shape(leaf)}, want one of chains too; run with a key for every "
                "chain, jax.random.split(key, num_chains)"
            )
        named[name] = np.moveaxis(np.asarray(leaf), chain_axis, 0)
    return named


def _arviz() -> ModuleType:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError("arviz: is not installed; pip install arviz") from error


def _data(
    arviz: ModuleType, groups: dict[str, dict[str, np.ndarray]], attributes: dict[str, list]
) -> ArvizData:
    """What ArviZ makes of the groups, with attributes of the posterior."""
    is_old = arviz.__version__.startswith("0.")
    data = arviz.from_dict(**groups) if is_old else arviz.from_dict(groups)
    data["posterior"].attrs.update(attributes)
    return data
