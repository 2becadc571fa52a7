"""The loop: resumes bitwise, keeps its log whole, skips what is not finite, stops on a signal, works alone."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfjax.distill import trainer
from pfjax.distill.interruption import Interrupted
from pfjax.distill.run_folder import FolderError, locked

SCHEDULE = trainer.Schedule(steps=60, rate=0.05, warmup=5)


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax's schedules mix int32 counts and floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def loss(params, batch):
    error = jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    return error, {"loss": error}


def batch(i: int):
    rng = np.random.default_rng(i)
    x = rng.normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float32)}


def spoilt(bad, value=np.nan):
    """Batches of which those with numbers in `bad` have a value in them."""

    def make(i: int):
        found = batch(i)
        if i in bad:
            found["y"][3] = value
        return found

    return make


def fit(folder, data=batch, schedule=SCHEDULE, **options):
    given = {"save_every": 20} | options
    return trainer.fit({"w": jnp.zeros(3)}, loss, data, schedule, folder=folder, **given)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stopping_at(step: int, act):
    def make(i: int):
        if i == step:
            act()
        return batch(i)

    return make


def interrupt():
    raise KeyboardInterrupt


def test_it_resumes_bitwise_and_logs_every_step_once(tmp_path):
    """Interrupted by an exception after step 50, with a row of step 40 that is later than the checkpoint."""
    whole = fit(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", stopping_at(50, interrupt), save_every=30)
    with (tmp_path / "b/log.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    assert [r["step"] for r in rows_of_whole_lines(tmp_path / "b")] == [20, 40]
    seen, told = [], []
    again = fit(
        tmp_path / "b",
        lambda i: seen.append(i) or batch(i),
        save_every=30,
        before=1000,
        report=lambda step, row: told.append((step, row)),
    )
    assert seen == list(range(30, 60))
    assert told[0] == (1030, {"resumed": 1030}) and [t[0] for t in told] == [1030, 1040, 1060]
    assert np.array_equal(whole["w"], again["w"]) and not np.array_equal(whole["w"], np.zeros(3))
    for name in ("a", "b"):
        found = rows(tmp_path / name)
        assert [r["step"] for r in found] == [20, 40, 60]
        assert found[-1]["loss"] < found[0]["loss"] and found[-1]["skipped"] == 0
    done = fit(tmp_path / "a", stopping_at(0, interrupt), report=lambda *a: interrupt())
    assert np.array_equal(done["w"], whole["w"])


def rows_of_whole_lines(folder) -> list[dict]:
    return [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines() if x[-1] == "}"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, value):
    """As if the optimiser had never seen the batches 7, 8 and 33; 1e30 overflows in the square."""
    bad = {7, 8, 33}
    found = fit(tmp_path / "bad", spoilt(bad, np.float32(value)))
    assert np.isfinite(found["w"]).all() and rows(tmp_path / "bad")[-1]["skipped"] == 3
    left = [i for i in range(60) if i not in bad]
    short = SCHEDULE._replace(steps=57, horizon=60)
    wanted = fit(tmp_path / "left", lambda i: batch(left[i]), short)
    np.testing.assert_array_equal(found["w"], wanted["w"])


def test_too_many_in_a_row_end_the_run_and_the_checkpoint_stays_good(tmp_path):
    wanted = r"30 steps in a row up to step 60 .* checkpoint of step 40 stays; .* lower the rate \(0.05\)\.$"
    with pytest.raises(trainer.TrainingError, match=wanted):
        fit(tmp_path / "run", spoilt(range(30, 60)), save_every=40)
    assert [int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()] == [40]
    mended = fit(tmp_path / "run", save_every=40)
    assert np.isfinite(mended["w"]).all()
    assert rows(tmp_path / "run")[-1]["skipped"] == 10


@pytest.mark.parametrize("steps", [3, 60])
def test_weights_that_are_not_finite_end_the_run(tmp_path, steps):
    with pytest.raises(
        trainer.TrainingError, match=f"{min(steps, 20)} steps in a row .* nothing was saved"
    ):
        trainer.fit(
            {"w": jnp.full(3, jnp.nan)},
            loss,
            batch,
            SCHEDULE._replace(steps=steps),
            folder=tmp_path,
        )
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_where(tmp_path, signum):
    before = signal.signal(signum, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="^interrupted at step 138$") as caught:
            fit(tmp_path, stopping_at(37, lambda: signal.raise_signal(signum)), before=100)
        assert signal.getsignal(signum) is signal.default_int_handler
    finally:
        signal.signal(signum, before)
    assert caught.value.signum == signum
    seen = []
    again = fit(tmp_path, lambda i: seen.append(i) or batch(i))
    assert seen[0] == 38 and [r["step"] for r in rows(tmp_path)] == [20, 40, 60]
    assert np.array_equal(again["w"], fit(tmp_path / "whole")["w"])


def test_steps_are_not_queued_so_that_a_signal_waits_for_few(tmp_path, monkeypatch):
    """Steps take long here, and the host would be far ahead of them."""
    told, waiting, compiled = [], [], jax.jit

    def jit(function, **options):
        step = compiled(function, **options)

        def call(*arguments):
            carry, metrics = step(*arguments)
            told.append(metrics["loss"])
            return carry, metrics

        return call

    def slow(params, data):
        start = jnp.broadcast_to(data["y"][0], (256, 256))
        long = jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ x), start)
        value, metrics = loss(params, data)
        return value, metrics | {"loss": value + 0 * jax.lax.stop_gradient(jnp.mean(long))}

    def asked(i: int):
        waiting.append(sum(not value.is_ready() for value in told))
        return batch(i)

    monkeypatch.setattr(jax, "jit", jit)
    trainer.fit({"w": jnp.zeros(3)}, slow, asked, SCHEDULE._replace(steps=12), folder=tmp_path)
    assert len(waiting) == 12 and max(waiting) <= 1


@pytest.mark.parametrize("what", ["manifest.ocdbt", "d/*"])
def test_a_damaged_checkpoint_is_named_in_one_sentence(tmp_path, what, capfd):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "torn", schedule=SCHEDULE._replace(steps=40, horizon=60))
    newest = tmp_path / "torn" / "checkpoints" / "40"
    damaged = [file for file in newest.glob(f"default/**/{what}") if file.is_file()]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:5])
    with pytest.raises(
        FolderError, match="40 is damaged .*; remove that folder and run again"
    ) as error:
        fit(tmp_path / "torn")
    assert damaged and "\n" not in str(error.value) and len(str(error.value)) < 400
    assert "Traceback" not in capfd.readouterr().err
    shutil.rmtree(newest)
    assert np.array_equal(fit(tmp_path / "torn")["w"], whole["w"])


def test_one_at_a_time_in_a_folder(tmp_path):
    with locked(tmp_path / "fit.lock"), pytest.raises(FolderError, match="in use by another"):
        fit(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "params",
    [
        {"w": jnp.zeros(4)},
        {"w": jnp.zeros(3, jnp.bfloat16)},
        {"v": jnp.zeros(3)},
        {"w": jnp.zeros(3), "b": jnp.zeros(())},
    ],
)
def test_the_checkpoint_of_another_model_is_refused_in_one_sentence(tmp_path, params):
    fit(tmp_path, schedule=SCHEDULE._replace(steps=20))
    with pytest.raises(FolderError) as caught:
        trainer.fit(params, loss, batch, SCHEDULE, folder=tmp_path)
    text = str(caught.value)
    assert (
        "is of another model, or of an older pfjax" in text and len(text) < 300 and "\n" not in text
    )
