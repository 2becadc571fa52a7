"""What is measured: a policy and a PRM in the engine that searches with them, and prompts for it.

Checkpoints search as `Solver.solve` does. Random weights need no checkpoint: every prompt is random
ids, no token ends a step, and the search is `run.run` without texts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

import pfjax
from pfjax import models
from pfjax.bench.fill import random_module
from pfjax.engine import run
from pfjax.engine.engine import Engine, problem_keys
from pfjax.engine.programs import Rules
from pfjax.models.config import CheckpointError
from pfjax.models.decoder import Decoder
from pfjax.models.prm import RewardModule
from pfjax.plan import sources
from pfjax.plan.planner import DTYPES
from pfjax.plan.weights import Model
from pfjax.reasoning import Budget, Sampling, Settings, automaton, foreign
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.sources import plain
from pfjax.reasoning.strip import StripTable, strip_table
from pfjax.search import Execution, methods
from pfjax.settings.asked import MAX_PARTICLES
from pfjax.tasks.orchard import generate

METHOD, ROWS, PROMPT = "pf", 512, 128


@dataclass(frozen=True)
class Options:
    """What is asked for; None for 16 particles of 32 problems, 5 times, or 4 of 2, twice, if small."""

    policy: str = "embedded:small"
    prm: str = "embedded:prm"
    particles: int | None = None
    num_problems: int | None = None
    repeats: int | None = None
    dtype: str = "float32"
    random: bool = False
    max_tokens: int | None = None
    step_tokens: int | None = None
    small: bool = False

    def checked(self) -> "Options":
        """Itself with every number filled in; ValueError for what no model is needed to refuse."""
        n, problems, repeats = (4, 2, 2) if self.small else (16, 32, 5)
        found = replace(
            self,
            particles=n if self.particles is None else self.particles,
            num_problems=problems if self.num_problems is None else self.num_problems,
            repeats=repeats if self.repeats is None else self.repeats,
        )
        most = {"particles": MAX_PARTICLES, "num_problems": 10_000, "repeats": 1000}
        most |= {"max_tokens": 1 << 20, "step_tokens": 1 << 20}
        for name, limit in most.items():
            value = getattr(found, name)
            if value is not None and not 1 <= value <= limit:
                raise ValueError(f"{name.replace('_', '-')} is {value}, wanted 1 to {limit}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, wanted one of {', '.join(DTYPES)}.")
        return found


class Tokens(NamedTuple):
    """What one search processed."""

    policy: int
    prm: int


class Case(NamedTuple):
    """`search(seed)` solves all problems; `batch` of them are on the device at a time."""

    policy: Model
    prm: Model
    dtype: str
    engine: Engine
    budget: Budget
    prompts: list[run.EncodedPrompt]
    batch: int
    search: Callable[[int], Tokens]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(ids) for pair in self.prompts for ids in pair)

    @property
    def rows(self) -> int:
        """Particles on the device at a time."""
        return self.batch * self.engine.n


def load(options: Options) -> Case:
    """The models of `options.checked()`; ValueError, CheckpointError in one sentence."""
    return _random(options) if options.random else _loaded(options)


def _loaded(options: Options) -> Case:
    solver = pfjax.load(
        options.policy,
        options.prm,
        dtype=options.dtype,
        budget=Budget(options.step_tokens or 0, options.max_tokens or 0),
        execution=Execution(rows=ROWS),
    )
    assert isinstance(solver.prm, models.PRM)
    problems, n = cast(int, options.num_problems), cast(int, options.particles)
    questions = [generate(i, "test").question for i in range(problems)]
    prompts = [solver.encode(question) for question in questions]
    batch = solver.batch(problems, n)
    engine = solver.engine(METHOD, n, batch)
    if foreign.reads_text(solver.policy, solver.prm):
        raise CheckpointError(
            f"{options.prm} reads text instead of the tokens of {options.policy}, whose parts are not "
            f"measured here; choose a PRM of the policy's family."
        )

    def search(seed: int) -> Tokens:
        counts = [r.counts for r in solver.solve(questions, n, seed, method=METHOD)]
        return Tokens(sum(c.policy_tokens for c in counts), sum(c.prm_tokens for c in counts))

    return Case(
        Model(options.policy, solver.policy.config),
        Model(options.prm, solver.prm.config, solver.prm.kind.head),
        options.dtype,
        engine,
        solver.budget,
        prompts,
        batch,
        search,
    )


def _random(options: Options) -> Case:
    policy, generation = sources.read_policy(options.policy)
    prm = sources.read_prm(options.prm)
    if prm.reads_text:
        raise CheckpointError(
            f"{options.prm} reads text between the steps, and only PRMs that read nothing but the policy's "
            f"tokens are measured here; choose one of kind {' or '.join(map(repr, sources.PLAIN))}."
        )
    if prm.config.vocab_size < policy.config.vocab_size:
        raise CheckpointError(
            f"{options.prm} has {prm.config.vocab_size} tokens and {options.policy} "
            f"{policy.config.vocab_size}; choose two of one family."
        )
    problems, n = cast(int, options.num_problems), cast(int, options.particles)
    budget = Budget(options.step_tokens or 0, options.max_tokens or 0).filled(generation)
    method = methods.find(METHOD)
    settings = Settings(Sampling(), budget, method.weighing(1.0))
    stop, strip = endless(policy.config.vocab_size)
    engine = Engine(
        cast(Decoder, random_module(policy, options.dtype)),
        plain(cast(RewardModule, random_module(prm, options.dtype)), strip, jnp.int32(0)),
        stop,
        Rules(settings, method.resampler, n, method.move),
    )
    draw = np.random.default_rng(0).integers(0, policy.config.vocab_size, (problems, PROMPT))
    prompts: list[run.EncodedPrompt] = [(ids, ids) for ids in draw.tolist()]
    batch = 1 << (min(problems, max(ROWS // n, 1)) - 1).bit_length()

    def search(seed: int) -> Tokens:
        keys = problem_keys(jax.random.key(seed), list(range(problems)))
        jobs = [run.Job(i, prompt, keys[i]) for i, prompt in enumerate(prompts)]
        found = [s for history in run.run(engine, budget, jobs, batch).values() for s in history]
        policy = sum(int(s.new_tokens.sum()) for s in found)
        return Tokens(policy, sum(int(s.new_reward_tokens.sum()) for s in found))

    return Case(policy, prm, options.dtype, engine, budget, prompts, batch, search)


@lru_cache(maxsize=2)
def endless(vocabulary: int) -> tuple[StopTable, StripTable]:
    """Tables in which no token ends a step, so that every step is as long as its budget."""
    pieces = [b"x"] * vocabulary
    return automaton.stop_table(pieces, []), strip_table(pieces, [])
