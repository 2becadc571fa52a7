"""`pfjax solve` without the terminal: problems, search, one sample to compare with, JSON."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import pfjax
from pfjax.search import methods
from pfjax.search.result import Result
from pfjax.tasks.grading import same_answer
from pfjax.tasks.orchard import Problem, check_steps, generate

SPLIT = "test"
SINGLE = "sample"


@dataclass(frozen=True)
class Options:
    """What the command line asks for; `particles` None means 16, or 1 for the method "sample"."""

    policy: str
    prm: str
    method: str
    particles: int | None
    seed: int
    num_problems: int
    temperature: float
    tau: float

    def checked(self) -> "Options":
        """Itself with the particles filled in; ValueError for what no model is needed to refuse."""
        methods.find(self.method)
        particles = self.particles
        if particles is None:
            particles = 1 if self.method == SINGLE else 16
        if self.method == SINGLE and particles != 1:
            raise ValueError(
                f"particles is {particles}, but the method 'sample' draws one; "
                "use --method majority."
            )
        for name, value in (("temperature", self.temperature), ("tau", self.tau)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, wanted a number above 0.")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed is {self.seed}, wanted 0 to {(1 << 32) - 1}.")
        if not 1 <= self.num_problems <= 10_000:
            raise ValueError(f"num-problems is {self.num_problems}, wanted 1 to 10000.")
        return replace(self, particles=particles)


@dataclass(frozen=True)
class Solved:
    """A question, what the search says and what one sample says, None where that is the search.

    `problem` holds the truth of a built-in problem, `index` its number.
    """

    question: str
    result: Result
    single: Result | None = None
    problem: Problem | None = None
    index: int | None = None

    def correct(self, result: Result | None) -> bool | None:
        """Whether a result's answer is the truth; None if there is none."""
        if self.problem is None or result is None:
            return None
        return same_answer(result.answer, self.problem.answer)

    @property
    def right(self) -> list[bool] | None:
        """Whether each node of the tree is a right step, if the truth is known."""
        if self.problem is None:
            return None
        return check_steps(self.problem, [node.text for node in self.result.tree.nodes])

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        fields = self.result.to_dict()
        right = self.right
        if right is not None:
            nodes = zip(fields["tree"]["nodes"], right, strict=True)
            fields["tree"]["nodes"] = [node | {"right": r} for node, r in nodes]
        single = self.single and {
            "answer": self.single.answer,
            "correct": self.correct(self.single),
            "text": self.single.solution.text,
            "counts": vars(self.single.counts),
        }
        truth = self.problem and self.problem.answer
        head = {"index": self.index, "truth": truth, "correct": self.correct(self.result)}
        return head | {"single": single} | fields


def run(question: str | None, options: Options, report: Callable[[str], None]) -> list[Solved]:
    """Solves the question, or built-in problems, in one batch; `report` gets a line a stage."""
    found = methods.find(options.method)
    report("loading models")
    solver = pfjax.load(
        options.policy,
        options.prm if found.uses_prm else None,
        sampling=pfjax.Sampling(options.temperature),
        tau=options.tau,
    )
    first = options.seed * options.num_problems
    indices = [first + j for j in range(options.num_problems)]
    problems = [generate(i, SPLIT) for i in indices]
    questions = [p.question for p in problems] if question is None else [question]

    def solve(method: str, particles: int, what: str) -> list[Result]:
        def progress(done: int, total: int) -> None:
            report(f"{what}, {done} of {total} problems")

        report(what)
        found = solver.solve(questions, particles, options.seed, method=method, progress=progress)
        return cast(list[Result], found)

    assert options.particles is not None
    results = solve(options.method, options.particles, "compiling and solving")
    singles: list[Result | None] = [None] * len(results)
    if options.method != SINGLE:
        singles = list(solve(SINGLE, 1, "drawing one sample"))
    if question is not None:
        return [Solved(question, results[0], singles[0])]
    rows = zip(questions, results, singles, problems, indices, strict=True)
    return [Solved(*row) for row in rows]


def document(options: Options, solved: list[Solved]) -> dict:
    """The JSON of `pfjax solve --json`."""
    every = [s.result.counts for s in solved] + [s.single.counts for s in solved if s.single]
    known = [s for s in solved if s.problem is not None]
    summary = {
        "problems": len(solved),
        "solved": sum(bool(s.correct(s.result)) for s in known) if known else None,
        "solved_by_one_sample": (
            sum(bool(s.correct(s.single)) for s in known) if known and known[0].single else None
        ),
        "policy_tokens": sum(c.policy_tokens for c in every),
        "prm_tokens": sum(c.prm_tokens for c in every),
        "seconds": sum(c.seconds for c in every),
    }
    return vars(options) | {"summary": summary, "problems": [s.to_dict() for s in solved]}
