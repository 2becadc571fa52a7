"""Where arrays live: the only file of `pfjax.models` that asks how many devices there are.

Problems are independent, so they are sharded and weights replicated: every device runs its own loops (see
`jax.shard_map`), and no device waits for another inside a step.
"""

import jax
from jax.sharding import AxisType, Mesh


def problem_mesh() -> Mesh | None:
    """A mesh of one axis, "problem", over all devices; None if there is only one.

    On CPU, JAX_NUM_CPU_DEVICES=2 before the first use of JAX makes two devices of two cores.
    """
    devices = jax.devices()
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), ("problem",), axis_types=(AxisType.Auto,))
