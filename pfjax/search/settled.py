"""What a solver's settings leave out is the policy's own: sampling, budget, prompt, where that stops."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pfjax import models
from pfjax.models._asked import require_mesh
from pfjax.models.prompt import PLAIN_STOP
from pfjax.search.rewards import opened
from pfjax.settings.execution import require_settings
from pfjax.settings.numbers import shown
from pfjax.tasks.task import Task

if TYPE_CHECKING:
    from pfjax.search.solver import Solver


def settled(solver: "Solver") -> dict:
    """The solver's settings with nothing left out; ValueError for one that cannot be."""
    policy = solver.policy
    if not isinstance(policy, models.Policy):
        raise ValueError(
            f"policy is {shown(policy)}, wanted what models.load_policy returns; pfjax.load opens folders."
        )
    require_reward(solver.prm)
    require_mesh(solver.mesh)
    require_settings(solver.sampling, solver.budget, solver.execution, solver.tau)
    return {
        "sampling": solver.sampling.filled(policy.generation),
        "budget": solver.budget.filled(policy.generation),
        "task": filled(solver.task, policy),
        "tau": float(solver.tau),
        "execution": solver.execution.checked(),
    }


def filled(task: Task, policy: models.Policy) -> Task:
    """The task with the policy's own prompt, and where that stops; ValueError for what is no task."""
    if not isinstance(task, Task):
        raise ValueError(f"task is {shown(task)}, wanted a pfjax.Task.")
    prompt = task.prompt
    if prompt is None:
        prompt = models.default_prompt(policy.tokenizer, policy.generation.get("pfjax_prompt"))
    if not isinstance(prompt, models.Prompt):
        raise ValueError(f"task.prompt is {shown(prompt)}, wanted a pfjax.Prompt.")
    prompt.require_kept(policy.tokenizer)
    stop = task.stop
    if stop is None:
        stop = (PLAIN_STOP,) if prompt.plain(policy.tokenizer) else ()
    return replace(task, prompt=prompt, stop=stop)


def require_reward(reward: object) -> None:
    """ValueError for what no solver can weigh with: folders have to be opened first."""

    def refuse(folder: object):
        raise ValueError(
            f"prm is {shown(folder)}, a name that pfjax.load opens; here give what models.load_prm returns."
        )

    if reward is not None:
        opened(reward, refuse)  # pyright: ignore[reportArgumentType]
