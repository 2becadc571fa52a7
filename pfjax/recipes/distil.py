"""Close the loop once: distil the particle filter back into the small policy.

    1. run the filter (policy at temperature 0.5, PRM, N particles) on training problems
    2. weighted SFT on the final particles:   minimise  E_problem sum_i W_i (-log p(x_i))
    3. export, and measure pass@1 and PF@8 on held-out problems, before and after

No truth is used, only the PRM. Reference for the weighting: the final target of the filter,
p(x) exp(v_T) with p the policy at the search's temperature. The student learns at temperature 1 what
the search found at 0.5, so part of its gain is sharpening: pass@1 is reported at both.
"""

from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
from flax import nnx

from pfjax import models
from pfjax.distill import batches, losses, trainer
from pfjax.distill.search_data import Example, collect
from pfjax.evaluation.orchard import measure_policy, measure_search
from pfjax.recipes.recipe import Progress, Recipe
from pfjax.search.loading import resolve
from pfjax.search.solver import Solver
from pfjax.settings.sampling import Sampling
from pfjax.tasks import orchard

FIRST = 20_000_000
SCHEDULE = trainer.Schedule(steps=2000, rate=1e-3, warmup=30)
ROWS, WIDTH = 64, 160
TEMPERATURE = 0.5


def train(
    folder: Path,
    progress: Progress,
    *,
    policy: str = "embedded:small",
    prm: str = "embedded:prm",
    problems: int = 4096,
    particles: int = 16,
    held_out: int = 500,
    schedule: trainer.Schedule = SCHEDULE,
    save_every: int = 100,
) -> dict:
    """Runs the three parts.

    Every part resumes. Returns before/after metrics with 95 % intervals.
    """
    before, reward = models.load_policy(resolve(policy)), models.load_prm(resolve(prm))
    examples = _search(folder, before, reward, problems, particles, progress)
    graph, state = nnx.split(before.decoder)
    params = trainer.fit(
        nnx.to_pure_dict(state),
        losses.sequence_loss(graph),
        partial(_batch, by_problem(examples)),
        schedule,
        folder=folder,
        save_every=save_every,
        report=lambda step, row: progress(step, schedule.steps, row),
    )
    after = models.Policy(
        nnx.merge(graph, params), before.tokenizer, before.eos_ids, before.generation
    )
    models.export(after, folder / "model")
    after = models.load_policy(folder / "model")
    metrics: dict = {"problems searched": problems, "solutions": len(examples)}
    for name, model in (("before", before), ("after", after)) if held_out else ():
        for temperature in (1.0, TEMPERATURE):
            found = measure_policy(model, problems=held_out, temperature=temperature)
            metrics[f"pass@1 at temperature {temperature} {name}"] = found
        solver = Solver(model, reward)
        metrics[f"PF@8 {name}"] = measure_search(solver, particles=8, problems=held_out)
        metrics[f"PF@8 {name}"].pop("correct")
    return metrics


def by_problem(examples: list[Example]) -> list[list[Example]]:
    """The examples of each problem that has any."""
    return [list(found) for _, found in groupby(examples, lambda e: e.problem)]


def _search(folder, policy, reward, problems, particles, progress) -> list[Example]:
    questions = [orchard.generate(FIRST + i).question for i in range(problems)]
    solver = Solver(policy, reward, Sampling(TEMPERATURE))
    return collect(
        solver,
        questions,
        folder / "search",
        particles=particles,
        key=0,
        progress=lambda done, total: progress(0, 1, {"searched": done}),
    )


def _batch(problems: list[list[Example]], i: int) -> batches.Batch:
    """ROWS problems of a shuffle without repetition in an epoch, one solution of each.

    The solution is drawn by weight and carries the weight of all, so that the expected loss is the
    sum over all solutions.
    """
    count = len(problems)
    chosen = []
    for row in range(i * ROWS, (i + 1) * ROWS):
        epoch, at = divmod(row, count)
        found = problems[_permuted(count, epoch)[at]]
        weights = np.array([e.weight for e in found])
        drawn = np.random.default_rng((epoch, found[0].problem)).choice(
            len(found), p=weights / weights.sum()
        )
        chosen.append(found[drawn]._replace(weight=float(weights.sum())))
    batch = batches.solutions(
        [e.prompt for e in chosen],
        [e.solution for e in chosen],
        [e.weight for e in chosen],
        width=WIDTH,
    )
    return batch | {"problems": np.asarray(ROWS, np.float32)}


@lru_cache(maxsize=2)
def _permuted(count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(count)


distil = Recipe("one round of search distilled into embedded:small by weighted SFT", train)
