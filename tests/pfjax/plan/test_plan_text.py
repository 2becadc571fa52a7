"""PRMs that read text in a plan: which they are, the room of their caches, and what cannot be planned."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pfjax.cli import app
from pfjax.plan import Request, make_plan
from pfjax.plan.memory import memory
from pfjax.plan.shapes import caches, kv_bytes, prm_step
from pfjax.plan.weights import streamed

RLHFLOW = "Llama3.1-8B-PRM-Deepseek-Data"


@pytest.mark.parametrize(
    ("policy", "prm", "reads_text"),
    [
        ("Qwen2.5-7B", "Qwen2.5-Math-PRM-7B", False),
        ("Qwen3-4B", "Skywork-o1-Open-PRM-Qwen-2.5-1.5B", False),
        ("Llama-3.1-8B", RLHFLOW, True),
        ("Qwen2.5-7B", "Math-Shepherd-Mistral-7B-PRM", True),
        ("Llama-3.2-1B", "Qwen2.5-Math-PRM-7B", True),
    ],
)
def test_who_reads_text(policy, prm, reads_text):
    """A format with text between the steps, or the tokenizer of another family."""
    plan = make_plan(Request(policy, prm))
    assert plan.setup.prm and plan.setup.prm.reads_text == reads_text
    assert [n.startswith(f"{prm} reads text") for n in plan.notes] == [False] + [True] * reads_text


def test_one_probe_reads_text():
    plan = make_plan(Request("embedded:small", "embedded:prm", prm_kind="qwen-once"))
    assert plan.setup.prm and plan.setup.prm.head == "classes" and plan.setup.prm.reads_text


def test_room_by_hand():
    """1536 of the policy's 1024 tokens, 16 around each of 40 steps; a step of 400 in blocks of 55."""
    plan = make_plan(Request("Llama-3.1-8B", RLHFLOW, mesh="1x1"))
    work, prm = plan.setup.workload, plan.setup.prm
    assert prm and kv_bytes(prm, "bfloat16") == 131_072
    assert prm_step(prm, work.budget) == (440, 55)
    assert caches(work)[1] == 131_072 * (1536 + 640 + 440)
    scoring, rows = plan.roofline.scoring, 8 * 32
    held = 131_072 * (8 * 256 + rows * (1536 + 640 + 440 + 440))
    read = sum(p.local_size * p.itemsize for p in streamed(prm, "bfloat16", None, 1))
    assert scoring and scoring.bytes_read == 8 * (read + held)


def test_activations_are_those_of_a_block():
    """Of 55 tokens a row, not of 52 as for a PRM that reads the policy's."""
    small = Request("Llama-3.2-1B", RLHFLOW, mesh="1x1", particles=1, problems=1, prompt_tokens=1)
    found = make_plan(small).memory.activations
    columns = 64 + 1536 + 640 + 440 + 440
    inner = 3 * 14336 * 2
    assert found == 55 * (max(32 * columns * (4 + 2), inner) + 4 * 4096 * 2)


def test_the_command_says_that_caches_may_double(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = ["plan", "--policy", "Llama-3.1-8B", "--prm", RLHFLOW]
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0 and "16 around a step; they may double" in " ".join(
        shown.stdout.split()
    )
    notes = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)["notes"]
    assert any(note.startswith(f"{RLHFLOW} reads text") for note in notes)


def test_two_programs_are_not_compiled():
    options = ["plan", "--prm", RLHFLOW, "--device", "v5e", "--mesh", "1x4", "--compile"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2 and "reads text" in done.stderr and "leave it out" in done.stderr


NUMBERS = st.integers(1, 300)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"particles": NUMBERS, "problems": NUMBERS, "prompt_tokens": NUMBERS, "model": st.just(1)}
    ),
    st.sampled_from(("particles", "problems", "prompt_tokens", "model", "budget")),
    st.sampled_from(("qwen", "qwen-once")),
)
def test_more_never_fits_better(numbers, name, kind):
    """And more devices on the model axis never fit worse. Activations may fall where there are enough
    rows to be read in groups.
    """
    request = Request("embedded:small", "embedded:prm", prm_kind=kind, max_tokens=50)
    work = make_plan(request).setup.workload._replace(**numbers)
    budget = work.budget._replace(max_tokens=work.budget.max_tokens + 5)
    value = budget if name == "budget" else 2 * numbers[name]
    more, less = memory(work._replace(**{name: value})), memory(work)
    if name == "model":
        more, less = less, more
    assert more.total > less.total or (name == "prompt_tokens" and more.total == less.total)
    if name in ("particles", "problems"):
        more, less = (found._replace(activations=0) for found in (more, less))
    assert all(m >= k for m, k in zip(more, less, strict=True))
