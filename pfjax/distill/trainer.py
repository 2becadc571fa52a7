"""A resumable optax training loop.

Batch number i is a pure function of i, and (weights, optimiser state, step) is saved with orbax, so
a run that was killed and started again gives the same weights, bitwise on CPU. Knows nothing of
tokens, policies or tasks.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

Batch = dict[str, np.ndarray]
Loss = Callable[[PyTree, dict[str, Array]], tuple[Array, dict[str, Array]]]


class Schedule(NamedTuple):
    """AdamW with linear warm-up and cosine decay to a tenth; `rate` is the peak learning rate.

    The decay takes `horizon` steps (0: `steps`), so that a run may stop early.
    """

    steps: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    horizon: int = 0

    def optimizer(self) -> optax.GradientTransformation:
        horizon = self.horizon or self.steps
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.rate, min(self.warmup, horizon - 1), horizon, self.rate / 10
        )

        def matrices(params):
            return jax.tree.map(lambda x: x.ndim > 1, params)

        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(rate, b2=0.98, weight_decay=self.weight_decay, mask=matrices),
        )


def fit(
    params: PyTree,
    loss: Loss,
    batch: Callable[[int], Batch],
    schedule: Schedule,
    *,
    folder: Path,
    save_every: int = 200,
    report: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> PyTree:
    """Trains `params` for schedule.steps steps and returns them.

    `loss(params, batch)` gives (scalar, metrics). Checkpoints and a `log.jsonl` go to `folder`; a
    later call with the same folder continues from the newest checkpoint, and a finished run returns
    its weights at once.
    """
    optimizer = schedule.optimizer()
    # The optimiser state is donated each step, so the initial weights must not be shared with the caller.
    params = jax.tree.map(jnp.copy, params)
    carry = {"params": params, "opt": optimizer.init(params)}

    def step(carry, data):
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(carry["params"], data)
        updates, opt = optimizer.update(grads, carry["opt"], carry["params"])
        params = optax.apply_updates(carry["params"], updates)
        return {"params": params, "opt": opt}, metrics | {"grad": optax.tree.norm(grads)}

    step = jax.jit(step, donate_argnums=0)
    with _manager(folder, save_every) as manager:
        start = manager.latest_step() or 0
        if start:
            carry = _restore(manager, start, carry)
        began = time.perf_counter()
        for i in range(start, schedule.steps):
            carry, metrics = step(carry, batch(i))
            if (i + 1) % 20 == 0 or i + 1 == schedule.steps:
                row = {k: float(v) for k, v in metrics.items()}
                row["seconds"] = time.perf_counter() - began
                _log(folder, i + 1, row)
                report(i + 1, row)
            if (i + 1) % save_every == 0 or i + 1 == schedule.steps:
                _save(manager, i + 1, carry)
        manager.wait_until_finished()
    return carry["params"]


def _manager(folder: Path, save_every: int):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def _save(manager, step: int, carry: PyTree) -> None:
    import orbax.checkpoint as ocp

    manager.save(step, args=ocp.args.StandardSave(carry))


def _restore(manager, step: int, like: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    return manager.restore(step, args=ocp.args.StandardRestore(like))


def _log(folder: Path, step: int, row: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step} | row) + "\n")
