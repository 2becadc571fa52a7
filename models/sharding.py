"""Where arrays live: the only file of `pfjax.models` that asks how many devices there are.

A mesh has the axes "problem" and "model". Problems are independent, so they are sharded over the
first and every group of devices runs its own loops. Weights are split over the second:

    q, k, v, gate, up     by output, whole heads           o, down     by input
    embedding, head       by token id, padded rows         norms, what does not divide     everywhere

Key-value heads that the axis does not divide are kept on every device, and so is their cache.
"""

from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from pfjax.models.config import DecoderConfig

_BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_BY_INPUT = ("o_proj", "down_proj")


def problem_mesh() -> Mesh | None:
    """A mesh of one axis, "problem", over all devices; None if there is only one.

    On CPU, JAX_NUM_CPU_DEVICES=2 before the first use of JAX makes two devices of two cores.
    """
    devices = jax.devices()
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), ("problem",), axis_types=(AxisType.Auto,))


def make_mesh(problem: int, model: int) -> Mesh:
    """A mesh over problem * model devices; ValueError if there are fewer."""
    count = len(jax.devices())
    if problem < 1 or model < 1 or problem * model > count:
        raise ValueError(
            f"a mesh of {problem} x {model} needs {problem * model} devices, there are {count}; "
            "choose smaller axes."
        )
    devices = jax.devices()[: problem * model]
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((problem, model), ("problem", "model"), axis_types=types, devices=devices)


def model_size(mesh: Mesh | None) -> int:
    """Over how many devices the weights are split."""
    return 1 if mesh is None else dict(mesh.shape).get("model", 1)


def vocab_padding(vocab_size: int, size: int) -> int:
    """Rows to add so that `size` devices hold equally many."""
    return -vocab_size % size


def weight_spec(path: tuple, config: DecoderConfig, size: int) -> P:
    """How a parameter of a module path is split over a "model" axis of `size` devices."""
    parts = [str(part) for part in path]
    name, leaf = parts[-2], parts[-1]
    if size == 1:
        return P()
    if name in ("embed_tokens", "lm_head"):
        return P("model", None) if leaf in ("embedding", "weight") else P("model")
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    heads |= {"v_proj": config.num_kv_heads, "o_proj": config.num_heads}
    if heads.get(name, config.intermediate_size) % size:
        return P()
    if name in _BY_OUTPUT:
        return P("model", None) if leaf == "weight" else P("model")
    if name in _BY_INPUT:
        return P(None, "model") if leaf == "weight" else P()
    return P()


def over_problems(fn: Callable, mesh: Mesh | None, arguments: int) -> Callable:
    """`fn(weights, *arguments)` with the arguments sharded over the mesh's first axis.

    Only that axis is manual: over "model" the compiler partitions each group's own loops by the
    sharding of the weights.
    """
    if mesh is None:
        return fn
    first = mesh.axis_names[0]
    specs = (P(), *[P(first)] * arguments)
    return jax.shard_map(
        fn, mesh=mesh, in_specs=specs, out_specs=P(first), axis_names={first}, check_vma=False
    )


def gathered(x: Array) -> Array:
    """x whole on every device of its group, where a "model" axis is left to the compiler.

    Sums and cuts along a split axis would become exchanges between neighbours, for which the CPU's
    devices wait on each other across groups.
    """
    return x if _auto_size() is None else jax.lax.with_sharding_constraint(x, P())


def by_heads(x: Array, axis: int) -> Array:
    """x, a cache, split by key-value heads as the weights that fill it are."""
    size, axis = _auto_size(), axis % x.ndim
    if size is None:
        return x
    spec = P() if x.shape[axis] % size else P(*[None] * axis, "model")
    return jax.lax.with_sharding_constraint(x, spec)


def partitioned() -> bool:
    """Whether the compiler divides what is traced here over a "model" axis."""
    return _auto_size() is not None


def _auto_size() -> int | None:
    """Devices on the "model" axis of the mesh in use, if the compiler is to partition it."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape["model"] if kinds.get("model") == AxisType.Auto else None


def weight_sharding(path: tuple, config: DecoderConfig, mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter on a mesh, replicated over problems."""
    return NamedSharding(mesh, weight_spec(path, config, model_size(mesh)))
