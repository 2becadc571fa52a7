"""Close the loop once: distil the particle filter back into the small policy.

    1. run the filter (policy, PRM, N particles) on training problems
    2. weighted SFT on the final particles:   minimise  E_problem sum_i W_i (-log p(x_i))
    3. export, and measure pass@1 and PF@8 on held-out problems, before and after

No truth is used, only the PRM. Reference for the weighting: the final target p(x) exp(v_T) of the
filter.
"""

from functools import partial
from pathlib import Path

import numpy as np
from flax import nnx

from pfjax import models
from pfjax.distill import batches, losses, trainer
from pfjax.distill.search_data import Example, collect
from pfjax.evaluation.orchard import measure_policy, measure_search
from pfjax.loading import budget, resolve
from pfjax.reasoning.solver import Solver
from pfjax.recipes.recipe import Progress, Recipe
from pfjax.tasks import orchard

FIRST = 20_000_000
SCHEDULE = trainer.Schedule(steps=600, rate=1e-3, warmup=30)
ROWS, WIDTH = 16, 160


def train(
    folder: Path,
    progress: Progress,
    *,
    policy: str = "embedded:small",
    prm: str = "embedded:prm",
    problems: int = 1024,
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
        partial(_batch, examples),
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
        metrics[f"pass@1 {name}"] = measure_policy(model, problems=held_out)
        solver = Solver(model, reward, budget=budget(model))
        metrics[f"PF@8 {name}"] = measure_search(solver, particles=8, problems=held_out)
        metrics[f"PF@8 {name}"].pop("correct")
    return metrics


def _search(folder, policy, reward, problems, particles, progress) -> list[Example]:
    questions = [orchard.generate(FIRST + i).question for i in range(problems)]
    solver = Solver(policy, reward, budget=budget(policy))
    return collect(
        solver,
        questions,
        folder / "search",
        particles=particles,
        key=0,
        progress=lambda done, total: progress(0, 1, {"searched": done}),
    )


def _batch(examples: list[Example], i: int) -> batches.Batch:
    """ROWS solutions drawn by weight-keeping shuffle.

    Every epoch is a permutation of all examples.
    """
    count = len(examples)
    wanted = np.arange(i * ROWS, (i + 1) * ROWS)
    chosen = [examples[_permuted(count, int(w) // count)[w % count]] for w in wanted]
    problems = len({e.problem for e in examples})
    batch = batches.solutions(
        [e.prompt for e in chosen],
        [e.solution for e in chosen],
        [e.weight for e in chosen],
        width=WIDTH,
    )
    # A batch holds ROWS of the `count` solutions, hence about problems * ROWS / count problems.
    return batch | {"problems": np.asarray(problems * ROWS / count, np.float32)}


def _permuted(count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(count)


distil = Recipe("one round of search distilled into embedded:small by weighted SFT", train)
