"""The small measurements behind ENGINE_LOG.md that no other script makes.

python benchmarks/engine_probes.py            writes the "Engine probes" section of RESULTS.md
python benchmarks/engine_probes.py --only groups
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from results import machine, write_section

import pfjax
from pfjax.bench import timed
from pfjax.models import cache
from pfjax.reasoning import passes, run
from pfjax.reasoning.result import Result
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
    wide, small = (pfjax.load(kv_format=f) for f in (None, "int8"))
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
        if x.generation <= 1 and (x.generation, x.tokens) == (y.generation, y.tokens)
    ]
    yield f"int8 suffixes, N = 16: {np.mean(same):.0%} of the solutions the same token for token"
    yield f"int8 suffixes: values of the first two steps {np.std(apart):.1e} apart (standard deviation)"
    for name, solver in (("float32", wide), ("int8", small)):
        engine = solver._engine("pf", 16, 32)
        prompts = jax.eval_shape(lambda: run.pad([([1] * 9, [1] * 9)], 32, 64))
        shapes = engine.shapes(prompts, solver.budget.max_tokens)
        used = engine.lower_step(engine.params, *shapes).compile().memory_analysis()
        held, temporary = used.argument_size_in_bytes, used.temp_size_in_bytes
        sizes = f"arguments {held / 1e6:.0f} MB, temporaries {temporary / 1e6:.0f} MB"
        yield f"a step of 512 rows, {name} suffixes: {sizes}"


def groups() -> Iterator[str]:
    """Long steps scored in groups of rows of about one length."""
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
    first = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (p, n))

    def read(weights):
        module = nnx.merge(graph, weights)
        return passes.read(module, prefix, state, tokens, count, first, block)

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


PROBES = {f.__name__: f for f in (ancestry, int8, groups, products, scores)}


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
