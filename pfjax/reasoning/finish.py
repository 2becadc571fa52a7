"""From the generations of a batch to the Result of one problem.

Host side: text, answers, counts.
"""

import numpy as np

from pfjax.reasoning import tree
from pfjax.reasoning.engine import Snapshot
from pfjax.reasoning.result import Counts, Result, Solution
from pfjax.search import methods
from pfjax.tasks.grading import extract_answer, normal_form


def finish(
    solver, method, question, p, prompts, history: list[Snapshot], seconds, compiled
) -> Result:
    """The Result of problem `p` of a batch."""
    last = history[-1]
    genealogy = _tree(solver.policy.tokenizer, p, history)
    weights = np.exp(last.log_weights[p])
    solutions = []
    for i in range(len(weights)):
        path = genealogy.path(i)
        text = "".join(node.text for node in path)
        solutions.append(
            Solution(
                text=text,
                steps=[node.text.strip() for node in path],
                tokens=[token for node in path for token in node.tokens],
                answer=extract_answer(text),
                value=float(last.value[p, i]),
                weight=float(weights[i]),
                log_prob=float(last.log_prob[p, i]),
                finished=bool(last.finished[p, i] & ~last.truncated[p, i]),
                truncated=bool(last.truncated[p, i]),
            )
        )
    answers = [None if s.answer is None else normal_form(s.answer) for s in solutions]
    chosen = methods.find(method).select(
        answers, np.asarray(last.log_weights[p]), np.asarray(last.value[p])
    )
    generations = _generations(p, history)
    return Result(
        question=question,
        answer=solutions[chosen].answer,
        chosen=chosen,
        solutions=solutions,
        log_evidence=float(last.log_evidence[p]),
        tree=genealogy,
        counts=Counts(
            policy_tokens=sum(int(s.new_tokens[p].sum()) for s in history),
            prm_tokens=sum(int(s.new_reward_tokens[p].sum()) for s in history),
            prompt_tokens=len(prompts[0]) + len(prompts[1]),
            seconds=seconds,
            compilations=compiled,
        ),
        method=method,
        status="ok" if int(last.info.status[p]) == 0 else "all dead",
        ess=[float(s.info.ess[p]) for s in history[:generations]],
    )


def _generations(p: int, history: list[Snapshot]) -> int:
    """How many generations problem p took part in.

    The rest of the batch may have gone on longer.
    """
    return max([t + 1 for t, s in enumerate(history) if s.new_tokens[p].any()], default=1)


def _tree(tokenizer, p: int, history: list[Snapshot]) -> tree.Tree:
    def step(snapshot: Snapshot, i: int) -> tuple[str, list[int]]:
        ids = snapshot.step[p, i, : int(snapshot.new_tokens[p, i])].tolist()
        return (tokenizer.decode(ids) if ids else ""), ids

    slots = range(history[0].value.shape[1])
    return tree.build(
        np.stack([s.info.ancestors[p] for s in history]),
        np.stack([s.new_tokens[p] > 0 for s in history]),
        np.stack([s.value[p] for s in history]),
        np.stack([s.finished[p] for s in history]),
        [[step(s, i) for i in slots] for s in history],
        np.exp(history[-1].log_weights[p]),
    )
