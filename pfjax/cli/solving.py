"""`pfjax solve` without the terminal: problems, search, one sample to compare with, JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pfjax
from pfjax import models
from pfjax.cli.request import NO_PRM, SHOWN, SINGLE, Asked, Options
from pfjax.models.formats import PRM_KINDS
from pfjax.search.loading import AUTO, own_prompt
from pfjax.search.methods import find
from pfjax.search.result import Result
from pfjax.settings.meshes import parse_mesh
from pfjax.tasks.grading import same_answer
from pfjax.tasks.orchard import Problem, generate
from pfjax.tasks.orchard_checks import check_steps
from pfjax.tasks.task import BLANK_LINE

SPLIT = "test"


@dataclass(frozen=True)
class Solved:
    """A question, what the search says and what one sample says, None where that is the search.

    `problem` is a built-in problem, `index` its number; `truth` is None where it is not known.
    """

    question: str
    result: Result
    single: Result | None = None
    problem: Problem | None = None
    index: int | None = None
    truth: str | None = None

    def correct(self, result: Result | None) -> bool | None:
        """Whether a result's answer is the truth; None if there is none."""
        if self.truth is None or result is None:
            return None
        return same_answer(result.answer, self.truth)

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
        head = {"index": self.index, "truth": self.truth, "correct": self.correct(self.result)}
        return head | {"single": single} | fields


def prepared(options: Options) -> tuple[pfjax.Solver, str]:
    """The solver, and the method where none was asked for."""
    mesh = options.mesh and models.make_mesh(*parse_mesh(options.mesh))
    prm = None if options.prm == "none" else options.prm
    if options.prm_kind is not None:
        how = {"dtype": options.dtype, "weight_format": options.weight_format, "mesh": mesh}
        prm = models.load_prm(options.prm, kind=PRM_KINDS[options.prm_kind], **how)
    solver = pfjax.load(
        options.policy,
        prm if options.method not in (NO_PRM, SINGLE) else None,
        sampling=options.sampling,
        budget=options.budget,
        tau=options.tau,
        dtype=options.dtype,
        mesh=mesh or None,
        execution=options.execution,
    )
    method = options.method or ("pf" if solver.prm is not None else NO_PRM)
    assert solver.task.prompt is not None
    task = pfjax.Task(
        prompt=_prompt(options, solver.task.prompt),
        delimiter=options.delimiter or BLANK_LINE,
        stop=options.stop or None,
    )
    return replace(solver, task=task), method


def run(
    asked: Sequence[Asked], options: Options, report: Callable[[str], None]
) -> tuple[Options, list[Solved]]:
    """Solves the questions, or built-in problems, in one batch; `report` gets a line a stage.

    The options come back with the method that was used.
    """
    report("loading models")
    solver, used = prepared(options)
    prm = "embedded:prm" if options.prm == AUTO else options.prm
    seed = options.seed if options.seed is not None else 0 if asked else SHOWN
    options = replace(
        options,
        seed=seed,
        method=used,
        prm="none" if solver.prm is None else prm,
        sampling=solver.sampling,
        budget=solver.budget,
    )
    first = seed * options.num_problems
    indices = [first + j for j in range(options.num_problems)]
    problems = [] if asked else [generate(i, SPLIT) for i in indices]
    questions = [a.question for a in asked] or [p.question for p in problems]
    named = any(a.id is not None for a in asked)
    ids = [a.question if a.id is None else a.id for a in asked] if named else None

    def solve(method: str, particles: int, what: str) -> list[Result]:
        def progress(done: int, total: int) -> None:
            report(f"{what}, {done} of {total} problems")

        report(what)
        found = solver.solve(
            questions, particles, seed, method=find(method), ids=ids, progress=progress
        )
        return cast(list[Result], found)

    assert options.particles is not None
    results = solve(used, options.particles, "compiling and solving")
    singles: Sequence[Result | None] = [None] * len(results)
    if used != SINGLE:
        singles = solve(SINGLE, 1, "drawing one sample")
    rows = zip(questions, results, singles, strict=True)
    if asked:
        return options, [Solved(*row, truth=a.truth) for row, a in zip(rows, asked, strict=True)]
    known = zip(rows, problems, indices, strict=True)
    return options, [
        Solved(*row, problem=problem, index=i, truth=problem.answer) for row, problem, i in known
    ]


def prompt_of(options: Options, question: str) -> str:
    """What the policy reads; its weights are not."""
    tokenizer, prompt = own_prompt(options.policy)
    return _prompt(options, prompt).text(tokenizer, question)


def _prompt(options: Options, prompt: models.Prompt) -> models.Prompt:
    """The policy's own prompt with what the options say otherwise."""
    given = {"system": options.system, "user": options.user, "template": options.template}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(prompt, arguments={**prompt.arguments, **options.arguments}, **changed)


def document(options: Options, solved: list[Solved]) -> dict:
    """The JSON of `pfjax solve --json`."""
    every = [s.result.counts for s in solved] + [s.single.counts for s in solved if s.single]
    known = [s for s in solved if s.truth is not None]
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
    names = "policy", "method", "particles", "seed", "num_problems", "tau"
    used = {name: getattr(options, name) for name in names}
    if not any(s.problem for s in solved):
        used["num_problems"] = None
    used["prm"] = None if options.prm == "none" else options.prm
    used |= {"sampling": options.sampling._asdict(), "budget": options.budget._asdict()}
    return used | {"summary": summary, "problems": [s.to_dict() for s in solved]}
