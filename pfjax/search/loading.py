"""`pfjax.load`: a solver from names or folders."""

from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pfjax import models
from pfjax.reasoning.flight import Budget
from pfjax.reasoning.sampling import Sampling
from pfjax.search.solver import Solver, check_kv_format

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
    prm: str | Path | None = "embedded:prm",
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    tau: float = 1.0,
    max_tokens: int | None = None,
    step_tokens: int | None = None,
    max_steps: int | None = None,
    rows: int = 512,
    dtype: DTypeLike = jnp.float32,
    weight_format: str | None = None,
    mesh: Mesh | None = None,
    together: int | None = None,
    slots: int | None = None,
    kv_format: str | None = None,
    ahead: bool = False,
) -> Solver:
    """A Solver for a policy and a PRM, each an embedded name or a Hugging Face folder.

    Budgets default to the policy's generation_config.json (max_new_tokens, step_tokens, max_steps),
    then to 1024 tokens a solution, 256 a step, 40 steps. `tau` divides log-odds; `rows` bounds
    problems x particles in a device batch; `top_k`, `top_p` and `min_p` cut what is sampled, see
    `Sampling`; `together`, `slots`, `kv_format` (None or "int8") and `ahead` are those of `Solver`;
    `dtype` and `weight_format` ("int8", "fp8") are those of the weights, see `models.load_policy`; `mesh`
    (`models.make_mesh`) shards problems over its first axis and weights over its axis "model".
    CheckpointError says in one sentence why a checkpoint cannot be used, ValueError which argument
    has a value that is not known.
    """
    check_kv_format(kv_format)
    loaded = models.load_policy(
        resolve(policy), dtype=dtype, weight_format=weight_format, mesh=mesh
    )
    reward = None
    if prm is not None:
        reward = models.load_prm(resolve(prm), dtype=dtype, weight_format=weight_format, mesh=mesh)
    own = budget(loaded)
    limits = Budget(
        step_tokens=step_tokens or own.step_tokens,
        max_tokens=max_tokens or own.max_tokens,
        max_steps=max_steps or own.max_steps,
    )
    return Solver(
        loaded,
        reward,
        Sampling(temperature, top_p, top_k, min_p).checked(),
        limits,
        tau=tau,
        rows=rows,
        mesh=mesh,
        together=together,
        slots=slots,
        kv_format=kv_format,
        ahead=ahead,
    )


def budget(policy: models.Policy) -> Budget:
    """The budget in a policy's generation_config.json, or 1024 tokens a solution, 256 a step, 40
    steps.
    """
    given = policy.generation
    return Budget(
        step_tokens=int(given.get("step_tokens", 256)),
        max_tokens=int(given.get("max_new_tokens", 1024)),
        max_steps=int(given.get("max_steps", 40)),
    )
