"""Weights of a model in orbax's format, which writes and reads them sharded, also onto another mesh."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from pfjax.models import _asked as asked
from pfjax.models import sharding
from pfjax.models._files import read_object, write_object
from pfjax.models.config import CheckpointError
from pfjax.models.policy import PRM, Policy

Model = TypeVar("Model", Policy, PRM)


def save_weights(model: Policy | PRM, folder: str | Path) -> None:
    """Writes the weights to a new folder, each device its own part."""
    import orbax.checkpoint as ocp

    target = asked.folder(folder, "folder").absolute()
    if target.exists():
        raise CheckpointError(f"{target} exists; save to a new folder.")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target / "weights", nnx.to_pure_dict(model.split[1]))
    write_object(target / "shapes.json", _shapes(model.split[1]))


def _shapes(state: nnx.State) -> dict[str, list[int]]:
    """The shape of every parameter by its path."""
    return {".".join(map(str, path)): list(x.shape) for path, x in nnx.to_flat_state(state)}


def restore_weights(like: Model, folder: str | Path, *, mesh: Mesh | None = None) -> Model:
    """The model `like` with the saved weights, placed on `mesh` (None: on one device).

    CheckpointError if they are of another model.
    """
    import orbax.checkpoint as ocp

    source = asked.folder(folder, "folder").absolute()
    if not source.is_dir():
        raise CheckpointError(f"{source} is not a folder; give the one that save_weights wrote.")
    graph, state = like.split
    config = like.config
    # Compared here: a restore that fails leaves reads behind that end in a closed event loop.
    if read_object(source / "shapes.json") != _shapes(state):
        raise CheckpointError(
            f"{source} does not hold the weights of this model; restore it with the model that was saved."
        )

    def abstract(path, leaf):
        if mesh is None:
            place = SingleDeviceSharding(jax.devices()[0])
        else:
            place = sharding.weight_sharding(path, config, mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    flat = [
        (path, leaf.replace(abstract(path, leaf[...]))) for path, leaf in nnx.to_flat_state(state)
    ]
    target = nnx.to_pure_dict(nnx.from_flat_state(flat))
    with ocp.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(source / "weights", target)
    module = nnx.merge(graph, params)
    if isinstance(like, Policy):
        return replace(like, decoder=module)
    return replace(like, module=module)
