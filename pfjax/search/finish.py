"""From the generations of one problem to its Result, from particles to solutions.

Host side: text, answers, counts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from pfjax import __version__, smc
from pfjax.engine.pool import Snapshot
from pfjax.models.pieces import Cut, piece, pieces
from pfjax.reasoning.move import move_in_place
from pfjax.reasoning.particles import Particles
from pfjax.search import tree
from pfjax.search.choosing import chosen, status_of
from pfjax.search.methods import Method
from pfjax.search.result import Asked, Counts, Result, Solution
from pfjax.tasks.grader import asked_of
from pfjax.tasks.grading import extracted
from pfjax.tasks.task import Task

if TYPE_CHECKING:
    from pfjax.search.solver import Solver


class Cost(NamedTuple):
    """Of a call: seconds of each problem, compilations of all, and how many problems there were."""

    seconds: float
    compilations: int
    problems: int


class Told(NamedTuple):
    """What was asked for beside the question: the key where it was a number, and the problem's id."""

    key: int | None = None
    id: int | str | None = None


def finish(
    solver: "Solver",
    method: Method,
    question: str,
    prompts: Sequence[list[int]],
    history: list[Snapshot],
    cost: Cost,
    told: Told = Told(),
) -> Result:
    """The Result of one problem; `history` holds its generations, without the problem axis.

    ValueError if the method's answer rule returns no particle.
    """
    last, genealogy = history[-1], _tree(solver, history)
    weights, task = np.exp(last.log_weights), solver.task
    solutions = []
    for i in range(len(weights)):
        path = genealogy.path(i)
        solutions.append(
            _solution(
                task,
                [node.text for node in path],
                [token for node in path for token in node.tokens],
                value=float(last.value[i]),
                weight=float(weights[i]),
                log_prob=float(last.log_prob[i]),
                finished=bool(last.finished[i] & ~last.truncated[i]),
                truncated=bool(last.truncated[i]),
                log_weight=float(last.log_weights[i]),
            )
        )
    log_weights, values = np.asarray(last.log_weights), np.asarray(last.value)
    answers = [s.answer for s in solutions]
    index = chosen(method.select, method.name, answers, log_weights, values, task.equal)
    answer = answers[index] if log_weights[index] > -np.inf else None
    counts = Counts(
        policy_tokens=sum(int(s.new_tokens.sum()) for s in history),
        prm_tokens=sum(int(s.new_reward_tokens.sum()) for s in history),
        reward_calls=sum(int(s.new_reward_calls.sum()) for s in history),
        prompt_tokens=sum(map(len, prompts)),
        **cost._asdict(),
    )
    words = smc.describe_status(int(last.info.status))
    lost = [bool(x) for x in np.isnan(last.log_prob)]
    return Result(
        question=question,
        answer=answer,
        chosen=index,
        solutions=solutions,
        log_evidence=float(last.log_evidence),
        tree=genealogy,
        counts=counts,
        method=method.name,
        status=status_of(words, answer, [s.truncated for s in solutions], lost),
        ess=[float(s.info.ess) for s in history],
        asked=_asked(solver, len(solutions), told),
    )


def _asked(solver: "Solver", particles: int, told: Told) -> Asked:
    sampling, budget = solver.sampling._asdict(), solver.budget._asdict()
    about = {"grader": asked_of(solver.task.equal), "version": __version__}
    return Asked(particles, told.key, told.id, solver.tau, sampling, budget, **about)


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
                pieces(solver.policy.tokenizer, steps),
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
    return Solution(text, shown, tokens, extracted(task.extract, text), **fields)


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


def _tree(solver: "Solver", history: list[Snapshot]) -> tree.Tree:
    tokenizer, slots = solver.policy.tokenizer, range(len(history[0].value))
    cuts, steps = [Cut()] * len(slots), []
    for snapshot in history:
        cuts = [cuts[a] for a in snapshot.info.ancestors]
        row = []
        for i in slots:
            ids = snapshot.step[i, : int(snapshot.new_tokens[i])].tolist()
            text, cuts[i] = piece(tokenizer, ids, cuts[i])
            row.append((text, ids))
        steps.append(row)
    return tree.build(
        np.stack([s.info.ancestors for s in history]),
        np.stack([s.new_tokens > 0 for s in history]),
        np.stack([s.value for s in history]),
        np.stack([s.finished for s in history]),
        steps,
        np.exp(history[-1].log_weights),
    )
