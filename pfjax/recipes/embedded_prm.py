"""The embedded PRM: the large policy plus two layers and a head, trained on the small policy's own
samples.

Label of a probe: every step so far is right (exact checker). Tokens are labelled too: 1 until the
first token that departs from the reference step, 0 from there on, which teaches where a slip is.
The language-model loss on the tokens before the first slip stays beside it. Checking a number needs
its prediction first, so a stage of reference solutions and equations goes before the labels: look-ups
must be learned before they can be checked. The last stage stops early in its decay. The new layers
start as the identity.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pfjax import models
from pfjax.distill import batches, losses, run_folder, trainer
from pfjax.models.prm import ProcessRewardModel
from pfjax.recipes import labelled
from pfjax.recipes.embedded import drill
from pfjax.recipes.labelled import FIRST
from pfjax.recipes.recipe import Progress, Recipe, told
from pfjax.search.loading import resolve
from pfjax.tasks import orchard

EXTRA_LAYERS = 2
PROBLEMS, ROWS = 16384, 64
SLIPS = (-3, -2, -1, 1, 2, 3, -10, 10, -5, 5)
_LABELS = ("probe", "token", "label")


class Stage(NamedTuple):
    """One schedule whose batches take turns in `kinds` (see `_batch`)."""

    schedule: trainer.Schedule
    kinds: tuple[str, ...]


STAGES = (
    Stage(trainer.Schedule(steps=8000, rate=2e-3), ("references", "equations")),
    Stage(trainer.Schedule(steps=3000, rate=1e-3), ("samples", "checked", "references")),
    Stage(
        trainer.Schedule(steps=1500, rate=1e-3, horizon=3000), ("samples", "checked", "references")
    ),
)


def train(
    folder: Path,
    progress: Progress,
    *,
    policy: str = "embedded:small",
    trunk: str = "embedded:large",
    start: str | None = None,
    stages: Sequence[Stage] = STAGES,
    problems: int = PROBLEMS,
) -> dict:
    """Samples, trains, exports to folder/model, and measures on held-out validation problems.

    The PRM grows from `trunk`, or goes on from the PRM `start`.
    """
    names = {"policy": policy, "trunk": trunk, "start": start}
    settings = names | {"stages": list(stages), "problems": problems}
    with run_folder.claimed(folder, "embedded-prm", settings):
        return _train(folder, progress, names, stages, problems)


def _train(
    folder: Path,
    progress: Progress,
    names: dict[str, str | None],
    stages: Sequence[Stage],
    problems: int,
) -> dict:
    start, policy, trunk = names["start"], names["policy"], names["trunk"]
    assert policy is not None and trunk is not None
    sampler, base = models.load_policy(resolve(policy)), models.load_policy(resolve(trunk))
    data = labelled.samples(folder / "samples.npz", sampler, problems, progress)
    module = grow(base, EXTRA_LAYERS) if start is None else models.load_prm(resolve(start)).module
    graph, state = nnx.split(module)
    params, done = nnx.to_pure_dict(state), 0
    total = sum(stage.schedule.steps for stage in stages)
    for number, (schedule, kinds) in enumerate(stages):
        params = trainer.fit(
            params,
            losses.prm_loss(graph),
            partial(_batch, base.tokenizer, data, kinds),
            schedule,
            folder=folder / f"stage-{number}",
            save_every=500,
            before=done,
            report=lambda step, row: progress(step, total, row),
        )
        done += schedule.steps
    prm = models.PRM(nnx.merge(graph, params), base.tokenizer)
    models.export(prm, folder / "model")
    from pfjax.evaluation.orchard import measure_prm

    measured = told(progress, total, "measuring")
    return measure_prm(
        models.load_prm(folder / "model"), sampler, split="validation", progress=measured
    )


def grow(base: models.Policy, layers: int) -> ProcessRewardModel:
    """A PRM whose first layers are `base`'s and whose `layers` new ones add nothing yet."""
    config = replace(
        base.config,
        num_layers=base.config.num_layers + layers,
        architecture="Qwen2ForProcessRewardModel",
    )
    module = ProcessRewardModel(config, rngs=nnx.Rngs(1))
    decoder = module.decoder
    nnx.update(decoder.embed_tokens, nnx.state(base.decoder.embed_tokens))
    nnx.update(decoder.norm, nnx.state(base.decoder.norm))
    for i, layer in enumerate(decoder.layers):
        if i < base.config.num_layers:
            nnx.update(layer, nnx.state(base.decoder.layers[i]))
        else:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight[...] = jnp.zeros_like(linear.weight[...])
    return module


def _batch(
    tokenizer: models.Tokenizer, data: batches.Batch, kinds: tuple[str, ...], i: int
) -> batches.Batch:
    """Batch i of a stage whose batches take turns in `kinds`."""
    kind = kinds[i % len(kinds)]
    if kind == "references":
        return _references(tokenizer, i, 2 + i // len(kinds) % 6)
    if kind == "equations":
        batch = drill(tokenizer, FIRST + 64 * i, rows=ROWS)
        return batch | {k: 0 * batch["weight"] for k in _LABELS}
    if kind == "checked":
        return _checked(tokenizer, i)
    count, i = len(data["ids"]), i // len(kinds)
    rows = [(i * ROWS + j) % count for j in range(ROWS)]
    part = {k: v[rows] for k, v in data.items()}
    longest = int(np.max(np.nonzero(part["probe"] + part["token"])[1])) + 1
    width = 32 * (-(-longest // 32))
    return {k: v[:, :width] for k, v in part.items()}


def _references(tokenizer: models.Tokenizer, i: int, depth: int) -> batches.Batch:
    """Reference solutions with their probes, for the language-model loss alone."""
    problems = [orchard.generate(FIRST + ROWS * i + j, depth=(depth, depth)) for j in range(ROWS)]
    rows = [labelled.encode(tokenizer, p, p.steps) for p in problems]
    width = batches.bucket([r["ids"] for r in rows], 64)
    batch = {k: batches.pad([r[k] for r in rows], width, np.float32) for k in ("ids", "weight")}
    blank = {k: 0 * batch["weight"] for k in _LABELS}
    return batch | blank | {"ids": batch["ids"].astype(np.int32)}


def _checked(tokenizer: models.Tokenizer, i: int) -> batches.Batch:
    """Equations half of whose results are off by a little; the label of a result is whether it is right."""
    batch, rng = drill(tokenizer, FIRST + 64 * i, rows=ROWS), np.random.default_rng(i)
    numbers = np.array([tokenizer.encode(str(n))[0] for n in range(100)])
    value = np.zeros(tokenizer.vocab_size, int)
    value[numbers] = np.arange(100)
    result = batch["weight"] > 0
    wrong = result & (rng.random(result.shape) < 0.5)
    right = value[batch["ids"]]
    slip = np.clip(right + rng.choice(SLIPS, result.shape), 0, 99)
    slip = np.where(slip == right, (right + 1) % 100, slip)
    return {
        "ids": np.where(wrong, numbers[slip], batch["ids"]).astype(np.int32),
        "probe": 0 * batch["weight"],
        "token": result.astype(np.float32),
        "label": (result & ~wrong).astype(np.float32),
        "weight": batch["weight"] * ~wrong,
    }


prm = Recipe(
    "the embedded PRM embedded:prm, from embedded:large and samples of embedded:small", train
)
