"""What a search returns: solutions, answer, evidence, the tree of particles, and honest counts."""

from dataclasses import dataclass, field

import numpy as np

from pfjax.search.tree import Tree


@dataclass(frozen=True)
class Solution:
    """One final particle. `tokens` are its ids as they were sampled, `weight` is its normalised
    weight, `value` its last PRM log-odds, `answer` None if it has none.
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


@dataclass(frozen=True)
class Counts:
    """What the search of one problem processed; `seconds` is its share of the batch's time.

    `policy_tokens` counts every sampled token, those of discarded particles too; `prm_tokens` those of
    distinct partial solutions, on accelerators too, where copies are read along (of all, above 1024
    particles); `reward_calls` distinct partial solutions that Python functions were asked about;
    `prompt_tokens` those of the policy and of every PRM.
    """

    policy_tokens: int
    prm_tokens: int
    reward_calls: int
    prompt_tokens: int
    seconds: float
    compilations: int


@dataclass(frozen=True)
class Result:
    """The outcome for one question.

    `log_evidence` estimates log Z of the method's target (see its potential); `status` is "ok", or
    tells that particles had values that are "not finite", which killed them, or that "all" are "dead".
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

    @property
    def solution(self) -> Solution:
        """The solution that stands for the answer."""
        return self.solutions[self.chosen]

    def expected_accuracy(self, correct: np.ndarray) -> float:
        """sum_i W_i correct_i, the accuracy of one draw from the weighted particles."""
        return float(np.sum(np.array([s.weight for s in self.solutions]) * correct))

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "method": self.method,
            "status": self.status,
            "log_evidence": self.log_evidence,
            "solutions": [vars(s) for s in self.solutions],
            "counts": vars(self.counts),
            "ess": self.ess,
            "tree": self.tree.to_dict(),
        }

    def _repr_html_(self) -> str:
        return self.tree.to_html(self.question, self.answer)
