"""The embedded policies: Qwen2 decoders trained from scratch on orchard solutions.

Teacher forcing on exact reference solutions of problems of 2 to 7 people, 2048 tokens a batch; in a
stage with drills every other batch is bare equations of such problems, which hold three times as
many sums a token. Numbers start from Fourier features of their value (periods 2 to 100), because
number tokens carry no digits. The small policy is weak by its size and number of steps alone.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pfjax import models
from pfjax.distill import batches, losses, run_folder, trainer
from pfjax.embedded.tokenizer import EOS, write_tokenizer
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.recipes.recipe import Progress, Recipe, told
from pfjax.tasks import orchard

VOCABULARY = 432
PROMPT = models.Prompt()
GENERATION = {
    "max_new_tokens": 96,
    "step_tokens": 12,
    "max_steps": 10,
    "pfjax_prompt": {"user": PROMPT.user},
}
TOKENS = 2048


class Stage(NamedTuple):
    """One schedule; with `drills` every other batch is bare equations."""

    schedule: trainer.Schedule
    drills: bool = False


class Plan(NamedTuple):
    """Sizes of one embedded policy, and its stages, run one after the other."""

    name: str
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    stages: tuple[Stage, ...]

    def config(self) -> DecoderConfig:
        return DecoderConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=32,
            max_positions=512,
            architecture="Qwen2ForCausalLM",
        )


SMALL = Plan(
    "embedded-small",
    96,
    256,
    3,
    3,
    3,
    (Stage(trainer.Schedule(3500, 2.5e-3)), Stage(trainer.Schedule(2500, 1.5e-3))),
)
LARGE = Plan(
    "embedded-large",
    128,
    384,
    4,
    4,
    2,
    (
        Stage(trainer.Schedule(3500, 2e-3)),
        Stage(trainer.Schedule(2500, 1.5e-3), drills=True),
        Stage(trainer.Schedule(800, 1e-3), drills=True),
    ),
)


def train_policy(plan: Plan, folder: Path, progress: Progress) -> dict:
    """Trains, exports to folder/model, and measures on held-out validation problems."""
    with run_folder.claimed(folder, plan.name, plan._asdict()):
        return _train(plan, folder, progress)


def _train(plan: Plan, folder: Path, progress: Progress) -> dict:
    tokenizer = _tokenizer(folder)
    decoder = Decoder(plan.config(), rngs=nnx.Rngs(0))
    _fourier_numbers(decoder, tokenizer)
    graph, state = nnx.split(decoder)
    params, total = nnx.to_pure_dict(state), sum(s.schedule.steps for s in plan.stages)
    done = 0
    for number, (schedule, drills) in enumerate(plan.stages):
        params = trainer.fit(
            params,
            losses.policy_loss(graph),
            partial(_batch, tokenizer, done, drills),
            schedule,
            folder=folder / f"stage-{number}",
            save_every=500,
            before=done,
            report=lambda step, row: progress(step, total, row),
        )
        done += schedule.steps
        export = folder if number + 1 == len(plan.stages) else folder / f"stage-{number}"
        models.export(as_policy(nnx.merge(graph, params), tokenizer), export / "model")
    from pfjax.evaluation.orchard import measure_policy

    measured = told(progress, total, "measuring")
    return measure_policy(
        models.load_policy(folder / "model"), split="validation", progress=measured
    )


def as_policy(decoder: Decoder, tokenizer: models.Tokenizer) -> models.Policy:
    """A Policy with the embedded models' budgets."""
    eos = tokenizer.token_id(EOS)
    assert eos is not None
    return models.Policy(decoder, tokenizer, (eos,), {"eos_token_id": eos} | GENERATION)


def _tokenizer(folder: Path) -> models.Tokenizer:
    write_tokenizer(folder / "tokenizer")
    return models.Tokenizer.from_folder(folder / "tokenizer")


def _batch(tokenizer: models.Tokenizer, before: int, drills: bool, i: int) -> batches.Batch:
    """Batch i of a stage after `before` steps.

    Problems of one depth, split train, numbers 64 (before + i) onwards.
    """
    depth, first = 2 + (i // 2 if drills else i) % 6, 64 * (before + i)
    if drills and i % 2:
        return drill(tokenizer, first)
    rows = TOKENS // (21 * depth + 16)
    problems = [orchard.generate(first + j, depth=(depth, depth)) for j in range(rows)]
    prompts = [PROMPT.ids(tokenizer, p.question) for p in problems]
    targets = [tokenizer.encode("\n\n".join(p.steps) + EOS) for p in problems]
    width = batches.bucket([p + t for p, t in zip(prompts, targets, strict=True)], 32)
    return batches.solutions(prompts, targets, width=width)


def drill(
    tokenizer: models.Tokenizer, first: int, rows: int = 32, lines: int = 10
) -> batches.Batch:
    """Equations of train problems, ten a row, after an empty question.

    Only the results have weight.
    """
    texts: list[str] = []
    while len(texts) < rows * lines:
        problem = orchard.generate(first, depth=(7, 7))
        texts += [s.equation for s in problem.statements if s.operator]
        first += 1
    prompt = PROMPT.ids(tokenizer, "")
    targets = [
        tokenizer.encode("\n\n".join(texts[r * lines : (r + 1) * lines])) for r in range(rows)
    ]
    batch = batches.solutions([prompt] * rows, targets)
    equals = tokenizer.encode(" = ")[0]
    batch["weight"][:, 1:] *= batch["ids"][:, :-1] == equals
    return batch


def _fourier_numbers(decoder: Decoder, tokenizer: models.Tokenizer) -> None:
    """Adds a random projection of cos and sin of 2 pi n / period to the embedding of every
    number token.
    """
    n, size = np.arange(100), decoder.config.hidden_size
    rng = np.random.RandomState(0)
    features = []
    for period in (2, 3, 4, 5, 7, 10, 20, 25, 50, 100, 100 / 3, 100 / 7):
        features += [np.cos(2 * np.pi * n / period), np.sin(2 * np.pi * n / period)]
    features = np.stack([*features, (n - 50) / 29.0], axis=1)
    projection = rng.randn(features.shape[1], size) / np.sqrt(features.shape[1])
    ids = [tokenizer.encode(str(i))[0] for i in range(100)]
    table = np.array(decoder.embed_tokens.embedding[...])
    table[ids] = table[ids] * 0.5 + 0.028 * (features @ projection)
    decoder.embed_tokens.embedding[...] = jnp.asarray(table)


small = Recipe("the embedded policy embedded:small, from scratch", partial(train_policy, SMALL))
large = Recipe("the embedded policy embedded:large, from scratch", partial(train_policy, LARGE))
