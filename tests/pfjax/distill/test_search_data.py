"""Collected solutions: merged, closed, resumed, and never those of other questions or settings."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import enumerable_lm
import jax
import numpy as np
import pytest
from flax import nnx

from pfjax import models, search, smc
from pfjax.distill import identity, interruption
from pfjax.distill.interruption import Interrupted
from pfjax.distill.run_folder import FolderError
from pfjax.distill.search_data import collect, weighted_solutions
from pfjax.models.decoder import Decoder
from pfjax.search import methods, potentials, rewards
from pfjax.search.result import Result
from pfjax.search.solver import Solver
from pfjax.settings.budget import Budget
from pfjax.settings.sampling import Sampling

QUESTIONS = ["one?", "two?", "three?"]


class Spelling(enumerable_lm.Spelling):
    """With what closing a solution asks for."""

    source = "spelling"
    special_tokens: dict[str, str] = {}

    def token_id(self, text: str) -> None:
        return None


def solver(**fields) -> Solver:
    found = enumerable_lm.solver(**fields)
    tokenizer = cast(models.Tokenizer, Spelling())
    return replace(found, policy=replace(found.policy, tokenizer=tokenizer))


SOLVER = solver()


def searched(folder, of: Solver = SOLVER, questions=QUESTIONS, **changes):
    given = {"particles": 8, "key": 0, "chunk": 2} | changes
    return collect(of, questions, folder, **given)


def test_equal_solutions_are_merged_with_their_weights():
    rows = [([1, 2], 0.25), ([3], 0.3), ([1, 2, 0], 0.25), ([4], 0.2), ([5], 0.0)]
    solutions = [
        SimpleNamespace(tokens=tokens, weight=weight, finished=tokens != [4])
        for tokens, weight in rows
    ]
    result = cast(Result, SimpleNamespace(solutions=solutions))
    found = weighted_solutions(result, lambda t: [*t] if t[-1] == 0 else [*t, 0])
    assert found == [([1, 2, 0], 0.5), ([3, 0], 0.3)]


def test_solutions_end_once_and_weigh_what_is_finished(tmp_path):
    found = searched(tmp_path)
    assert found and {e.problem for e in found} <= {0, 1, 2}
    assert all(e.solution.count(0) == 1 and e.solution[-1] == 0 for e in found)
    assert all(e.prompt == enumerable_lm.PROMPT for e in found)
    for i, question in enumerate(QUESTIONS):
        result = SOLVER.solve(question, 8, 0, batch=2)
        wanted = sum(s.weight for s in result.solutions if s.finished)
        assert abs(sum(e.weight for e in found if e.problem == i) - wanted) < 1e-6


def test_what_is_there_is_read_and_what_is_missing_is_searched(tmp_path, monkeypatch):
    whole = searched(tmp_path)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["00000000.json", "00000002.json"]
    (tmp_path / files[1]).unlink()
    assert searched(tmp_path) == whole
    monkeypatch.setattr(Solver, "solve", None)
    assert searched(tmp_path) == whole


def test_more_questions_go_on(tmp_path):
    whole = searched(tmp_path / "a", questions=[*QUESTIONS, "four?"])
    first = searched(tmp_path / "b", questions=QUESTIONS[:2])
    assert searched(tmp_path / "b", questions=[*QUESTIONS, "four?"]) == whole
    assert whole[: len(first)] == first


def test_the_batch_is_no_larger_than_what_is_asked(tmp_path, monkeypatch):
    """`collect` used to pad every search to 64 problems."""
    batches, solve = [], Solver.solve

    def watching(self, *args, **options):
        batches.append(options["batch"])
        return solve(self, *args, **options)

    monkeypatch.setattr(Solver, "solve", watching)
    searched(tmp_path / "three", chunk=64)
    searched(tmp_path / "two", chunk=2)
    assert batches == [4, 2, 2]


def other_policy() -> models.Policy:
    decoder = Decoder(enumerable_lm.CONFIG, rngs=nnx.Rngs(3))
    table = np.array(enumerable_lm.policy().embed_tokens.embedding[...])
    table[2, 3] += 1e-3
    decoder.embed_tokens.embedding[...] = jax.numpy.asarray(table)
    return replace(SOLVER.policy, decoder=decoder)


@pytest.mark.parametrize(
    "name, changes, fields",
    [
        ("questions", {"questions": ["one?", "2?", "three?"]}, {}),
        ("questions", {"questions": ["two?", "one?", "three?"]}, {}),
        ("questions", {"chunk": 3}, {}),
        ("particles", {"particles": 4}, {}),
        ("key", {"key": 1}, {}),
        ("method", {"method": "paper"}, {}),
        ("method", {"method": methods.METHODS["pf"]._replace(resampler=smc.systematic)}, {}),
        ("sampling", {}, {"sampling": Sampling(1.9)}),
        ("budget", {}, {"budget": Budget(2, 4, 4)}),
        ("tau", {}, {"tau": 0.5}),
        ("prompt", {}, {"task": search.solver.Task(prompt=models.Prompt("Solve {question}"))}),
        ("ends", {}, {"task": search.solver.Task(stop_at_box=False)}),
        ("policy", {}, {"policy": other_policy()}),
        ("PRM", {}, {"prm": rewards.of_tokens(lambda tokens, n: n.astype("float32"))}),
    ],
)
def test_other_questions_settings_or_models_are_refused(
    tmp_path, name, changes, fields, monkeypatch
):
    searched(tmp_path)
    monkeypatch.setattr(Solver, "solve", None)
    with pytest.raises(FolderError, match=f"was begun with {name} ") as caught:
        searched(tmp_path, replace(SOLVER, **fields), **changes)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[[]]", "{}", '{"settings": {}}', "[1"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "00000000.json").write_text(text)
    with pytest.raises(FolderError, match="no collection of this version"):
        searched(tmp_path)


def test_a_signal_keeps_whole_chunks(tmp_path, monkeypatch):
    def progress(done, total):
        monkeypatch.setattr(interruption, "_noted", [15])

    with pytest.raises(
        Interrupted, match="^interrupted after searching 2 of 3 problems$"
    ) as caught:
        searched(tmp_path, progress=progress)
    assert caught.value.signum == 15 and [p.name for p in tmp_path.iterdir()] == ["00000000.json"]
    with pytest.raises(Interrupted, match="after searching 2"):  # in the middle of a chunk
        monkeypatch.setattr(
            interruption, "check", lambda where: None if not seen(where) else stop(where)
        )
        searched(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["00000000.json"]


CALLS: list[str] = []


def seen(where: str) -> bool:
    CALLS.append(where)
    return CALLS.count("after searching 2 of 3 problems") > 1


def stop(where: str):
    raise Interrupted(2, where)


def test_methods_made_anew_are_the_same_and_their_insides_count():
    def made(fraction, tau):
        rule = smc.in_place(smc.when(smc.ess_below(fraction), smc.ssp))
        return identity.function((rule, lambda x: potentials.mean(x * tau)))

    assert made(0.3, 1.0) == made(0.3, 1.0)
    assert len({made(0.3, 1.0), made(0.4, 1.0), made(0.3, 2.0)}) == 3


def test_digests_are_the_same_in_every_process(tmp_path):
    import os
    import subprocess
    import sys

    code = (
        "from pfjax import smc\nfrom pfjax.distill import identity\n"
        "f = lambda q, steps: float(q in {'a', 'b', 'c'}) + len(steps)\n"
        "print(identity.function((smc.when(smc.ess_below(.3), smc.ssp), f)), "
        "identity.weights({'w': __import__('numpy').arange(6.0)}))"
    )
    found = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert not ran.returncode, ran.stderr
        found.add(ran.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "float8_e4m3fn"])
def test_a_digest_sees_a_bit_a_place_a_shape_and_a_name(dtype):
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = 1
    y = np.zeros_like(x)
    y[2, 1] = 1

    def digest(values, name="w"):
        return identity.weights({name: jax.numpy.asarray(values).astype(dtype)})

    found = [digest(x), digest(y), digest(0 * x), digest(x.reshape(4, 3)), digest(x, "v")]
    assert len(set(found)) == 5 and digest(x.copy()) == found[0]
