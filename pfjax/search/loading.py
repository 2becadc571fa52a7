"""`pfjax.load`: a solver from names or folders."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax import models
from pfjax.models._files import read_object
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
    if len(text) > 4096 or "\0" in text or max(map(len, text.split("/"))) > 255:
        raise ValueError(f"policy or prm is {shown(name)}, which is no name of a folder.")
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
    require_mesh(mesh)
    form = execution.weight_format
    how = partial(dict, dtype=models.floating(dtype), weight_format=form, mesh=mesh)
    if isinstance(policy, models.Policy):
        loaded, own = policy, False
    else:
        loaded, own = (
            models.load_policy(resolve(policy), **how()),
            resolve(policy).parent == EMBEDDED,
        )
    if isinstance(prm, str) and prm == AUTO:
        prm = "embedded:prm" if own else None
    if isinstance(prm, str) and prm == SELF:
        prm = models.judge(loaded)
    if prm == "embedded:prm" and not own:
        require_orchard(loaded)
    reward = None
    if prm is not None:
        reward = opened(prm, lambda folder: models.load_prm(resolve(folder), **how()))
    return Solver(loaded, reward, sampling, budget, tau, mesh, execution, task)


def own_prompt(policy: str | Path) -> tuple[models.Tokenizer, models.Prompt]:
    """A policy's tokenizer and its own prompt; no weights are read."""
    folder = resolve(policy)
    tokenizer, path = models.Tokenizer.from_folder(folder), folder / "generation_config.json"
    generation = read_object(path) if path.exists() else {}
    return tokenizer, models.default_prompt(tokenizer, generation.get("pfjax_prompt"))


def require_mesh(mesh: object) -> None:
    """ValueError for what is no mesh."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh is {shown(mesh)}, wanted what models.make_mesh(2, 1) returns, or None."
        )


def require_orchard(policy: models.Policy) -> None:
    """ValueError if the embedded PRM does not know the policy's tokens."""
    known = models.Tokenizer.from_folder(EMBEDDED / "prm").token_bytes
    if policy.tokenizer.token_bytes[: len(known)] != known:
        raise ValueError(
            "prm is 'embedded:prm', which judges the embedded task alone; give the folder of a PRM, a "
            "function, or prm=None with method='majority'."
        )
