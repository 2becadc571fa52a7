"""`pfjax.load`: a solver from names or folders."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax import models
from pfjax.models.checkpoint import generation_of
from pfjax.search.rewards import Named, opened
from pfjax.search.solver import Solver
from pfjax.settings.budget import Budget
from pfjax.settings.execution import Execution, require_settings
from pfjax.settings.numbers import shown
from pfjax.settings.sampling import Sampling
from pfjax.tasks.task import Task

EMBEDDED = Path(__file__).parents[1] / "embedded"
AUTO, SELF = "auto", "self"


def resolve(name: str | Path) -> Path:
    """The folder of a checkpoint: `embedded:small`, `embedded:large`, `embedded:prm`, or a path."""
    if not isinstance(name, (str, Path)) or not str(name):
        raise ValueError(
            f"policy or prm is {shown(name)}, wanted the name of a model or its folder."
        )
    text = str(name)
    if not text.startswith("embedded:"):
        return Path(text)
    known = {f"embedded:{p.parent.name}": p.parent for p in EMBEDDED.glob("*/config.json")}
    if text not in known:
        raise models.CheckpointError(
            f"there is no embedded model {shown(text)}; there are {', '.join(sorted(known))}."
        )
    return known[text]


def load(
    policy: str | Path | models.Policy = "embedded:small",
    prm: Named | None = AUTO,
    *,
    sampling: Sampling = Sampling(),
    budget: Budget = Budget(),
    tau: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    execution: Execution = Execution(),
    task: Task = Task(),
) -> Solver:
    """A Solver for a policy and a PRM, each an embedded name, a Hugging Face folder, or loaded already.

    `prm` may be any reward instead: a function (question, steps) -> log-odds, or one of
    `search.rewards`. "auto" is embedded:prm for the embedded policies and none for others, "self" asks the
    policy itself (`models.judge`). `tau` divides its log-odds. What sampling, budget and task leave out is
    the policy's own. `dtype` is that of weights which are opened here; `mesh` (`models.make_mesh`) shards
    problems over its first axis and weights over its axis "model". CheckpointError says in one sentence
    why a checkpoint cannot be used, ValueError which argument has a value that is not known.
    """
    require_settings(sampling, budget, execution, tau)
    form, dtype = execution.weight_format, models.floating(dtype)
    if isinstance(policy, models.Policy):
        loaded, own = policy, False
    else:
        folder = resolve(policy)
        loaded = models.load_policy(folder, dtype=dtype, weight_format=form, mesh=mesh)
        own = folder.parent == EMBEDDED
    if isinstance(prm, str) and prm == AUTO:
        prm = "embedded:prm" if own else None
    if isinstance(prm, str) and prm == SELF:
        prm = models.judge(loaded)
    if prm == "embedded:prm" and not own:
        require_orchard(loaded)
    reward = None
    if prm is not None:
        open_prm = partial(models.load_prm, dtype=dtype, weight_format=form, mesh=mesh)
        reward = opened(prm, lambda folder: open_prm(resolve(folder)))
    return Solver(loaded, reward, sampling, budget, tau, mesh, execution, task)


def own_prompt(policy: str | Path) -> tuple[models.Tokenizer, models.Prompt]:
    """A policy's tokenizer and its own prompt; no weights are read."""
    folder = resolve(policy)
    tokenizer = models.Tokenizer.from_folder(folder)
    return tokenizer, models.default_prompt(tokenizer, generation_of(folder).get("pfjax_prompt"))


def require_orchard(policy: models.Policy) -> None:
    """ValueError if the embedded PRM does not know the policy's tokens."""
    known = models.Tokenizer.from_folder(EMBEDDED / "prm").token_bytes
    if policy.tokenizer.token_bytes[: len(known)] != known:
        raise ValueError(
            "prm is 'embedded:prm', which judges the embedded task alone; give the folder of a PRM, a "
            "function, or use the method 'majority' without a PRM."
        )
