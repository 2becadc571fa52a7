"""The host's part of a search: which problems are on the device, and what each of them did.

Problems whose prompts have about one length share a pool of fixed places. With barriers of their
own (`engine.together`) a finished problem leaves and the next one enters; at a common barrier a
batch runs to its end before the next one starts, and its caches grow with the generations.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context, Found, Pool, Prompts, Snapshot
from pfjax.settings.budget import Budget

LARGE_BATCH = 512
EncodedPrompt = tuple[list[int], ...]


class Job(NamedTuple):
    """A problem to solve: the prompts of the policy and of every PRM, its key, and its question, where
    the host reads texts. `index` is its place in the list of jobs.
    """

    index: int
    prompt: EncodedPrompt
    key: Key[Array, ""]
    question: str = ""


def run(
    engine: Engine,
    budget: Budget,
    jobs: Sequence[Job],
    batch: int,
    done: Callable[[int], None] = lambda count: None,
    *,
    ahead: bool = False,
    watch: Callable[[int, list[Snapshot]], None] = lambda index, history: None,
) -> dict[int, list[Snapshot]]:
    """The generations of every job, by its index, without the problem axis.

    With `ahead` the programs that come next are compiled while the device is at work. `watch` is shown
    the generations of a job whenever it has a new one.
    """
    histories: dict[int, list[Snapshot]] = {job.index: [] for job in jobs}
    questions = [job.question for job in sorted(jobs, key=lambda job: job.index)]
    finished = 0
    groups = _by_width(jobs, batch)
    try:
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            coming = following if ahead else None
            flow = _pool(engine, budget, deque(group), batch, ahead, coming, questions)
            for index, snapshot, over in flow:
                histories[index].append(snapshot)
                watch(index, histories[index])
                finished += over
                if over:
                    done(finished)
    finally:
        engine.stop_preparing()
    return histories


def _pool(
    engine: Engine,
    budget: Budget,
    waiting: deque[Job],
    batch: int,
    prepare: bool,
    coming: list[Job] | None,
    questions: Sequence[str],
) -> Iterator[tuple[int, Snapshot, bool]]:
    """(job, its newest generation, whether it is over), as they come."""
    width = _width(waiting)
    own = engine.together is not None
    while waiting:
        first = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        places = dict(enumerate(first))
        level = _first_level(engine, budget, batch)
        prompts, keys = _padded(first, batch, width), _keys(first, batch)
        context, pool = engine.start(prompts, keys, level)
        pool, found = engine.advance(context, pool, questions)
        if prepare and not own:
            levels = {_level(budget, t, batch * engine.n) for t in range(1, budget.max_steps)}
            engine.prepare(context, pool, sorted(levels))
        if coming:
            _prepare(engine, budget, coming, batch, context, pool)
            coming = None
        generation = 0
        while places:
            ahead = None
            if not own and generation + 1 < budget.max_steps:
                # The host reads a generation while the device is at the next one, which the last time is idle.
                pool = engine.grow(pool, _level(budget, generation + 1, batch * engine.n))
                pool, ahead = engine.advance(context, pool, questions)
            found = jax.tree.map(np.asarray, found)
            for place, snapshot in _rows(found, engine.groups, batch):
                if place not in places:
                    continue
                over = bool(snapshot.finished.all())
                yield (places.pop(place) if over else places[place]).index, snapshot, over
            if own and waiting:
                context, pool = _refill(engine, context, pool, places, waiting, batch, width)
            if ahead is None and places:
                pool, ahead = engine.advance(context, pool, questions)
            found = ahead
            generation += 1


def _rows(found: Found, groups: int, batch: int) -> Iterator[tuple[int, Snapshot]]:
    """(place in the batch, its snapshot); every group of devices counts from 0."""
    each = batch // groups
    per_group = len(found.problem) // groups
    for row, local in enumerate(found.problem):
        if local < each:
            place = row // per_group * each + int(local)
            yield place, jax.tree.map(lambda x, r=row: x[r], found.snapshot)


def _refill(
    engine: Engine,
    context: Context,
    pool: Pool,
    places: dict[int, Job],
    waiting: deque[Job],
    batch: int,
    width: int,
) -> tuple[Context, Pool]:
    """New problems in free places, as many a group of devices as are weighed together."""
    each, many = batch // engine.groups, engine.together or batch
    entering: list[Job | None] = []
    local: list[int] = []
    for group in range(engine.groups):
        free = [i for i in range(each) if group * each + i not in places][:many]
        for i in range(many):
            job = waiting.popleft() if i < len(free) and waiting else None
            entering.append(job)
            local.append(free[i] if job else each)
            if job:
                places[group * each + free[i]] = job
    if all(job is None for job in entering):
        return context, pool
    some = next(job for job in entering if job)
    filled = [job or some for job in entering]
    prompts, keys = _padded(filled, len(filled), width), _keys(filled, len(filled))
    active = jnp.asarray([job is not None for job in entering])
    return engine.admit(
        context, pool, prompts._replace(active=active), keys, jnp.asarray(local, jnp.int32)
    )


def _prepare(
    engine: Engine, budget: Budget, jobs: list[Job], batch: int, context: Context, pool: Pool
) -> None:
    """Compiles the first programs of `jobs` in the background."""
    first = jobs[:batch]
    prompts = _padded(first, batch, _width(jobs))
    level = _first_level(engine, budget, batch)
    engine.prepare_start(prompts, _keys(first, batch), level, context, pool)


def _width(jobs: Iterable[Job]) -> int:
    return bucket(max(map(_length, jobs)))


def _first_level(engine: Engine, budget: Budget, batch: int) -> int:
    own = engine.together is not None
    return budget.max_tokens if own else _level(budget, 0, batch * engine.n)


def _level(budget: Budget, t: int, rows: int) -> int:
    """Solution tokens that the caches must hold before generation t.

    A third, two thirds or all of the budget.
    """
    if rows < LARGE_BATCH:
        return budget.max_tokens
    third = -(-budget.max_tokens // 3)
    return min(third * -(-max(t * budget.step_tokens, 1) // third), budget.max_tokens)


def bucket(length: int) -> int:
    """The cache columns of a prompt: a power of two or three halves of one, 64 at least.

    >>> [bucket(n) for n in (5, 65, 130, 200)]
    [64, 96, 192, 256]
    """
    width = 64
    while length > width:
        width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
    return width


def _by_width(jobs: Sequence[Job], batch: int) -> list[list[Job]]:
    """Jobs in two groups at most, so that few shapes are compiled: those whose prompts fit the bucket
    of the median prompt, and the longer ones, if they fill a batch. Shortest first.
    """
    ordered = sorted(jobs, key=_length)
    middle = bucket(_length(ordered[len(ordered) // 2]))
    short = [job for job in ordered if _length(job) <= middle]
    long = ordered[len(short) :]
    return [short, long] if len(long) >= batch else [ordered]


def _length(job: Job) -> int:
    return max(map(len, job.prompt))


def _keys(jobs: Sequence[Job], batch: int) -> Key[Array, " p"]:
    keys = [job.key for job in jobs]
    return jnp.stack(keys + keys[:1] * (batch - len(keys)))


def _padded(jobs: Sequence[Job], batch: int, width: int) -> Prompts:
    return pad([job.prompt for job in jobs], batch, width, [job.index for job in jobs])


def pad(
    prompts: Sequence[EncodedPrompt], batch: int, width: int, jobs: Sequence[int] = ()
) -> Prompts:
    """Arrays of `batch` rows and `width` columns; `jobs` are the problems' numbers (0, 1, ...)."""
    kinds = len(prompts[0])
    full = [*prompts, *[([0, 0],) * kinds] * (batch - len(prompts))]

    def block(rows: list[list[int]]):
        table = np.zeros((batch, width), np.int32)
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids)] = ids
        return jnp.asarray(table), jnp.asarray([len(r) for r in rows], jnp.int32)

    policy, policy_length = block([p[0][:-1] for p in full])
    prm = [block([p[k] for p in full]) for k in range(1, kinds)]
    last = jnp.asarray([p[0][-1] for p in full], jnp.int32)
    active = jnp.arange(batch, dtype=jnp.int32) < len(prompts)
    numbers = [*(jobs or range(len(prompts))), *[0] * (batch - len(prompts))]
    ids, lengths = (tuple(pair[k] for pair in prm) for k in (0, 1))
    job = jnp.asarray(numbers, jnp.int32)
    return Prompts(policy, policy_length, last, ids, lengths, active, job)
