"""A resumable optax training loop.

Batch number i is a pure function of i, and (weights, optimiser state, step) is saved with orbax, so
a run that was killed and started again gives the same weights, bitwise on CPU. A step whose loss, gradient
or update is not finite changes nothing and is counted. Knows nothing of tokens, policies or tasks.
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

from pfjax.distill import interruption, log
from pfjax.distill.run_folder import FolderError, locked, write

SHAPES = "shapes.json"
LOG_EVERY = 20
MOST_SKIPPED = 20
Batch = dict[str, np.ndarray]
Loss = Callable[[PyTree, dict[str, Array]], tuple[Array, dict[str, Array]]]


class TrainingError(ValueError):
    """Training that cannot go on; one sentence with the cause and the fix."""


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
    before: int = 0,
    report: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> PyTree:
    """Trains `params` for schedule.steps steps and returns them.

    `loss(params, batch)` gives (scalar, metrics). Checkpoints and a `log.jsonl` go to `folder`; a
    later call with the same folder continues from the newest checkpoint, which it reports as
    {"resumed": step}, and a finished run returns its weights at once. `before` is added to the steps that
    are told. Metrics count steps that were `skipped` for what was not finite; TrainingError after
    MOST_SKIPPED in a row. On SIGINT or SIGTERM the step is finished and saved, then `Interrupted` is raised.
    FolderError if another process trains there, or another model was.
    """
    # Never let through: the run ends first.
    optimizer = optax.apply_if_finite(schedule.optimizer(), schedule.steps)
    # The optimiser state is donated each step, so the initial weights must not be shared with the caller.
    params = jax.tree.map(jnp.copy, params)
    carry = {"params": params, "opt": optimizer.init(params)}
    step = jax.jit(_step(loss, optimizer), donate_argnums=0)
    most = min(MOST_SKIPPED, schedule.steps)
    folder.mkdir(parents=True, exist_ok=True)
    with interruption.watched(), locked(folder / "fit.lock"), _manager(folder) as manager:
        start = manager.latest_step() or 0
        _require_shapes(folder, params, start > 0)
        log.cut(folder, start)
        if start:
            carry = _restore(manager, start, carry)
        if 0 < start < schedule.steps:
            report(before + start, {"resumed": before + start})
        began, saved, metrics = time.perf_counter(), start, {}
        for i in range(start, schedule.steps):
            # The host is one step ahead, not more: a signal would wait for all that is queued.
            earlier = metrics
            carry, metrics = step(carry, batch(i))
            jax.block_until_ready(earlier)
            done, last = i + 1, i + 1 == schedule.steps
            stopping = interruption.noted() is not None and not last
            logging, saving = done % LOG_EVERY == 0 or last, done % save_every == 0 or last
            if logging or saving or stopping:
                row = int(optax.tree.get(carry["opt"], "notfinite_count"))
                _require_finite(row, most, before + done, before + saved, schedule)
            if logging or stopping:
                row = {k: float(v) for k, v in metrics.items()}
                row["seconds"] = time.perf_counter() - began
                if logging:
                    log.append(folder, done, row)
                report(before + done, row)
            if saving or stopping:
                _save(manager, done, carry)
                saved = done
            if stopping:
                manager.wait_until_finished()
                interruption.check(f"at step {before + done}")
        manager.wait_until_finished()
    return carry["params"]


def _step(loss: Loss, optimizer: optax.GradientTransformation):
    def step(carry, data):
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(carry["params"], data)
        norm = optax.tree.norm(grads)
        # A loss that is no number, or a norm that overflows, leaves no gradient to be used either.
        fine = jnp.isfinite(value) & jnp.isfinite(norm)
        grads = jax.tree.map(lambda g: jnp.where(fine, g, jnp.nan), grads)
        updates, opt = optimizer.update(grads, carry["opt"], carry["params"])
        params = optax.apply_updates(carry["params"], updates)
        told = {"grad": norm, "skipped": optax.tree.get(opt, "total_notfinite")}
        return {"params": params, "opt": opt}, metrics | told

    return step


def _require_finite(row: int, most: int, step: int, saved: int, schedule: Schedule) -> None:
    if row >= most:
        kept = f"the checkpoint of step {saved} stays" if saved else "nothing was saved"
        raise TrainingError(
            f"{row} steps in a row up to step {step} had a loss or gradient that is not finite and "
            f"were skipped; {kept}; look at the batches and the weights, or lower the rate ({schedule.rate:g})."
        )


def _manager(folder: Path):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def _save(manager, step: int, carry: PyTree) -> None:
    import orbax.checkpoint as ocp

    manager.save(step, args=ocp.args.StandardSave(carry), force=True)


def _restore(manager, step: int, like: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    folder = manager.directory / str(step)
    try:
        _read_through(folder / "default")
        return manager.restore(step, args=ocp.args.StandardRestore(like))
    except Exception as error:
        what = " ".join(str(error).split())[:80]
        raise FolderError(
            f"{folder} is damaged ({type(error).__name__}: {what}…); remove that folder and run again, which "
            "goes on from the checkpoint before, or from the start."
        ) from None


def _read_through(folder: Path) -> None:
    """Reads every value once, one after the other: ValueError for what is damaged.

    A restore of orbax that fails leaves reads behind, which print tracebacks of their own.
    """
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/"}).result()
    for key in store.list().result():
        store.read(key).result()


def _require_shapes(folder: Path, params: PyTree, begun: bool) -> None:
    """Notes the shapes of the weights; FolderError if those of a run that has begun are others.

    Compared here: a restore of orbax that fails leaves reads behind that end in a closed event loop.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    mine = {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}
    path = folder / SHAPES
    if not begun:
        write(path, json.dumps(mine, indent=0) + "\n")
    elif not path.exists() or json.loads(path.read_text(encoding="utf-8")) != mine:
        raise FolderError(
            f"{folder / 'checkpoints'} is of another model, or of an older pfjax; give another folder (--out)."
        )
