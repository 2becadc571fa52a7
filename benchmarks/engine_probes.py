"""The small measurements behind ENGINE_LOG.md that no other script makes.

python benchmarks/engine_probes.py            writes the "Engine probes" section of RESULTS.md
python benchmarks/engine_probes.py --only groups
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from results import machine, write_section

import pfjax
from pfjax.bench import timed
from pfjax.engine import run
from pfjax.models import cache
from pfjax.reasoning import passes
from pfjax.search.result import Result
from pfjax.tasks import orchard

PROBLEMS = 64


def questions() -> list[str]:
    return [orchard.generate(i, "test").question for i in range(PROBLEMS)]


def milliseconds(fn, *arguments) -> float:
    return 1e3 * median(timed(partial(jax.jit(fn), *arguments)))


def ancestry() -> Iterator[str]:
    """Suffix tokens that all particles of a problem have from one ancestor."""
    solver = pfjax.load()
    for n in (16, 64):
        for method in ("pf", "paper"):
            results = solver.solve(questions(), n, method=method)
            shared, tokens = np.sum([_shared(result) for result in results], axis=0)
            yield f"suffix tokens behind one common ancestor, {method}, N = {n}: {shared / tokens:.1%}"


def _shared(result: Result) -> tuple[int, int]:
    """(tokens behind one common ancestor, tokens) of all generations and particles."""
    nodes, paths, shared, tokens = result.tree.nodes, [], 0, 0
    for node in nodes:
        paths.append([*paths[node.parent], node.parent] if node.parent >= 0 else [])
    for generation in range(1, 1 + max(node.generation for node in nodes)):
        here = [p for p, node in zip(paths, nodes, strict=True) if node.generation == generation]
        same = [step[0] for step in zip(*here, strict=False) if len(set(step)) == 1]
        shared += len(here) * sum(len(nodes[i].tokens) for i in same)
        tokens += sum(len(nodes[i].tokens) for path in here for i in path)
    return shared, tokens


def int8() -> Iterator[str]:
    """Suffixes of 8 bits: solutions, first values, bytes of a step's program."""
    wide, small = (pfjax.load(execution=pfjax.Execution(kv_format=f)) for f in (None, "int8"))
    pairs = list(zip(*(s.solve(questions(), 16) for s in (wide, small)), strict=True))
    same = [
        x.tokens == y.tokens
        for a, b in pairs
        for x, y in zip(a.solutions, b.solutions, strict=True)
    ]
    apart = [
        x.value - y.value
        for a, b in pairs
        for x, y in zip(a.tree.nodes, b.tree.nodes, strict=False)
        if x.generation <= 1 and (x.parent, x.tokens) == (y.parent, y.tokens)
    ]
    yield f"int8 suffixes, N = 16: {np.mean(same):.0%} of the solutions the same token for token"
    yield f"int8 suffixes: values of the first two steps {np.std(apart):.1e} apart (standard deviation)"
    for name, solver in (("float32", wide), ("int8", small)):
        engine = solver.engine("pf", 16, 32)
        prompts = jax.eval_shape(lambda: run.pad([([1] * 9, [1] * 9)], 32, 64))
        shapes = engine.shapes(prompts, solver.budget.max_tokens)
        used = engine.lower_step(engine.params, *shapes).compile().memory_analysis()
        held, temporary = used.argument_size_in_bytes, used.temp_size_in_bytes
        sizes = f"arguments {held / 1e6:.0f} MB, temporaries {temporary / 1e6:.0f} MB"
        yield f"a step of 512 rows, {name} suffixes: {sizes}"


def groups() -> Iterator[str]:
    """Long steps scored in groups of rows of about one length, as on accelerators."""
    prm = pfjax.load().prm
    assert prm is not None
    graph, weights = nnx.split(prm.module)
    draw, (p, n, longest) = np.random.default_rng(0), (4, 32, 128)
    many, block = passes.blocks(longest)
    count = jnp.asarray(np.minimum(draw.geometric(1 / 27, (p, n)) + 1, longest + 1), jnp.int32)
    tokens = jnp.asarray(draw.integers(0, 400, (p, n, many * block)), jnp.int32)
    length = jnp.full(p, 45, jnp.int32)
    prefix = cache.Prefix(cache.empty(prm.config, (p,), 128), length, length + 400)
    suffix = cache.empty(prm.config, (p, n), 256 + many * block)
    state = passes.PRMState(suffix, jnp.asarray(draw.integers(0, 200, (p, n)), jnp.int32))

    def read(weights):
        return passes._groups(nnx.merge(graph, weights), prefix, state, tokens, count, block)

    grouped, few = milliseconds(read, weights), passes.FEW
    passes.FEW = 10**9
    whole = milliseconds(lambda weights: read(weights), weights)
    passes.FEW = few
    steps = f"{p} x {n} steps of {count.mean():.0f} tokens, {count.max()} at most"
    yield f"{steps}: {whole:.0f} ms, in groups {grouped:.0f} ms"


def products() -> Iterator[str]:
    """bfloat16 beside float32 on this device."""
    for rows in (16, 512):
        for dtype, out in (("float32", None), ("bfloat16", None), ("bfloat16", "float32")):
            x, *ws = (
                0.02 * jax.random.normal(jax.random.key(i), shape, dtype)
                for i, shape in enumerate([(rows, 896)] + 24 * [(896, 4864)])
            )
            fn = lambda x, ws, o=out: [jnp.matmul(x, w, preferred_element_type=o) for w in ws]  # noqa: E731
            into = "" if out is None else f" into {out}"
            yield f"[{rows}, 896] @ [896, 4864], {dtype}{into}: {milliseconds(fn, x, ws) / 24:.2f} ms"


def operands() -> Iterator[str]:
    """Weights [inputs, outputs] on the right of a product, and [outputs, inputs] on its left."""
    for rows in (16, 256):
        for dtype in ("float32", "bfloat16"):
            x, *ws = (
                0.02 * jax.random.normal(jax.random.key(i), shape, dtype)
                for i, shape in enumerate([(rows, 896)] + 24 * [(896, 4864)])
            )
            right = milliseconds(lambda x, ws: [_wide(x, w, 0) for w in ws], x, ws)
            turned = [jnp.array(w.T) for w in ws]
            left = milliseconds(lambda x, ws: [_barrier(_wide(w, x, 1)).T for w in ws], x, turned)
            size = f"896 to 4864, {rows} rows, {dtype}"
            yield f"{size}: weights right {right / 24:.2f} ms, left {left / 24:.2f} ms"


def _wide(a, b, axis: int):
    """The last axis of a with an axis of b, summed in float32."""
    return jax.lax.dot_general(
        a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32
    )


def _barrier(x):
    """Without it the compiler exchanges the operands again."""
    return jax.lax.optimization_barrier(x)


def distinct() -> Iterator[str]:
    """How much of a search is written or read more than once by rows of one problem."""
    for n in (16, 64):
        steps, prefixes, tokens, written = 0, 0, 0, 0
        for result in pfjax.load().solve(questions(), n):
            before: list[tuple[tuple[int, ...], ...]] = []
            texts: set[tuple[int, ...]] = set()
            for node in result.tree.nodes:
                own = tuple(node.tokens)
                before.append((*(before[node.parent] if node.parent >= 0 else ()), own))
                start = sum(before[-1][:-1], ())
                texts.update(accumulate(own[:-1], lambda a, t: (*a, t), initial=start))
            steps += len(set(before))
            written += len(before)
            prefixes += len(texts)
            tokens += sum(len(node.tokens) for node in result.tree.nodes)
        share = f"{steps / written:.0%} of the steps, {prefixes / tokens:.0%} of the decoded tokens"
        yield f"distinct within a problem, pf, N = {n}: {share}"


WAYS = {
    "every row read, in one pass": (2, 10**9),
    "each solution read once, 512 tokens and 2 rows of a problem a pass": (2, 512),
    "1024 tokens": (2, 1024),
    "2048 tokens": (2, 2048),
    "1 row": (1, 512),
    "4 rows": (4, 512),
}


def alike() -> Iterator[str]:
    """A search by what its PRM reads at a time, the ways in turn so that all see the same machine."""
    for n, ways in ((16, list(WAYS)), (64, list(WAYS)[:2])):
        solvers, seconds = ({way: make() for way in ways} for make in (pfjax.load, list))
        for key in range(6):
            for way in ways:
                passes.ROWS, passes.FEW = WAYS[way]
                start = time.perf_counter()
                solvers[way].solve(questions(), n, key)
                if key > 0:
                    seconds[way].append(time.perf_counter() - start)
        for way in ways:
            yield f"{PROBLEMS} problems x {n}, {way}: {median(seconds[way]):.2f} s"


def rounding() -> Iterator[str]:
    """Searches whose batches have other numbers of rows: how often a token differs for that."""
    for n, batches in ((4, (8, 4)), (16, (32, 8))):
        for temperature in (1.0, 3.0):
            solver, flips, tokens = pfjax.load(sampling=pfjax.Sampling(temperature)), 0, 0
            for key in range(4):
                runs = (solver.solve(questions(), n, key, batch=batch) for batch in batches)
                for pair in zip(*runs, strict=True):
                    steps = [[node.tokens for node in result.tree.nodes] for result in pair]
                    flips += steps[0] != steps[1]
                    tokens += pair[0].counts.policy_tokens
            rows = " and ".join(str(n * batch) for batch in batches)
            yield f"{rows} rows a batch, temperature {temperature}: {flips} flips in {tokens} tokens"


def scores() -> Iterator[str]:
    """Scores of one query a row against its own keys, 512 rows of 3 heads, 76 columns."""
    q = jax.random.normal(jax.random.key(0), (512, 3, 1, 32))
    keys = [jax.random.normal(jax.random.key(i), (512, 3, 32, 76)) for i in range(16)]
    ways = {"product": lambda q, k: q @ k, "multiplied and summed": _summed}
    for name, way in ways.items():
        fn = lambda q, keys, way=way: [way(q, k) for k in keys]  # noqa: E731
        yield f"private scores, {name}: {milliseconds(fn, q, keys) / 16:.2f} ms"


def _summed(q, k):
    return jnp.sum(q.swapaxes(-1, -2) * k, axis=-2)


PROBES = {
    f.__name__: f
    for f in (ancestry, int8, groups, products, operands, distinct, alike, rounding, scores)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PROBES, default=list(PROBES))
    options = parser.parse_args()
    lines = []
    for name in options.only:
        for line in PROBES[name]():
            lines.append(f"- {line}")
            print(lines[-1], flush=True)
    if options.only == list(PROBES):
        body = "\n".join([machine(), "", *lines])
        write_section(Path(__file__).parent / "RESULTS.md", "Engine probes", body)


if __name__ == "__main__":
    main()
