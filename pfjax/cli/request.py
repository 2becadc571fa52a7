"""What `pfjax solve` is asked for, checked before JAX is imported."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pfjax.cli.options import DTYPES, METHODS, PRM_KINDS
from pfjax.settings import asked
from pfjax.settings.budget import Budget
from pfjax.settings.execution import Execution
from pfjax.settings.meshes import parse_mesh
from pfjax.settings.numbers import Range, require
from pfjax.settings.sampling import Sampling
from pfjax.tasks.extraction import hashes

SINGLE, NO_PRM = "sample", "majority"
SHOWN = 9
"""A seed whose three problems the filter solves and one sample misses: chosen for that, and said so."""
MOST_PROBLEMS = Range(1, 10_000, whole=True)
SEEDS = Range(0, (1 << 32) - 1, whole=True)
QUESTION_FIELDS = "question", "problem"
ID_FIELDS = "id", "unique_id"


@dataclass(frozen=True)
class Asked:
    """A question of the user's: its id and truth are those of a file, or None."""

    question: str
    id: str | None = None
    truth: str | None = None


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    `seed` None means 0, or `SHOWN` for the built-in problems; `method` pf, or majority without a PRM;
    `particles` 16, or 1 for the method "sample".
    """

    policy: str = "embedded:small"
    prm: str = "auto"
    prm_kind: str | None = None
    method: str | None = None
    particles: int | None = None
    seed: int | None = None
    num_problems: int = 3
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    tau: float = 1.0
    dtype: str = "float32"
    weight_format: str | None = None
    mesh: str | None = None
    system: str | None = None
    user: str | None = None
    template: str | None = None
    template_arguments: tuple[str, ...] = ()
    delimiter: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    def checked(self) -> "Options":
        """Itself with the particles filled in; ValueError for what no model is needed to refuse."""
        _one_of("method", self.method, METHODS.split(", "))
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("prm-kind", self.prm_kind, PRM_KINDS.split(", "))
        self.sampling.filled()
        self.budget.filled({})
        self.execution.checked()
        asked.tau(self.tau)
        require("seed", self.seed or 0, SEEDS)
        require("num-problems", self.num_problems, MOST_PROBLEMS)
        if self.mesh is not None:
            parse_mesh(self.mesh)
        self.arguments  # noqa: B018
        if self.prm_kind is not None and self.prm in ("auto", "none", "self"):
            raise ValueError(
                f"prm-kind is {self.prm_kind!r} but there is no --prm FOLDER to read so."
            )
        particles = 1 if self.method == SINGLE else 16
        particles = particles if self.particles is None else asked.particles(self.particles)
        if self.method == SINGLE and particles != 1:
            raise ValueError(
                f"particles is {particles}, but the method 'sample' draws one; use --method majority."
            )
        return replace(self, particles=particles)

    @property
    def execution(self) -> Execution:
        """How the engine runs."""
        return Execution(weight_format=self.weight_format)

    @property
    def arguments(self) -> dict[str, object]:
        """NAME=VALUE pairs for the template; values are JSON, or texts."""
        found = {}
        for pair in self.template_arguments:
            name, equals, value = pair.partition("=")
            if not equals or not name.isidentifier():
                raise ValueError(
                    f"template-arg is {pair!r}, wanted NAME=VALUE such as enable_thinking=false."
                )
            try:
                found[name] = json.loads(value)
            except ValueError:
                found[name] = value
        return found


def questions_of(path: Path) -> list[Asked]:
    """The questions of a .jsonl file: objects with "question" or "problem", perhaps an id and "answer"."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8; save it so.") from None
    found = [_asked(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} has no question; give one JSON object a line.")
    return found


def _asked(path: Path, number: int, line: str) -> Asked:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not any(isinstance(row.get(k), str) for k in QUESTION_FIELDS):
        raise ValueError(
            f'{path}, line {number}: wanted a JSON object such as {{"question": "What is 2 + 3?"}}.'
        )
    question = next(row[k] for k in QUESTION_FIELDS if isinstance(row.get(k), str))
    try:
        asked.listed(question)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    name = next((str(row[k]) for k in ID_FIELDS if row.get(k) is not None), None)
    truth = row.get("answer")
    if (
        isinstance(truth, bool)
        or not isinstance(truth, (str, int, float, type(None)))
        or truth == ""
    ):
        raise ValueError(
            f"{path}, line {number}: the answer is {truth!r}, wanted a text or a number."
        )
    # GSM8K gives the whole solution, with the answer behind ####.
    said = None if truth is None else hashes(str(truth)) or str(truth)
    return Asked(question, name, said)


def _one_of(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}.")
