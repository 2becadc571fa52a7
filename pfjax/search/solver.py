"""The solver: questions in, answers out, many problems x particles in one batch.

Problems are sorted into batches of a fixed number of rows; each batch is prefilled once and then
stepped on the device until every particle is finished. A problem's key comes from its id (a hash of
the question), so its particles do not depend on what else is in the batch.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import overload

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pfjax import models
from pfjax.engine import run
from pfjax.engine.engine import Engine, problem_keys
from pfjax.engine.programs import Rules, Shared
from pfjax.engine.text_engine import TextEngine
from pfjax.reasoning import automaton, foreign, rewards
from pfjax.reasoning.flight import Budget
from pfjax.reasoning.model import Settings
from pfjax.reasoning.sampling import Sampling
from pfjax.search import methods
from pfjax.search.finish import finish
from pfjax.search.result import Result

MAX_PARTICLES = 1 << 16
SHORT_STEP = 32
Progress = Callable[[int, int], None]
KeyLike = int | Key[Array, ""]


@dataclass(frozen=True)
class Solver:
    """A policy and a PRM, ready to solve.

    `rows` bounds problems x particles in one device batch; `mesh`, if given, shards problems over
    its first axis. `together` problems are weighed at a time, each after its own step is written
    (None: an eighth of the batch; all at a common barrier if steps have at most 32 tokens); `slots`
    rows of each problem write at a time (None: all). Products of another number of rows (`rows`,
    `batch`, `slots`, devices) are rounded otherwise, which rarely changes a token: one of 62 000 at
    temperature 3, none of 300 000 at 1 (benchmarks/engine_probes.py). `kv_format` "int8" rounds the caches of what is
    written, a half of bfloat16's bytes (None: not; else ValueError): the policy's whenever a block of
    at most 16 tokens ends, so that `slots`, whose blocks are shorter, may change particles. `ahead`
    compiles the programs of wider caches and other prompts in the background; it has been tried on a
    CPU alone. A PRM with another tokenizer, or text between the steps, reads text that the host hands
    it step by step.
    """

    policy: models.Policy
    prm: models.PRM | None = None
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    tau: float = 1.0
    rows: int = 512
    mesh: Mesh | None = None
    together: int | None = None
    slots: int | None = None
    kv_format: str | None = None
    ahead: bool = False
    _engines: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        check_kv_format(self.kv_format)

    @overload
    def solve(
        self,
        question: str,
        particles: int = ...,
        key: KeyLike = ...,
        *,
        method: str = ...,
        ids: Sequence[int] | None = ...,
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
        method: str = ...,
        ids: Sequence[int] | None = ...,
        batch: int | None = ...,
        progress: Progress | None = ...,
    ) -> list[Result]: ...
    def solve(
        self,
        question: str | Sequence[str],
        particles: int = 16,
        key: KeyLike = 0,
        *,
        method: str = "pf",
        ids: Sequence[int] | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Result | list[Result]:
        """The Result of a question, or the list of Results of a list of questions.

        `ids` name problems (default: a hash of the question); `batch` fixes the problems per device
        batch (default: as many as `rows` allows, rounded to a power of two); `progress(done,
        total)` is called as problems are over. ValueError for an empty question, one longer than the
        context, or a particle count outside 1..65536.
        """
        questions = [question] if isinstance(question, str) else list(question)
        ids = [stable_id(q) for q in questions] if ids is None else list(ids)
        _check(questions, ids, particles)
        key = jax.random.key(key) if isinstance(key, int) else key
        uses_prm = methods.find(method).uses_prm
        prompts = [self._encode(q, uses_prm) for q in questions]
        batch = batch or self._batch(len(questions), particles)
        began, engine = time.perf_counter(), self._engine(method, particles, batch)
        compiled = engine.compilations()
        keys = problem_keys(key, ids)
        jobs = [run.Job(i, prompt, keys[i]) for i, prompt in enumerate(prompts)]
        report = progress or (lambda done, total: None)
        histories = run.run(
            engine,
            self.budget,
            jobs,
            batch,
            lambda n: report(n, len(jobs)),
            ahead=self.ahead,
        )
        seconds = (time.perf_counter() - began) / len(jobs)
        compiled = engine.compilations() - compiled
        results = [
            finish(self, method, question, prompts[i], histories[i], seconds, compiled)
            for i, question in enumerate(questions)
        ]
        return results[0] if isinstance(question, str) else results

    def with_policy(self, policy: models.Policy) -> "Solver":
        """The same solver around another policy."""
        return replace(self, policy=policy, _engines={})

    def compilations(self) -> int:
        """Programs compiled by this solver so far."""
        return sum(engine.compilations() for engine in self._engines.values())

    def _batch(self, problems: int, particles: int) -> int:
        most = max(self.rows // particles, 1)
        wanted = 1 << (min(problems, most) - 1).bit_length()
        return -(-wanted // self._groups()) * self._groups()

    def _engine(self, method: str, particles: int, batch: int) -> Engine:
        together = self._together(batch)
        kind = (method, particles, together)
        if kind not in self._engines:
            found = methods.find(method)
            prm = self.prm if found.uses_prm else None
            if found.uses_prm and prm is None:
                raise ValueError(
                    f"method {method!r} needs a PRM; load one with prm=..., or use 'majority'."
                )
            tokenizer, eos = self.policy.tokenizer, self.policy.eos_ids
            tables = _tables(tokenizer.token_bytes, eos, self.policy.config.vocab_size)
            shared, make = Shared(*tables, jnp.int32(prm.format.probe[0] if prm else 0)), Engine
            if prm and foreign.reads_text(self.policy, prm):
                shared = shared._replace(text=foreign.Text(foreign.reading(prm, self.budget)))
                make = partial(TextEngine, reader=foreign.Reader(self.policy, prm))
            settings = Settings(
                self.sampling, self.budget, found.potential(self.tau), self.kv_format
            )
            rules = Rules(settings, found.resampler, particles, found.move, together, self.slots)
            module = prm.module if prm else None
            self._engines[kind] = make(self.policy.decoder, module, shared, rules, self.mesh)
        return self._engines[kind]

    def _together(self, batch: int) -> int | None:
        """Problems of a group of devices that are weighed at a time; None: all at a common barrier."""
        each = batch // self._groups()
        if self.together is not None:
            return self.together if self.together < each else None
        if self.budget.step_tokens <= SHORT_STEP or each == 1:
            return None
        return max(each // 8, 1)

    def _groups(self) -> int:
        return 1 if self.mesh is None else self.mesh.shape[self.mesh.axis_names[0]]

    def _encode(self, question: str, uses_prm: bool) -> tuple[list[int], list[int]]:
        policy = prompt_ids(self.policy.tokenizer, question)
        prm = self.prm.format.prompt(question) if uses_prm and self.prm else policy
        room = self.policy.config.max_positions - self.budget.max_tokens
        if self.prm is not None:
            extra = self.budget.max_tokens + self.budget.max_steps
            room = min(room, self.prm.module.config.max_positions - extra)
        if max(len(policy), len(prm)) > room:
            raise ValueError(
                f"The prompt has {max(len(policy), len(prm))} tokens but the context leaves room for {room} beside "
                f"{self.budget.max_tokens} solution tokens; shorten the question or lower max_tokens."
            )
        return policy, prm


def check_kv_format(kv_format: str | None) -> None:
    """ValueError for a format that caches cannot be kept in."""
    if kv_format is not None and kv_format not in models.KV_FORMATS:
        formats = " or ".join(map(repr, models.KV_FORMATS))
        raise ValueError(f"kv_format is {kv_format!r}, wanted None or {formats}.")


def stable_id(question: str) -> int:
    """A 64-bit id of a question, the same in every process."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")


def prompt_ids(tokenizer: models.Tokenizer, question: str) -> list[int]:
    """The chat-formatted question, as policy and PRM see it."""
    chat = tokenizer.chat([{"role": "user", "content": question}], add_generation_prompt=True)
    return tokenizer.encode(chat)


def _check(questions: Sequence[str], ids: Sequence[int], particles: int) -> None:
    if not 1 <= particles <= MAX_PARTICLES:
        raise ValueError(f"particles is {particles}, wanted 1 to {MAX_PARTICLES}.")
    if len(ids) != len(questions):
        raise ValueError(
            f"ids has {len(ids)} entries for {len(questions)} questions; give one each."
        )
    if not questions or any(not q.strip() for q in questions):
        raise ValueError("The question is empty; give the text of a problem.")


def _tables(token_bytes: list[bytes], eos: Sequence[int], size: int):
    padded = token_bytes + [b""] * (size - len(token_bytes))
    return automaton.stop_table(padded, list(eos)), rewards.strip_table(padded, list(eos))
