"""Ahead-of-time compilation of a search step for real TPUs, on a machine that has none.

libtpu (extra `[tpu]`) describes a topology such as v5e:2x2 and compiles for it; weights, caches and
particles are abstract arrays, so that nothing is loaded. What the compiler allocates, which
collectives it puts into the token loop and whether it copies a cache there are read off the
compiled program (`hlo.py`).
"""

import os
import time
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from pfjax import smc
from pfjax.engine.engine import Engine
from pfjax.engine.pool import Context, Pool
from pfjax.engine.programs import Params, Rules
from pfjax.engine.run import bucket, pad
from pfjax.models.cache import KV
from pfjax.models.prm import RewardModule
from pfjax.models.sharding import weight_spec
from pfjax.plan import hlo
from pfjax.plan.setup import Setup
from pfjax.plan.weights import as_loaded, weights
from pfjax.reasoning import automaton
from pfjax.reasoning.automaton import StopTable
from pfjax.reasoning.model import Settings
from pfjax.reasoning.move import is_cache
from pfjax.reasoning.sources import Plain, Sources, plain
from pfjax.reasoning.strip import StripTable, strip_table
from pfjax.search import methods
from pfjax.settings.sampling import Sampling

_TOPOLOGIES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"},
    "v4": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
}


class Compiled(NamedTuple):
    """Bytes on one device, collectives and cache copies of one compiled step.

    `arguments` are weights, tables, prompts and particles; particles are donated. `in_loop` counts
    the collectives of the innermost token loop by kind, `cache_copies` copies of whole caches in
    any loop.
    """

    topology: str
    seconds: float
    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    in_loop: dict[str, int]
    cache_copies: int

    @property
    def total(self) -> int:
        """What a device holds while a step runs."""
        return self.arguments + self.temporaries + self.outputs - self.aliased


def topology_name(device: str, chips: int) -> str:
    """The topology of so many chips; ValueError for a GPU or a number that no slice has."""
    if device not in _TOPOLOGIES:
        raise ValueError(f"{device} is no TPU; --compile takes {', '.join(_TOPOLOGIES)}.")
    if chips not in _TOPOLOGIES[device]:
        sizes = ", ".join(map(str, _TOPOLOGIES[device]))
        raise ValueError(f"a {device} slice has {sizes} chips, the mesh {chips}; change --mesh.")
    return f"{device}:{_TOPOLOGIES[device][chips]}"


def topology_mesh(name: str, problem: int, model: int) -> Mesh:
    """A mesh of abstract TPU devices; ValueError without libtpu."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise ValueError(
            f"TPU programs cannot be compiled here ({reason}); install pfjax[tpu]."
        ) from None
    mesh = topologies.make_mesh(found, (problem, model), ("problem", "model"))
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto, AxisType.Auto))


def check(setup: Setup) -> Compiled:
    """A step compiled for the setup's own slice; ValueError if that cannot be done."""
    if setup.prm is not None and setup.prm.reads_text:
        raise ValueError(
            f"{setup.prm.name} reads text, which the host writes between two programs, and --compile takes "
            "one program; leave it out."
        )
    name = topology_name(setup.device.name, setup.problem * setup.model)
    mesh = topology_mesh(name, setup.problem, setup.model)
    try:
        return compile_step(setup, mesh, name)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise ValueError(
            f"{name} refuses the program: {reason}; take more chips or less."
        ) from None


def compile_step(setup: Setup, mesh: Mesh, name: str) -> Compiled:
    """One generation of a search with the default method, compiled for the mesh."""
    engine = _engine(setup, mesh)
    params, context, pool = _arguments(engine, setup, mesh)
    began = time.perf_counter()
    program = engine.lower_step(params, context, pool).compile()
    seconds = time.perf_counter() - began
    memory, text = program.memory_analysis(), program.as_text()
    if memory is None or text is None:
        raise ValueError(f"the compiler of {name} does not tell what it made; update libtpu.")
    found = hlo.parse(text)
    caches = {
        leaf.sharding.shard_shape(leaf.shape)
        for kv in (
            pool.state.particles.policy_cache,
            *_reward_caches(pool.state),
            context.policy.kv,
        )
        for leaf in (*kv.k, *kv.v)
    }
    return Compiled(
        topology=name,
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        in_loop=hlo.collectives_in_loops(found),
        cache_copies=hlo.copies_in_loops(found, caches),
    )


def _reward_caches(state: smc.State) -> tuple[KV, ...]:
    return tuple(reward.kv for reward in state.particles.reward_state)


def _engine(setup: Setup, mesh: Mesh) -> Engine:
    how = setup.dtype, setup.weight_format
    policy = nnx.merge(*weights(setup.policy, *how, setup.model))
    prm = None if setup.prm is None else nnx.merge(*weights(setup.prm, *how, setup.model))
    method = methods.find("pf" if prm is not None else "majority")
    settings = Settings(Sampling(), setup.budget, method.weighing(1.0), setup.kv_format)
    stop, strip = jax.eval_shape(partial(_tables, setup.policy.config.vocab_size))
    probe = jax.ShapeDtypeStruct((), jnp.int32)
    read = Sources() if prm is None else plain(cast(RewardModule, prm), strip, cast(Array, probe))
    rules = Rules(settings, method.resampler, setup.particles)
    return Engine(policy, read, stop, rules, mesh)


def _tables(size: int) -> tuple[StopTable, StripTable]:
    small = automaton.stop_table([b""], [0]), strip_table([b""], [0])
    return jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], size), x.dtype), small)


def _arguments(engine: Engine, setup: Setup, mesh: Mesh) -> tuple[Params, Context, Pool]:
    """Abstract arguments of a step, each with its place on the mesh."""
    p = -(-setup.problems // setup.problem) * setup.problem
    ids = [0] * setup.prompt_tokens
    kinds = 1 + len(engine.params.sources.prompted)
    prompts = jax.eval_shape(lambda: pad([(ids,) * kinds], p, bucket(len(ids))))
    context, pool = engine.shapes(prompts, setup.budget.max_tokens)
    policy, sources, stop = engine.params
    place = partial(_placed, mesh)
    everywhere = partial(jax.tree.map, lambda x: place(x, P()))
    if setup.prm is not None:
        (prm,) = sources.parts
        assert isinstance(prm, Plain)
        weights = _weights_placed(prm.weights, as_loaded(setup.prm, setup.model), mesh)
        prm = replace(
            prm, weights=weights, strip=everywhere(prm.strip), probe=everywhere(prm.probe)
        )
        sources = Sources((prm,))
    policy = _weights_placed(policy, as_loaded(setup.policy, setup.model), mesh)
    params = Params(policy, sources, everywhere(stop))
    over = P("problem")
    return (
        params,
        _caches_placed(jax.tree.map(lambda x: place(x, over), context), mesh, setup.model),
        _caches_placed(jax.tree.map(lambda x: place(x, over), pool), mesh, setup.model),
    )


def _placed(mesh: Mesh, x: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))


def _weights_placed(state: nnx.State, config, mesh: Mesh) -> nnx.State:
    size = mesh.shape["model"]
    flat = [
        (path, leaf.replace(_placed(mesh, leaf, weight_spec(path, config, size))))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)


def _caches_placed(tree: PyTree, mesh: Mesh, size: int) -> PyTree:
    """Caches split by heads too, with their scales, as `models.sharding.by_heads` keeps them."""

    def split(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        if size == 1 or x.shape[axis] % size:
            return x
        return _placed(mesh, x, P("problem", *[None] * (axis - 1), "model"))

    def placed(node: PyTree) -> PyTree:
        if not is_cache(node):
            return node
        heads = len(node.k[0].shape) - 3
        return jax.tree.map(partial(split, axis=heads), node)

    return jax.tree.map(placed, tree, is_leaf=is_cache)
