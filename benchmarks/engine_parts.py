"""The parts of engine.py: each is a function of the options and returns plain values for JSON.

Peers are imported where they are used, so that the other parts run without them.
"""

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from engine_rows import rows_used, say

import pfjax
from pfjax import models
from pfjax.bench import count_weights, matmul, search_operations
from pfjax.search.loading import resolve
from pfjax.search.result import Result
from pfjax.search.solver import Solver
from pfjax.tasks import orchard

STEPS, STEP_TOKENS, PROMPT = 8, 32, 128
# N: problems of its-hub, problems of pfjax.
ITS_HUB = {16: (24, 500), 64: (8, 128)}
# Searches of its-hub that go through its models in one batch: one at a time, as it is used, and as many as pay.
ITS_HUB_TOGETHER = (1, 8)
LENGTHS = (60, 90, 120, 180, 240, 360)


def half_billion(options: Namespace) -> dict:
    """Seconds of a search of fixed work with random Qwen2 models of half a billion weights each."""
    import torch
    from peer_transformers import TransformersFilter, question_of, write_pair

    torch.set_num_threads(options.cores)
    rows = []

    def record(name: str, first: float | None, seconds: list[float], policy: int, prm: int) -> None:
        rows.append({"name": name, "first": first, "seconds": seconds})
        rows[-1] |= {"policy tokens": policy, "prm tokens": prm}
        say(f"{name}: {statistics.median(seconds):.1f} s")

    with tempfile.TemporaryDirectory() as folder:
        pair = write_pair(Path(folder))
        say("models written")
        for dtype in (torch.float32, torch.bfloat16):
            peer = TransformersFilter(*pair, dtype)
            question = question_of(peer.tokenizer, PROMPT)
            size = {"steps": STEPS, "step_tokens": STEP_TOKENS}
            runs = [peer.run(question, 16, **size, seed=i) for i in range(options.long_repeats)]
            name = f"transformers, {str(dtype).removeprefix('torch.')}"
            record(name, None, [r.seconds for r in runs], runs[0].policy_tokens, runs[0].prm_tokens)
            del peer
        for dtype in ("bfloat16", "float32"):
            # One token more than is written, so that no step is cut.
            budget = pfjax.Budget(STEP_TOKENS, STEPS * STEP_TOKENS + 1, STEPS)
            solver = pfjax.load(*pair, budget=budget, dtype=dtype)
            first, seconds, results = _timed(
                lambda key, s=solver: [s.solve(question, 16, key)], options.long_repeats
            )
            counts = results[0].counts
            if counts.prompt_tokens != 2 * PROMPT:
                raise ValueError(f"pfjax reads {counts.prompt_tokens} tokens, wanted {2 * PROMPT}.")
            record(f"pfjax, {dtype}", first, seconds, counts.policy_tokens, counts.prm_tokens)
    return {"rows": rows, "lower bound": _lower_bound(solver, results)}


def its_hub(options: Namespace) -> dict:
    """Seconds a problem of the embedded pair, its-hub's search beside ours on all cores."""
    import torch
    from peer_its_hub import ItsHubFilter

    torch.set_num_threads(options.cores)
    solver = pfjax.load(mesh=models.problem_mesh())
    peer = ItsHubFilter(resolve("embedded:small"), resolve("embedded:prm"))
    rows = []
    for n, (few, many) in ITS_HUB.items():
        problems = [orchard.generate(i, "test") for i in range(many)]
        questions = [p.question for p in problems]
        first, seconds, results = _timed(
            lambda key, q=questions, n=n: solver.solve(q, n, key), options.long_repeats
        )
        right = _right([r.answer for r in results], problems)
        rows.append({"name": "pfjax", "n": n, "problems": many, "right": right, "first": first})
        rows[-1] |= {"seconds": [s / many for s in seconds]}
        rows[-1] |= {"lower bound": _lower_bound(solver, results) / many}
        say(f"pfjax, N = {n}: {rows[-1]['seconds']} s a problem")
        for together in ITS_HUB_TOGETHER:
            peer.solve(questions[:1], n)
            found = [
                peer.solve(questions[:few], n, together=together, seed=i)
                for i in range(options.long_repeats)
            ]
            right = _right(found[-1].answers, problems)
            row = {"name": f"its-hub, {together} at a time", "n": n, "problems": few}
            rows.append(row | {"right": right, "seconds": [f.seconds / few for f in found]})
            say(f"{row['name']}, N = {n}: {rows[-1]['seconds']} s a problem")
    return {"rows": rows}


def prm_tokens(options: Namespace) -> dict:
    """Tokens that the PRM reads, and that it would read if every prefix were read whole.

    Only particles that wrote a step count, without probes: no system reads less without a cache.
    """
    solver = pfjax.load(budget=pfjax.Budget(step_tokens=6, max_tokens=96, max_steps=14))
    questions = [orchard.generate(i, "test", (7, 8)).question for i in range(32)]
    ours = whole = 0
    generations = []
    for question, result in zip(questions, solver.solve(questions, 16), strict=True):
        assert solver.prm is not None
        prompt = len(solver.prm.format.prompt(question))
        ours += prompt + result.counts.prm_tokens
        read: list[int] = []
        for node in result.tree.nodes:
            before = read[node.parent] if node.parent >= 0 else prompt
            read.append(before + len(node.tokens))
        whole += sum(read)
        generations.append(len(result.ess))
    say(f"PRM tokens {ours} of {whole}, {statistics.mean(generations):.1f} generations")
    return {"ours": ours, "whole": whole, "problems": len(questions), "generations": generations}


def growth(options: Namespace) -> dict:
    """Seconds a call of the embedded pair against one size after the other."""
    solver = pfjax.load()
    questions = [orchard.generate(i, "test").question for i in range(64)]
    lines: dict[str, list] = {}

    def measure(line: str, size: int, asked: list[str], n: int) -> None:
        _, seconds, _ = _timed(lambda key: solver.solve(asked, n, key), options.repeats)
        lines.setdefault(line, []).append({"size": size, "seconds": seconds})
        say(f"{line} = {size}: {statistics.median(seconds):.3f} s")

    for n in (1 << k for k in range(10)):
        measure("particles N, one problem", n, questions[:1], n)
    for many in (1 << k for k in range(7)):
        measure("problems, N = 16", many, questions[:many], 16)
    for length in LENGTHS:
        asked = [_lengthened(solver, q, length) for q in questions[:8]]
        measure("prompt tokens, 8 problems, N = 16", length, asked, 16)
    return {"lines": lines}


def _lengthened(solver: Solver, question: str, length: int) -> str:
    """A question whose prompt has at most `length` tokens: its sentences cut or said again."""
    head, _, asked = question.rpartition(". ")
    facts, said = head.split(". "), []
    while True:
        longer = ". ".join([*said, facts[len(said) % len(facts)], asked])
        if said and len(solver.encode(longer, False)[0]) > length:
            return ". ".join([*said, asked])
        said.append(facts[len(said) % len(facts)])


def _timed(call: Callable[[int], list[Result]], repeats: int):
    """(seconds of a first call, which compiles; seconds of the others; results of the last)."""
    times, results = [], []
    for key in range(-1, repeats):
        began = time.perf_counter()
        results = call(max(key, 0))
        times.append(time.perf_counter() - began)
    return times[0], times[1:], results


def _lower_bound(solver: Solver, results: list[Result]) -> float:
    """Seconds of two operations a weight and token at the rate of a large product.

    Tokens are those that the policy sampled, equal ones too, and that the PRM read.
    """
    assert solver.prm is not None
    weights = count_weights(solver.policy.decoder), count_weights(solver.prm.module)
    counts = [r.counts for r in results]
    tokens = sum(c.policy_tokens for c in counts), sum(c.prm_tokens for c in counts)
    return search_operations(*tokens, *weights) / matmul(2048).per_second


def _right(answers: list[str | None], problems: list[orchard.Problem]) -> float:
    """The share of right answers to the first problems."""
    return statistics.mean(a == p.answer for a, p in zip(answers, problems, strict=False))


PARTS = {
    "transformers": half_billion,
    "its-hub": its_hub,
    "prm-tokens": prm_tokens,
    "growth": growth,
    "rows": rows_used,
}
