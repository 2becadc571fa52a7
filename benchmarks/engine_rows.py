"""Which part of the rows that the engine decodes are tokens of a solution.

    rows used = tokens written / rows decoded

A step lasts until its slowest row is done, so what is lost depends on how steps differ in length; here
they are nearly geometric. Knows nothing of time.
"""

from argparse import Namespace

import jax
import numpy as np
from flax import nnx

from pfjax.engine import run
from pfjax.engine.engine import Engine, problem_keys
from pfjax.engine.programs import Rules
from pfjax.models.config import DecoderConfig
from pfjax.models.decoder import Decoder
from pfjax.reasoning import Budget, Sampling, Settings, automaton
from pfjax.reasoning.sources import Sources
from pfjax.search import methods

UNEVEN = Budget(step_tokens=128, max_tokens=640, max_steps=8)
# (name, problems, places in the batch, together, slots)
WRITING = (
    ("one problem alone", 8, 1, None, None),
    ("8 problems, common barrier", 8, 8, None, None),
    ("8 problems, together=1", 8, 8, 1, None),
    ("8 of 40 problems, together=1, slots=8", 40, 8, 1, 8),
    ("8 of 40 problems, together=1, slots=4", 40, 8, 1, 4),
)


def rows_used(options: Namespace) -> dict:
    """New tokens per row decoded, for a random policy whose steps have very different lengths."""
    rows = []
    for name, problems, places, together, slots in WRITING:
        *parts, settings, resampler = _uneven()
        rules = Rules(settings, resampler, 32, together=together, slots=slots)
        search = _Counting(*parts, rules)
        keys = problem_keys(jax.random.key(0), list(range(problems)))
        jobs = [run.Job(i, _prompt(i), keys[i]) for i in range(problems)]
        found = run.run(search, UNEVEN, jobs, places)
        steps = np.concatenate([s.new_tokens for history in found.values() for s in history])
        decoded = sum(int(d.sum()) for d in search.decoded)
        rows.append({"name": name, "used": float(steps.sum() / decoded), "decoded": decoded})
        rows[-1] |= {"tokens": int(steps.sum()), "mean": float(steps.mean())}
        rows[-1] |= {"deviation": float(steps.std())}
        say(f"{name}: {rows[-1]['used']:.3f} of {decoded} rows used")
    return {"rows": rows}


class _Counting(Engine):
    """Keeps how many rows every call decoded."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.decoded = []

    def advance(self, context, pool, questions=()):
        pool, found = super().advance(context, pool, questions)
        self.decoded.append(found.decoded)
        return pool, found


def _uneven():
    """What an Engine is made of: 28 signs and a delimiter, each of about the same probability."""
    pieces = [b"\n\n", *(bytes([i]) for i in range(33, 61))]
    config = DecoderConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_positions=1024,
        tie_embeddings=False,
    )
    decoder = Decoder(config, rngs=nnx.Rngs(3))
    decoder.lm_head.weight[...] = 4 * decoder.lm_head.weight[...]
    found = methods.find("majority")
    settings = Settings(Sampling(), UNEVEN, found.weighing(1.0))
    return decoder, Sources(), automaton.stop_table(pieces, []), settings, found.resampler


def _prompt(index: int) -> run.EncodedPrompt:
    ids = np.random.default_rng(index).integers(1, 29, 16).tolist()
    return (ids,)


def say(line: str) -> None:
    """Progress of a part."""
    print(f"  {line}", flush=True)
