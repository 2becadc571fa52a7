"""Close the loop once: distil the particle filter back into the policy.

    1. run the filter (policy at temperature 0.5, PRM, N particles) on training problems
    2. weighted SFT on the final particles:   minimise  E_problem sum_i W_i (-log p(x_i))
    3. export; on the embedded task measure pass@1 and PF@8 on held-out problems, before and after

No truth is used, only the PRM. Reference for the weighting: the final target of the filter,
p(x) exp(v_T) with p the policy at the search's temperature. The student learns at temperature 1 what
the search found at 0.5, so part of its gain is sharpening: pass@1 is reported at both.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from pfjax import models
from pfjax.distill import batches, identity, losses, run_folder, trainer
from pfjax.distill.search_data import Example, collect
from pfjax.models.formats import PRM_KINDS
from pfjax.recipes.recipe import Progress, Recipe, told
from pfjax.search.loading import AUTO, EMBEDDED, SELF, load, resolve
from pfjax.search.solver import Solver
from pfjax.settings import asked
from pfjax.settings.numbers import Range, require
from pfjax.settings.sampling import Sampling
from pfjax.tasks import orchard

FIRST = 20_000_000
SCHEDULE = trainer.Schedule(steps=2000, rate=1e-3, warmup=30)
ROWS, TOKENS, WIDEST = 64, 10240, 2048
LOGITS = 1 << 26  # of a batch: 0.25 GiB, of which training holds some copies
NONE = "none"
COUNT, HELD_OUT = Range(1, 1 << 24, whole=True), Range(0, 1 << 20, whole=True)


class Options(NamedTuple):
    """What is searched, and how long is trained on it.

    `questions` None are those of the embedded task, of which a policy has to know the vocabulary;
    `problems` is how many are searched (None: all that are given, or 4096 of the embedded task). `prm`
    "auto" is embedded:prm for embedded policies. `steps` None are the schedule's. Of the embedded task
    `held_out` problems are solved before and after, 0: none.
    """

    policy: str = "embedded:small"
    prm: str = AUTO
    prm_kind: str | None = None
    questions: Sequence[str] | None = None
    problems: int | None = None
    particles: int = 16
    steps: int | None = None
    temperature: float = 0.5
    seed: int = 0
    held_out: int = 500

    def checked(self) -> "Options":
        """Itself with what is searched; ValueError for what no model is needed to refuse."""
        found: dict = {"particles": asked.particles(self.particles), "seed": asked.seed(self.seed)}
        found["held_out"] = require("held-out", self.held_out, HELD_OUT)
        for name in ("problems", "steps"):
            if getattr(self, name) is not None:
                found[name] = require(name, getattr(self, name), COUNT)
        found["temperature"] = Sampling(self.temperature).filled().temperature
        if self.prm_kind is not None and self.prm_kind not in PRM_KINDS:
            raise ValueError(
                f"prm-kind is {self.prm_kind!r}, wanted one of {', '.join(PRM_KINDS)}."
            )
        if self.prm_kind is not None and self.prm in (AUTO, SELF, NONE):
            raise ValueError(
                f"prm-kind is {self.prm_kind!r} but there is no PRM's folder to read so; give --prm FOLDER."
            )
        if self.questions is not None:
            found["questions"] = asked.listed(self.questions)[: found.get("problems")]
        return self._replace(**found)


EMBEDDED_SMALL = Options()


def train(
    folder: Path,
    progress: Progress,
    options: Options = EMBEDDED_SMALL,
    *,
    schedule: trainer.Schedule = SCHEDULE,
    save_every: int = 100,
) -> dict:
    """Runs the three parts.

    Every part resumes. Returns before/after metrics with 95 % intervals. ValueError if no solution is
    finished, or the policy and the questions do not fit together.
    """
    options = options.checked()
    schedule = schedule._replace(steps=options.steps or schedule.steps)
    settings = options._asdict() | {"schedule": list(schedule)}
    settings.pop("held_out")
    if options.questions is not None:
        settings["questions"] = identity.text(repr(list(options.questions)))
    with run_folder.claimed(folder, "distil", settings):
        return _train(folder, progress, options, schedule, save_every)


def _train(
    folder: Path,
    progress: Progress,
    options: Options,
    schedule: trainer.Schedule,
    save_every: int,
) -> dict:
    solver = _solver(options)
    before, questions = solver.policy, options.questions
    if questions is None:
        count = 4096 if options.problems is None else options.problems
        questions = [orchard.generate(FIRST + i).question for i in range(count)]
    found = collect(
        solver,
        questions,
        folder / "search",
        particles=options.particles,
        key=options.seed,
        progress=lambda done, total: progress(0, 1, {"searched": done}),
    )
    examples = [e for e in found if len(e.prompt) + len(e.solution) <= WIDEST]
    metrics: dict = {
        "problems searched": len(questions),
        "solutions": len(examples),
        "too long": len(found) - len(examples),
    }
    if not examples:
        raise ValueError(_nothing(solver, options, metrics))
    graph, state = nnx.split(before.decoder)
    params = trainer.fit(
        nnx.to_pure_dict(state),
        losses.sequence_loss(graph),
        batches_of(examples, before.config.vocab_size),
        schedule,
        folder=folder,
        save_every=save_every,
        report=lambda step, row: progress(step, schedule.steps, row),
    )
    after = replace(before, decoder=nnx.merge(graph, params))
    models.export(after, folder / "model")
    if options.questions is None and options.held_out:
        after = models.load_policy(folder / "model")
        measured = told(progress, schedule.steps, "measuring")
        metrics |= _measured(solver, after, options, measured)
    return metrics


def by_problem(examples: list[Example]) -> list[list[Example]]:
    """The examples of each problem that has any."""
    return [list(found) for _, found in groupby(examples, lambda e: e.problem)]


def batches_of(examples: list[Example], vocab_size: int):
    """The batches of training, by number: a row a problem, 64 at most, as many as TOKENS and LOGITS hold."""
    width = batches.bucket([e.prompt + e.solution for e in examples], 32)
    problems = by_problem(examples)
    tokens = min(TOKENS, LOGITS // vocab_size)
    rows = max(min(ROWS, tokens // width, len(problems)), 1)
    return partial(_batch, problems, rows, width)


def _solver(options: Options) -> Solver:
    """The policy at the search's temperature and the PRM; ValueError if they do not go together."""
    own, prm = resolve(options.policy).parent == EMBEDDED, options.prm
    if options.questions is None and not own and not _knows_orchard(options.policy):
        raise ValueError(
            f"policy is {options.policy!r}, which does not know the embedded task; give --questions FILE.jsonl."
        )
    if prm == NONE or (prm == AUTO and not own):
        raise ValueError(
            f"prm is {prm!r}: without a PRM the filter has nothing to teach; give --prm FOLDER, or self."
        )
    if options.prm_kind is not None:
        prm = models.load_prm(resolve(prm), kind=PRM_KINDS[options.prm_kind])
    return load(options.policy, prm, sampling=Sampling(options.temperature))


def _knows_orchard(policy: str) -> bool:
    mine = models.Tokenizer.from_folder(EMBEDDED / "small").token_bytes
    return models.Tokenizer.from_folder(resolve(policy)).token_bytes[: len(mine)] == mine


def _nothing(solver: Solver, options: Options, metrics: dict) -> str:
    tried = f"{metrics['problems searched']} problems with {options.particles} particles each"
    if metrics["too long"]:
        return f"no finished solution of {tried} has at most {WIDEST} tokens with its prompt; give shorter ones."
    return (
        f"no solution of {tried} was finished within {solver.budget.max_tokens} tokens, so there is nothing to "
        "learn; raise max_new_tokens in the policy's generation_config.json, or give easier questions."
    )


def _measured(
    solver: Solver, after: models.Policy, options: Options, progress: Callable[[int, int], None]
) -> dict:
    """Of both policies: pass@1 at temperature 1 and that of the search, and PF@8."""
    from pfjax.evaluation.orchard import measure_policy, measure_search

    metrics: dict = {}
    for name, model in (("before", solver.policy), ("after", after)):
        many = {"problems": options.held_out, "progress": progress}
        for t in (1.0, options.temperature):
            found = measure_policy(model, temperature=t, **many)
            metrics[f"pass@1 at temperature {t} {name}"] = found
        found = measure_search(Solver(model, solver.prm), particles=8, **many)
        found.pop("correct")
        metrics[f"PF@8 {name}"] = found
    return metrics


def _batch(problems: list[list[Example]], rows: int, width: int, i: int) -> batches.Batch:
    """`rows` problems of a shuffle without repetition in an epoch, one solution of each.

    The solution is drawn by weight and carries the weight of all, so that the expected loss is the
    sum over all solutions.
    """
    count = len(problems)
    chosen = []
    for row in range(i * rows, (i + 1) * rows):
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
        width=width,
    )
    return batch | {"problems": np.asarray(rows, np.float32)}


@lru_cache(maxsize=2)
def _permuted(count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(count)


distil = Recipe("one round of search distilled into the policy by weighted SFT", train, Options)
