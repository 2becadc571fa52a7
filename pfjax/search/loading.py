"""`pfjax.load`: a solver from names or folders."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax import models
from pfjax.reasoning.budget import Budget
from pfjax.reasoning.sampling import Sampling
from pfjax.search.execution import Execution, require_settings
from pfjax.search.rewards import Named, opened
from pfjax.search.solver import Solver

EMBEDDED = Path(__file__).parents[1] / "embedded"


def resolve(name: str | Path) -> Path:
    """The folder of a checkpoint: `embedded:small`, `embedded:large`, `embedded:prm`, or a path."""
    text = str(name)
    if not text.startswith("embedded:"):
        return Path(text).expanduser()
    folder = EMBEDDED / text.removeprefix("embedded:")
    if not (folder / "config.json").exists():
        names = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
        raise models.CheckpointError(
            f"there is no embedded model {text!r}; there are {', '.join(f'embedded:{n}' for n in names)}."
        )
    return folder


def load(
    policy: str | Path = "embedded:small",
    prm: Named | None = "embedded:prm",
    *,
    sampling: Sampling = Sampling(),
    budget: Budget = Budget(),
    tau: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    weight_format: str | None = None,
    mesh: Mesh | None = None,
    execution: Execution = Execution(),
) -> Solver:
    """A Solver for a policy and a PRM, each an embedded name or a Hugging Face folder.

    `prm` may be any reward instead: a function (question, steps) -> log-odds, or one of
    `search.rewards`. `tau` divides its log-odds. What a budget leaves out is the policy's own.
    `dtype` and `weight_format` ("int8", "fp8") are those of the weights, see `models.load_policy`;
    `mesh` (`models.make_mesh`) shards problems over its first axis and weights over its axis "model".
    CheckpointError says in one sentence why a checkpoint cannot be used, ValueError which argument
    has a value that is not known.
    """
    require_settings(sampling, budget, execution, tau)
    how = partial(dict, dtype=dtype, weight_format=weight_format, mesh=mesh)
    reward = None
    loaded = models.load_policy(resolve(policy), **how())
    if prm is not None:
        reward = opened(prm, lambda folder: models.load_prm(resolve(folder), **how()))
    return Solver(loaded, reward, sampling, budget, tau=tau, mesh=mesh, execution=execution)
