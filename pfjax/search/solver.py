"""The solver: questions in, answers out, many problems x particles in one batch.

Problems are sorted into batches of a fixed number of rows; each batch is prefilled once and then
stepped on the device until every particle is finished. A problem's key comes from its id (a hash of
the question), so its particles do not depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pfjax import models, smc
from pfjax.engine import run
from pfjax.engine.engine import Engine, problem_keys
from pfjax.engine.pool import Snapshot, snapshot
from pfjax.reasoning import potentials
from pfjax.reasoning.particles import Particles
from pfjax.reasoning.potentials import Potential
from pfjax.search import composing, methods, prompts
from pfjax.search.engines import Engines, batch_of
from pfjax.search.finish import Cost, Told, finish, generations_of, require_in_place, solutions_of
from pfjax.search.methods import Method, Name
from pfjax.search.result import Result, Solution
from pfjax.search.rewards import Reward
from pfjax.search.running import Ask, ran
from pfjax.search.settled import settled
from pfjax.search.wiring import require_numbers
from pfjax.settings import asked
from pfjax.settings.budget import Budget
from pfjax.settings.execution import Execution
from pfjax.settings.sampling import Sampling
from pfjax.tasks.task import Task

Progress = Callable[[int, int], None]
KeyLike = int | Key[Array, ""]


@dataclass(frozen=True)
class Solver:
    """A policy and what weighs its solutions, ready to solve; `pfjax.load` makes one from folders.

    `prm` is a PRM or any reward (`search.rewards`). `tau` divides its log-odds. What `sampling`, `budget`
    and `task` leave out is the policy's own, and stands there afterwards. `mesh`, if given, shards problems
    over its first axis. A PRM with another tokenizer, or text between the steps, or behind delimiters and
    stops that are not white space, reads text that the host hands it step by step.
    """

    policy: models.Policy = field(repr=False)
    prm: Reward | None = field(default=None, repr=False)
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    tau: float = 1.0
    mesh: Mesh | None = None
    execution: Execution = Execution()
    task: Task = field(default=Task(), repr=False)
    _made: Engines = field(default_factory=Engines, init=False, repr=False, compare=False)

    def __post_init__(self):
        for name, value in settled(self).items():
            object.__setattr__(self, name, value)

    @overload
    def solve(
        self,
        question: str,
        particles: int = ...,
        key: KeyLike = ...,
        *,
        method: Name | Method = ...,
        ids: Sequence[int | str] | None = ...,
        batch: int | None = ...,
        progress: Progress | None = ...,
    ) -> Result: ...
    @overload
    def solve(
        self,
        question: Sequence[str],
        particles: int = ...,
        key: KeyLike = ...,
        *,
        method: Name | Method = ...,
        ids: Sequence[int | str] | None = ...,
        batch: int | None = ...,
        progress: Progress | None = ...,
    ) -> list[Result]: ...
    def solve(
        self,
        question: str | Sequence[str],
        particles: int = 16,
        key: KeyLike = 0,
        *,
        method: Name | Method = "pf",
        ids: Sequence[int | str] | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Result | list[Result]:
        """The Result of a question, or the list of Results of a list of questions.

        `method` is a name of `search.METHODS` or a `Method`. `ids` name problems, numbers or texts (default: the
        question); `batch` fixes the problems per device batch (default: as many as `execution.rows`
        allows, rounded to a power of two); `progress(done, total)` is called as problems are over.
        ValueError for an empty question, one longer than the context, a particle count outside 1..65536,
        a method that cannot search; RewardError for a reward of one's own that fails.
        """
        questions, particles = asked.listed(question), asked.particles(particles)
        keys, found = self.keys(questions, key, ids), methods.find(method)
        encoded = [self.encode(q, found.uses_prm) for q in questions]
        asked.callback("progress", progress)
        report = progress or (lambda done, total: None)
        asks = Ask(questions, encoded, keys)
        histories, seconds, compiled = ran(self, found, particles, asks, batch, report)
        cost = Cost(seconds / len(questions), compiled, len(questions))
        number = prompts.number_of(key)
        names = [None] * len(questions) if ids is None else asked.listed_names(ids, len(questions))
        results = []
        for i, text in enumerate(questions):
            require_in_place(found, histories[i])
            told = Told(number, names[i])
            results.append(finish(self, found, text, encoded[i], histories[i], cost, told))
        return results[0] if isinstance(question, str) else results

    def model(
        self,
        question: str | Sequence[str],
        potential: Callable[[float], Potential] | Potential = potentials.telescoping,
    ) -> smc.FeynmanKac:
        """Steps of reasoning as a `smc.FeynmanKac`, for every algorithm of pfjax.smc.

        Of one question, particles have whatever axes the algorithm gives keys; of a list, the problems
        stand first. Its arrays are leaves of the model, which is a pytree: hand it to `jax.jit` as an
        argument. Run it with `self.keys`, for `self.budget.max_steps` generations, collecting
        `self.collect`; `self.results` then makes Results. ValueError for a mesh, and for a PRM that reads
        text.
        """
        questions, several = asked.listed(question), not isinstance(question, str)
        self.keys(questions)
        encoded = [self.encode(q, True) for q in questions]
        rules = Method(smc.systematic, potential, uses_prm=self.prm is not None)
        hosts = self._made.wired(self, rules.uses_prm).hosts
        engine = self.engine(rules, 1, 1)
        return composing.model_of(engine, encoded, tuple(questions), hosts, several=several)

    def keys(
        self,
        question: str | Sequence[str],
        key: KeyLike = 0,
        ids: Sequence[int | str] | None = None,
    ) -> Key[Array, "*p"]:
        """The keys that `solve` uses: one for a question, or one for each of a list."""
        questions = asked.listed(question)
        numbers = asked.listed_ids(questions if ids is None else ids, len(questions))
        found = problem_keys(prompts.typed(key), numbers)
        return found[0] if isinstance(question, str) else found

    def collect(self, state: smc.State, info: smc.Info) -> Snapshot:
        """What `results` needs of every generation: the `collect` of `smc.run` on `self.model`."""
        if state.log_weights.ndim == 1:
            state, info = jax.tree.map(lambda x: x[None], (state, info))
        return snapshot(state, info, self.budget.step_tokens)

    def results(
        self,
        question: str | Sequence[str],
        generations: Snapshot,
        method: Name | Method = "pf",
    ) -> Result | list[Result]:
        """Results from what `smc.run(..., collect=solver.collect)` collected: those of `solve`.

        They end with the generation that ended a question's last particle. `method` tells which answer is
        taken. Seconds and compilations are the caller's: NaN and 0.
        """
        questions, found = asked.listed(question), methods.find(method)
        histories = generations_of(generations, len(questions))
        watched = self._made.wired(self, self.prm is not None).watched
        for text, history in zip(questions, histories, strict=True):
            for t in range(len(history) if watched else 0):
                require_numbers(watched, self.policy, text, history[: t + 1])
        encoded = [self.encode(q, found.uses_prm) for q in questions]
        cost = Cost(float("nan"), 0, len(questions))
        results = [
            finish(self, found, *row, cost)
            for row in zip(questions, encoded, histories, strict=True)
        ]
        return results[0] if isinstance(question, str) else results

    def solutions(self, particles: Particles) -> list[Solution]:
        """Particles of one question as Solutions of equal weight; of a path, give the last generation."""
        return solutions_of(self, composing.first_problem(particles))

    def encode(self, question: str, uses_prm: bool = True) -> run.EncodedPrompt:
        """The question in the policy's ids, then in those of every PRM; ValueError if it is too long."""
        assert self.task.prompt is not None
        wired, tokens = self._made.wired(self, uses_prm), self.budget.max_tokens
        policy = self.task.prompt.ids(self.policy.tokenizer, question)
        room = self.policy.config.max_positions - tokens
        prompts.require_room(len(policy), room, tokens, "the policy")
        found = policy, *wired.prompts(question)
        for ids, room in zip(found[1:], wired.rooms(self.budget), strict=True):
            prompts.require_room(len(ids), room, tokens, "the PRM")
        return found

    def prompt(self, question: str) -> str:
        """What the policy reads of a question, as text."""
        assert self.task.prompt is not None
        return self.task.prompt.text(self.policy.tokenizer, question)

    def watched(self, method: Method) -> str:
        """The name of a reward whose values have to be looked at; none of most."""
        return self._made.wired(self, method.uses_prm).watched

    def batch(self, problems: int, particles: int) -> int:
        """How many of so many problems are on the device at a time."""
        return batch_of(self, problems, particles)

    def engine(self, method: Name | Method, particles: int, batch: int) -> Engine:
        """The engine that solves with this method: the same for a method that is alike."""
        return self._made.engine(self, methods.find(method), particles, batch)

    def compilations(self) -> int:
        """Programs compiled by this solver so far."""
        return self._made.compilations()

    def with_policy(self, policy: models.Policy) -> "Solver":
        """The same solver around another policy."""
        return replace(self, policy=policy)

    def with_prm(self, prm: Reward | None) -> "Solver":
        """The same solver with another reward."""
        return replace(self, prm=prm)
