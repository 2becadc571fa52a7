"""From the generations of one problem to its Result.

Host side: text, answers, counts.
"""

import numpy as np

from pfjax import smc
from pfjax.engine.pool import Snapshot
from pfjax.search import methods, tree
from pfjax.search.result import Counts, Result, Solution
from pfjax.tasks.grading import extract_answer, normal_form


def finish(solver, method, question, prompts, history: list[Snapshot], seconds, compiled) -> Result:
    """The Result of one problem; `history` holds its generations, without the problem axis."""
    last = history[-1]
    genealogy = _tree(solver.policy.tokenizer, history)
    weights = np.exp(last.log_weights)
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
                value=float(last.value[i]),
                weight=float(weights[i]),
                log_prob=float(last.log_prob[i]),
                finished=bool(last.finished[i] & ~last.truncated[i]),
                truncated=bool(last.truncated[i]),
            )
        )
    answers = [None if s.answer is None else normal_form(s.answer) for s in solutions]
    chosen = methods.find(method).select(
        answers, np.asarray(last.log_weights), np.asarray(last.value)
    )
    return Result(
        question=question,
        answer=solutions[chosen].answer,
        chosen=chosen,
        solutions=solutions,
        log_evidence=float(last.log_evidence),
        tree=genealogy,
        counts=Counts(
            policy_tokens=sum(int(s.new_tokens.sum()) for s in history),
            prm_tokens=sum(int(s.new_reward_tokens.sum()) for s in history),
            prompt_tokens=len(prompts[0]) + len(prompts[1]),
            seconds=seconds,
            compilations=compiled,
        ),
        method=method,
        status=smc.describe_status(int(last.info.status)),
        ess=[float(s.info.ess) for s in history],
    )


def _tree(tokenizer, history: list[Snapshot]) -> tree.Tree:
    def step(snapshot: Snapshot, i: int) -> tuple[str, list[int]]:
        ids = snapshot.step[i, : int(snapshot.new_tokens[i])].tolist()
        return (tokenizer.decode(ids) if ids else ""), ids

    slots = range(len(history[0].value))
    return tree.build(
        np.stack([s.info.ancestors for s in history]),
        np.stack([s.new_tokens > 0 for s in history]),
        np.stack([s.value for s in history]),
        np.stack([s.finished for s in history]),
        [[step(s, i) for i in slots] for s in history],
        np.exp(history[-1].log_weights),
    )
