"""From the generations of one problem to its Result, from particles to solutions.

Host side: text, answers, counts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from pfjax import smc
from pfjax.engine.pool import Snapshot
from pfjax.reasoning.move import move_in_place
from pfjax.reasoning.particles import Particles
from pfjax.search import tree
from pfjax.search.methods import Method
from pfjax.search.result import Counts, Result, Solution
from pfjax.settings.words import one_line
from pfjax.tasks.grading import normal_form
from pfjax.tasks.task import Task

if TYPE_CHECKING:
    from pfjax.search.solver import Solver


def finish(
    solver: "Solver",
    method: Method,
    question: str,
    prompts: Sequence[list[int]],
    history: list[Snapshot],
    seconds: float,
    compiled: int,
) -> Result:
    """The Result of one problem; `history` holds its generations, without the problem axis.

    ValueError if the method's answer rule returns no particle.
    """
    last = history[-1]
    genealogy = _tree(solver.policy.tokenizer, history)
    weights = np.exp(last.log_weights)
    solutions = []
    for i in range(len(weights)):
        path = genealogy.path(i)
        solutions.append(
            _solution(
                solver.task,
                [node.text for node in path],
                [token for node in path for token in node.tokens],
                value=float(last.value[i]),
                weight=float(weights[i]),
                log_prob=float(last.log_prob[i]),
                finished=bool(last.finished[i] & ~last.truncated[i]),
                truncated=bool(last.truncated[i]),
            )
        )
    chosen = _chosen(method, solutions, np.asarray(last.log_weights), np.asarray(last.value))
    alive = last.log_weights[chosen] > -np.inf
    return Result(
        question=question,
        answer=solutions[chosen].answer if alive else None,
        chosen=chosen,
        solutions=solutions,
        log_evidence=float(last.log_evidence),
        tree=genealogy,
        counts=Counts(
            policy_tokens=sum(int(s.new_tokens.sum()) for s in history),
            prm_tokens=sum(int(s.new_reward_tokens.sum()) for s in history),
            reward_calls=sum(int(s.new_reward_calls.sum()) for s in history),
            prompt_tokens=sum(map(len, prompts)),
            seconds=seconds,
            compilations=compiled,
        ),
        method=method.name,
        status=smc.describe_status(int(last.info.status)),
        ess=[float(s.info.ess) for s in history],
    )


def generations_of(generations: Snapshot, problems: int) -> list[list[Snapshot]]:
    """Of each problem its generations up to the one that ended its last particle.

    `generations` are stacked [t, p, ...]; ValueError for another number of problems.
    """
    if not isinstance(generations, Snapshot):
        raise ValueError(
            f"generations: got {type(generations).__name__}, wanted what smc.run(..., "
            "collect=solver.collect) returns second."
        )
    found = jax.device_get(generations)
    if np.ndim(found.value) != 3 or found.value.shape[1] != problems:
        raise ValueError(
            f"generations: got values of shape {np.shape(found.value)} for {problems} questions, wanted "
            "[t, questions, particles]: what smc.run(..., collect=solver.collect) returns second."
        )
    over = found.finished.all(axis=2)
    histories = []
    for p in range(problems):
        count = int(over[:, p].argmax()) + 1 if over[:, p].any() else len(over)
        rows = [jax.tree.map(lambda x, t=t, p=p: x[t, p], found) for t in range(count)]
        histories.append(rows)
    return histories


def solutions_of(solver: "Solver", x: Particles) -> list[Solution]:
    """Rows of particles [n, ...] as Solutions of equal weight."""
    solutions = []
    for i, (length, count) in enumerate(zip(x.length, x.num_steps, strict=True)):
        tokens, ends = x.tokens[i][:length].tolist(), [0, *x.step_end[i][:count].tolist()]
        steps = [tokens[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        solutions.append(
            _solution(
                solver.task,
                [solver.policy.tokenizer.decode(step) for step in steps],
                tokens,
                value=float(x.value[i]),
                weight=1 / len(x.length),
                log_prob=float(x.log_prob[i]),
                finished=bool(x.finished[i] & ~x.truncated[i]),
                truncated=bool(x.truncated[i]),
            )
        )
    return solutions


def _solution(task: Task, steps: list[str], tokens: list[int], **fields) -> Solution:
    text = task.cut("".join(steps))
    shown = [task.cut(step).strip() for step in steps]
    return Solution(text, shown, tokens, task.extract(text), **fields)


def _chosen(
    method: Method, solutions: list[Solution], log_weights: np.ndarray, values: np.ndarray
) -> int:
    """The particle that the method's answer rule takes; what the reward killed has no answer."""
    answers = [
        None if s.answer is None or log_w == -np.inf else normal_form(s.answer)
        for s, log_w in zip(solutions, log_weights, strict=True)
    ]
    told = f"method {method.name!r}: its answer rule"
    wanted = f"wanted the index of a particle, 0 to {len(solutions) - 1}"
    try:
        found = method.select(answers, log_weights, values)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{told} raised {what}; {wanted}.") from error
    index = np.asarray(found) if not isinstance(found, (str, bool)) else None
    if index is None or index.shape or index.dtype.kind not in "iu":
        raise ValueError(f"{told} returned {found!r}, {wanted}.")
    if not 0 <= index < len(solutions):
        raise ValueError(f"{told} returned {found!r}, {wanted}.")
    return int(index)


def require_in_place(method: Method, history: list[Snapshot]) -> None:
    """ValueError for ancestors that `move_in_place` cannot move."""
    if method.move is not move_in_place:
        return
    for generation in history:
        ancestors = generation.info.ancestors
        if (ancestors[ancestors] != ancestors).any():
            raise ValueError(
                f"method {method.name!r}: move_in_place needs ancestors that stay in their slots, and "
                "its resampler moves them; write smc.in_place(resampler), or leave move out."
            )


def _tree(tokenizer, history: list[Snapshot]) -> tree.Tree:
    def step(snapshot: Snapshot, i: int) -> tuple[str, list[int]]:
        ids = snapshot.step[i, : int(snapshot.new_tokens[i])].tolist()
        return (tokenizer.decode(ids) if ids else ""), ids

    slots = range(len(history[0].value))
    return tree.build(
        np.stack([s.info.ancestors for s in history]),
        np.stack([s.new_tokens > 0 for s in history]),
        np.stack([s.value for s in history]),
        np.stack([s.finished for s in history]),
        [[step(s, i) for i in slots] for s in history],
        np.exp(history[-1].log_weights),
    )
