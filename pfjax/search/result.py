"""What a search returns: solutions, answer, evidence, the tree of particles, and honest counts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pfjax.search.choosing import chosen
from pfjax.search.page import page
from pfjax.search.stored import as_json, require_whole, with_floats
from pfjax.search.tree import Node, Tree
from pfjax.settings.asked import callback, shown
from pfjax.tasks.grader import named
from pfjax.tasks.grading import Equal, extracted

if TYPE_CHECKING:
    from pfjax.search.methods import Method

FORMAT = 1


@dataclass(frozen=True)
class Solution:
    """One final particle.

    `tokens` are its ids as they were sampled; `steps` their text as the PRM reads it, without white space
    around. `weight` is normalised, `log_weight` its logarithm, -inf for what the reward killed. `value` is
    the last PRM log-odds: of the last step, or, where the token budget cut that, of the step before.
    `answer` is None if it has none.
    """

    text: str
    steps: list[str]
    tokens: list[int]
    answer: str | None
    value: float
    weight: float
    log_prob: float
    finished: bool
    truncated: bool
    log_weight: float = 0.0

    def __repr__(self) -> str:
        said = shown(self.text[-80:])
        return f"<Solution {said}: answer {self.answer!r}, value {self.value:+.2f}, weight {self.weight:.3f}>"


@dataclass(frozen=True)
class Counts:
    """What the search of one problem processed.

    `policy_tokens` counts every sampled token, those of discarded particles too; `prm_tokens` those of
    distinct partial solutions, on accelerators too, where copies are read along (of all, above 1024
    particles); `reward_calls` distinct partial solutions that Python functions were asked about;
    `prompt_tokens` those of the policy and of every PRM. `seconds` is this problem's share of the time of
    the call, which solved `problems` of them; `compilations` are those of the whole call.
    """

    policy_tokens: int
    prm_tokens: int
    reward_calls: int
    prompt_tokens: int
    seconds: float
    compilations: int
    problems: int = 1


@dataclass(frozen=True)
class Asked:
    """How a result came about: what one has to ask for to get it again.

    `key` is the number that was given, None for a key of jax.random; `id` names the problem. `grader` is
    what tells whether answers are equal.
    """

    particles: int
    key: int | None = None
    id: int | str | None = None
    tau: float = 1.0
    sampling: dict = field(default_factory=dict)
    budget: dict = field(default_factory=dict)
    grader: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The outcome for one question.

    `log_evidence` estimates log Z of the method's target (see its potential); `status` is "ok", or
    tells that particles had values that are "not finite", which killed them, that "all" are "dead", or
    that the budget left no answer.
    """

    question: str
    answer: str | None
    chosen: int
    solutions: list[Solution]
    log_evidence: float
    tree: Tree
    counts: Counts
    method: str
    status: str = "ok"
    ess: list[float] = field(default_factory=list)
    asked: Asked = Asked(0)

    @property
    def solution(self) -> Solution:
        """The solution that stands for the answer."""
        return self.solutions[self.chosen]

    def expected_accuracy(self, correct: np.ndarray) -> float:
        """sum_i W_i correct_i, the accuracy of one draw from the weighted particles."""
        return float(np.sum(np.array([s.weight for s in self.solutions]) * correct))

    def revote(
        self,
        rule: "str | Method | Callable",
        *,
        equal: "Equal | None | Literal['asked']" = "asked",
        extract: Callable[[str], str | None] | None = None,
    ) -> "Result":
        """The same particles under another answer rule; nothing is sampled.

        `rule` is a name of `search.METHODS`, a `Method`, or a rule of `search.answers`. `equal` and
        `extract` as in `pfjax.Task`; answers are compared as they were in the search if nothing else is
        said. ValueError for a rule that returns no particle, and where a function of one's own compared
        them and is not given again.
        """
        from pfjax.search.methods import Method, find

        rules = find(rule) if isinstance(rule, (str, Method)) else None
        if rules is None and not callable(rule):
            raise ValueError(
                f"rule is {shown(rule)}, wanted the name of a method, a Method or a rule of search.answers."
            )
        callback("extract", extract)
        if isinstance(equal, str):
            if equal != "asked":
                raise ValueError(
                    f"equal is {shown(equal)}, wanted a function of two texts, or None."
                )
            equal = named(self.asked.grader)
        callback("equal", equal)
        select = rules.select if rules else rule
        name = rules.name if rules else getattr(rule, "__name__", "own")
        solutions = self.solutions
        if extract is not None:
            solutions = [replace(s, answer=extracted(extract, s.text)) for s in solutions]
        log_weights = np.array([s.log_weight for s in solutions])
        values = np.array([s.value for s in solutions])
        answers = [s.answer for s in solutions]
        index = chosen(select, name, answers, log_weights, values, equal)  # pyright: ignore[reportArgumentType]
        answer = answers[index] if log_weights[index] > -np.inf else None
        return replace(self, answer=answer, chosen=index, solutions=solutions, method=name)

    def to_dict(self) -> dict:
        """Plain values for JSON; NaN and infinity are the texts "NaN", "Infinity" and "-Infinity"."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["solutions"] = [vars(s) for s in self.solutions]
        fields |= {"counts": vars(self.counts), "asked": asdict(self.asked)}
        return as_json({"format": FORMAT} | fields | {"tree": self.tree.to_dict()})

    @classmethod
    def from_dict(cls, stored: dict) -> "Result":
        """The result that `to_dict` stored; fields that it does not know, such as those `pfjax solve --json`
        adds, are passed over. ValueError for what is no whole result.
        """
        said = stored.get("format") if isinstance(stored, dict) else None
        if said != FORMAT:
            raise ValueError(
                f"stored is {shown(stored)}, wanted what Result.to_dict makes, of format {FORMAT}."
            )
        try:
            fields = with_floats(_known(cls, stored))
            tree = fields["tree"]
            nodes = [Node(**with_floats(_known(Node, node))) for node in tree["nodes"]]
            weights = [float(w) for w in tree["weights"]]
            parts = {
                "solutions": [Solution(**with_floats(s)) for s in fields["solutions"]],
                "counts": Counts(**with_floats(fields["counts"])),
                "asked": Asked(**fields["asked"]),
                "ess": [float(x) for x in fields["ess"]],
                "tree": Tree(nodes, list(tree["leaves"]), weights),
            }
            result = cls(**fields | parts)
            require_whole(result)
            return result
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"stored is no whole Result ({what}).") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return (
            f"<Result {self.answer!r} of {len(self.solutions)} solutions by {self.method!r}, "
            f"log evidence {self.log_evidence:.2f}, {self.status}>"
        )

    def _repr_html_(self) -> str:
        return page(self)


def _known(cls: type, stored: dict) -> dict:
    """The stored fields of a dataclass."""
    return {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
