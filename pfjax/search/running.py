"""Questions of about one length are on the device together; what an engine makes of each.

A batch is padded to its longest prompt. Where nobody fixed the batch, questions far shorter than others are
a batch of their own, which costs a compilation once and saves the padding every time.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Array, Key

from pfjax.engine import run
from pfjax.engine.pool import Snapshot
from pfjax.search.engines import require_batch
from pfjax.search.methods import Method
from pfjax.search.wiring import require_numbers

if TYPE_CHECKING:
    from pfjax.search.solver import Solver

RATIO, SHORT = 4, 512


class Ran(NamedTuple):
    """The generations of every problem; seconds and compilations of all."""

    histories: dict[int, list[Snapshot]]
    seconds: float
    compilations: int


class Ask(NamedTuple):
    """Problems to run: questions, their prompts and their keys."""

    questions: Sequence[str]
    prompts: Sequence[run.EncodedPrompt]
    keys: Key[Array, " p"]


def ran(
    solver: "Solver",
    method: Method,
    particles: int,
    asked: Ask,
    batch: int | None,
    progress: Callable[[int, int], None],
) -> Ran:
    """Runs all problems; RewardError, for a reward that fails, and ValueError as the engine's."""
    lengths = [max(map(len, prompt)) for prompt in asked.prompts]
    parts = apart(lengths) if batch is None else [list(range(len(lengths)))]
    if batch is not None:
        require_batch(solver, batch)
    began, histories, compiled = time.perf_counter(), {}, 0
    watched = solver.watched(method)

    def watch(index: int, history: list[Snapshot]) -> None:
        if watched:
            require_numbers(watched, solver.policy, asked.questions[index], history)

    for part in parts:
        size = batch or solver.batch(len(part), particles)
        engine, before = solver.engine(method, particles, size), len(histories)
        old = engine.compilations()
        jobs = [
            run.Job(k, asked.prompts[i], asked.keys[i], asked.questions[i])
            for k, i in enumerate(part)
        ]
        found = run.run(
            engine,
            solver.budget,
            jobs,
            size,
            lambda n, before=before: progress(before + n, len(lengths)),
            ahead=solver.execution.ahead,
            watch=lambda k, history, part=part: watch(part[k], history),
        )
        histories |= {part[k]: history for k, history in found.items()}
        compiled += engine.compilations() - old
    return Ran(histories, time.perf_counter() - began, compiled)


def apart(lengths: Sequence[int]) -> list[list[int]]:
    """Groups of problems, by number: the cache columns of a group's prompts differ by less than `RATIO`.

    Prompts of up to `SHORT` columns are together.

    >>> apart([5, 1960, 130, 90, 1500])
    [[0, 3, 2], [4, 1]]
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        width = run.bucket(lengths[i])
        longest = run.bucket(lengths[groups[-1][0]]) if groups else 0
        if groups and (longest <= SHORT or longest < RATIO * width):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [group[::-1] for group in groups[::-1]]
