"""The command line: exit codes, one-sentence errors, JSON, the tree on a screen."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import jax
import pytest
from flax import nnx
from rich.console import Console
from typer import Exit
from typer.testing import CliRunner

import pfjax
from pfjax import recipes
from pfjax.cli import app
from pfjax.cli.errors import one_sentence
from pfjax.cli.options import DTYPES, METHODS, PRM_KINDS, RECIPES
from pfjax.cli.request import Asked, questions_of
from pfjax.cli.show import CHOSEN, particle_tree
from pfjax.models import cache, dtypes, formats
from pfjax.models.linear import FORMATS
from pfjax.recipes import Recipe
from pfjax.search import methods
from pfjax.search.branches import fold, merge
from pfjax.search.tree import Node, Tree
from pfjax.settings import execution

EMBEDDED = Path(pfjax.__file__).parent / "embedded"
QUESTION = "Lee has 3 bags of 5 figs. Ann has 2 more than Lee. How many figs does Ann have?"


def call(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def refused(result, *words):
    """Exit 2, nothing on stdout, one line on stderr with the words."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("pfjax: ") and result.stderr.count("\n") == 1
    assert not [w for w in words if w not in result.stderr], result.stderr


@pytest.fixture
def damaged(tmp_path):
    return Path(shutil.copytree(EMBEDDED / "small", tmp_path / "damaged"))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_missing_folder(tmp_path):
    refused(call("solve", "--policy", tmp_path / "none"), "is not a folder")
    refused(call("solve", "--json", "--policy", tmp_path / "none"), "is not a folder")


def test_missing_shard(damaged):
    weights = damaged / "model.safetensors"
    weights.rename(damaged / "model-00001-of-00002.safetensors")
    names = {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
    }
    index = damaged / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refused(call("solve", "--policy", damaged), "lacks the shard model-00002")


def test_truncated_weights(damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(call("solve", "--policy", damaged), "truncated")


def test_wrong_shape(damaged):
    edit_config(damaged, intermediate_size=128)
    refused(call("solve", "--policy", damaged), "has shape", "config.json wants")


def test_damaged_prm(tmp_path):
    folder = shutil.copytree(EMBEDDED / "prm", tmp_path / "prm")
    edit_config(folder, num_hidden_layers=2)
    refused(call("solve", "--prm", folder), "config.json and weights are of different models")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickle(damaged, name):
    (damaged / "model.safetensors").unlink()
    (damaged / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.")
    refused(
        call("solve", "--policy", damaged),
        "torch >= 1.6" if name.endswith("bin") else "truncated",
    )


def test_unknown_architecture(damaged):
    edit_config(damaged, architectures=["GPT2LMHeadModel"])
    refused(call("solve", "--policy", damaged), "'GPT2LMHeadModel'", "Qwen2ForCausalLM")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], "question is empty"),
        (["  \n "], "question is empty"),
        (["Ann " * 600], "shorten the question"),
        (["--particles", "0"], "particles is 0"),
        (["--particles", "1000000000"], "particles is 1000000000"),
        (["--particles", "2", "--method", "sample"], "majority"),
        (["--method", "magic"], "weighted-best-of-n"),
        (["--policy", "embedded:huge"], "embedded:large"),
        (["--prm", "embedded:small"], "without a reward head"),
        (["--temperature", "-1"], "temperature"),
        (["--tau", "nan"], "tau"),
        (["--seed", "-1"], "seed"),
        (["--num-problems", "0"], "num-problems"),
    ],
)
def test_bad_options(args, words):
    refused(call("solve", *args), words)


def test_usage_errors_exit_2():
    assert call("solve", "--particles", "many").exit_code == 2
    assert call("solve", "--no-such-option").exit_code == 2
    assert call("conquer").exit_code == 2


def test_help_names_every_method_and_recipe():
    assert METHODS.split(", ") == list(methods.METHODS) == list(get_args(methods.Name))
    assert PRM_KINDS.split(", ") == list(formats.PRM_KINDS)
    assert DTYPES == dtypes.FLOATING
    assert execution.KV_FORMATS == cache.KV_FORMATS and execution.WEIGHT_FORMATS == tuple(FORMATS)
    assert RECIPES.split(", ") == list(recipes.RECIPES)


def test_bug_shows_its_traceback_only_with_debug(monkeypatch, capsys):
    def bug(debug):
        with one_sentence(debug):
            raise TypeError("no\nway")

    for debug in (False, True):
        with pytest.raises(Exception) as stopped:
            bug(debug)
        assert stopped.value.exit_code == 2
        err = capsys.readouterr().err
        assert ("Traceback" in err) == debug and "pfjax: TypeError: no way" in err


def test_interrupt_is_130(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pfjax, "load", interrupt)
    result = call("solve")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_solve_json():
    options = ["--particles", 4, "--num-problems", 2, "--seed", 3, "--tau", 0.5]
    result = call("solve", "--json", *options)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["method"] == "pf" and document["particles"] == 4 and document["tau"] == 0.5
    assert [p["index"] for p in document["problems"]] == [6, 7]
    keys = "index question truth answer correct single solutions counts log_evidence method"
    for problem in document["problems"]:
        more = "status ess tree format chosen asked"
        assert set(problem) == {*keys.split(), *more.split()}
        assert len(problem["solutions"]) == 4
        assert {"answer", "correct", "text", "counts"} == set(problem["single"])
        assert problem["counts"]["prm_tokens"] > 0 == problem["single"]["counts"]["prm_tokens"]
        assert all(node["right"] in (True, False) for node in problem["tree"]["nodes"])
    summary = document["summary"]
    assert summary["problems"] == 2
    assert summary["solved"] == sum(p["correct"] for p in document["problems"])
    assert summary["policy_tokens"] == sum(
        p["counts"]["policy_tokens"] + p["single"]["counts"]["policy_tokens"]
        for p in document["problems"]
    )


def test_the_first_thing_a_newcomer_sees_is_right_and_says_why():
    """No arguments: three problems that one sample misses and the filter solves, chosen for that."""
    result = call("solve")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "solved 3 of 3 by pf with 16 particles, 0 of 3 by one sample" in said
    assert "Seed 9 is shown because" in said and "Of 500 held-out problems it solves 53 %" in said
    assert "for all 3 problems" in said
    other = call("solve", "--seed", 0, "--num-problems", 1)
    other = " ".join(other.stdout.split())
    assert "Seed 9" not in other and "for this problem" in other


def test_the_figures_beside_it_are_those_of_the_results():
    page = (Path(__file__).parents[3] / "benchmarks" / "RESULTS.md").read_text()
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| pf |")]
    found = {int(n): float(share) for _, n, share in rows if float(share) < 1}
    assert f"{found[16]:.0%} with 16".replace("%", " %") in CHOSEN
    assert f"one sample {found[1]:.0%}".replace("%", " %") in CHOSEN


def test_a_line_of_a_file_ends_with_a_line_feed_alone(tmp_path):
    """What str.splitlines splits at is legal inside JSON; Windows puts a mark in front."""
    path, question = tmp_path / "q.jsonl", "a\u2028b\u2029c\x85d"
    row = json.dumps({"question": question, "answer": 7}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\n{row}".encode())
    assert questions_of(path) == [Asked(question, None, "7")] * 2


def test_a_platform_that_is_not_there_is_named(monkeypatch, capsys):
    """JAX ends in an assertion without a word."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(Exit), one_sentence(False):
        raise AssertionError
    assert "JAX found no device of JAX_PLATFORMS=cuda; unset it" in capsys.readouterr().err


def test_the_prompt_is_shown_without_weights(damaged):
    (damaged / "model.safetensors").unlink()
    options = ("--policy", damaged, "--user", "Q: {question}", "--show-prompt")
    shown = call("solve", "Why?", *options)
    assert shown.exit_code == 0 and "Q: Why?" in shown.stdout
    plain = call("solve", "Why?", "--policy", damaged, "--template", "plain", "--show-prompt")
    assert plain.stdout.endswith("Question: Why?\nAnswer:\n")


def test_a_file_of_questions(tmp_path):
    rows = [
        {"question": QUESTION, "answer": "15 + 2 = 17\n#### 17", "id": "a"},
        {"problem": QUESTION, "unique_id": 7},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    result = call(
        "solve", "--file", path, "--particles", 4, "--json", "--temperature", 0.5, "--top-k", 40
    )
    document = json.loads(result.stdout)
    assert result.exit_code in (0, 1) and len(document["problems"]) == 2
    assert [p["asked"]["id"] for p in document["problems"]] == ["a", "7"]
    assert [p["truth"] for p in document["problems"]] == ["17", None]
    assert document["sampling"] == {"temperature": 0.5, "top_p": 1.0, "top_k": 40, "min_p": 0.0}
    assert document["prm"] == "embedded:prm" and document["budget"]["max_tokens"] == 96


def test_without_a_prm_it_is_a_majority_and_no_prm_is_named():
    found = json.loads(call("solve", QUESTION, "--prm", "none", "--json", "--particles", 2).stdout)
    assert found["method"] == "majority" and found["prm"] is None
    named = json.loads(
        call("solve", QUESTION, "--method", "majority", "--json", "--particles", 2).stdout
    )
    assert named["prm"] is None and named["problems"][0]["counts"]["prm_tokens"] == 0


def test_question_without_an_answer_exits_1(damaged):
    path = damaged / "generation_config.json"
    short = {"max_new_tokens": 4, "step_tokens": 4, "max_steps": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | short))
    result = call("solve", QUESTION, "--policy", damaged, "--method", "sample")
    assert result.exit_code == 1, result.stderr
    assert "answer none" in result.stdout and "(cut off)" in result.stdout
    assert "truth" not in result.stdout and "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_train(tmp_path, monkeypatch):
    def run(folder, progress):
        folder.mkdir()
        progress(1, 2, {"loss": 2.0})
        progress(2, 2, {"loss": 1.0})
        return {"pass@1": {"mean": 0.5, "interval": [0.4, 0.6]}, "worst": float("inf")}

    def fail(folder, progress):
        raise ValueError("The data\nare gone.")

    rows = {"good": Recipe("a good one", run), "bad": Recipe("a bad one", fail)}
    monkeypatch.setattr(recipes, "RECIPES", rows)
    out = tmp_path / "run"
    refused(call("train", "ugly", "--out", out), "'ugly', wanted one of good, bad")
    refused(call("train", "good", "--out", out, "--seed", 1), "has a fixed seed")
    failed = call("train", "bad", "--out", out)
    assert failed.exit_code == 2 and failed.stderr.endswith("pfjax: The data are gone.\n")
    assert not out.exists()
    result = call("train", "good", "--out", out, "--json")
    metrics = {"pass@1": {"mean": 0.5, "interval": [0.4, 0.6]}, "worst": None}
    assert json.loads(result.stdout) == {"recipe": "good", "out": str(out), "metrics": metrics}
    assert "good 2/2 loss 1" in result.stderr
    (tmp_path / "file").touch()
    refused(call("train", "good", "--out", tmp_path / "file"), "is a file")


def test_train_shows_metrics(tmp_path, monkeypatch):
    metrics = {"pass@1": {"mean": 0.5, "interval": (0.4, 0.6)}}
    rows = {"good": Recipe("a good one", lambda folder, progress: metrics)}
    monkeypatch.setattr(recipes, "RECIPES", rows)
    result = call("train", "good", "--out", tmp_path)
    assert result.exit_code == 0 and "pass@1 interval  0.4 .. 0.6" in result.stdout


def test_models():
    result = call("models", "--json")
    found = {m["name"]: m for m in json.loads(result.stdout)}
    assert set(found) == {"embedded:small", "embedded:large", "embedded:prm"}
    small = pfjax.models.load_policy(EMBEDDED / "small")
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(small.decoder))]
    assert found["embedded:small"]["parameters"] == sum(sizes)
    assert found["embedded:small"]["context"] == small.config.max_positions
    assert call("models").stdout.count("Qwen2For") == 3


def test_version():
    assert call("--version").stdout == f"pfjax {pfjax.__version__}\n"


def python(code, **options):
    env = os.environ | {"PYTHONPATH": str(Path(pfjax.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "args", [["--help"], ["solve", "--help"], ["plan", "--help"], ["models"], ["--version"]]
)
def test_quick_commands_do_not_import_jax(args):
    code = f"""
import sys
sys.argv = ["pfjax", *{args}]
from pfjax.cli import main
try:
    main()
finally:
    print(sorted(m for m in sys.modules if m in ("jax", "flax", "numpy")), file=sys.stderr)
"""
    result = python(code, timeout=120)
    assert result.returncode == 0 and result.stderr == "[]\n"


@pytest.mark.parametrize(
    "args", [["--tau", "-1"], ["--particles", "0"], ["--top-p", "2"], ["--file", "/no/such"], [" "]]
)
def test_what_cannot_be_is_refused_before_jax_is_imported(args):
    code = f"""
import sys
sys.argv = ["pfjax", "solve", *{args}]
from pfjax.cli import main
try:
    main()
finally:
    print(sorted(m for m in sys.modules if m in ("jax", "flax")), file=sys.stderr)
"""
    result = python(code, timeout=120)
    assert result.returncode == 2 and result.stderr.endswith("[]\n"), result.stderr


def test_ctrl_c_ends_a_real_run_at_once(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"PFJAX_CACHE": str(tmp_path), "PYTHONPATH": str(Path(pfjax.__file__).parents[1])}
    # Jobs that a shell starts in the background, and what they start, ignore SIGINT.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pfjax.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "solve", QUESTION, "--particles", "2048"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, **pipes) as process:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "pfjax" / "xla").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")


def node(generation, slot, parent, text, value, alive=True, finished=False):
    return Node(
        generation=generation,
        slot=slot,
        parent=parent,
        text=text,
        tokens=[],
        value=value,
        alive=alive,
        finished=finished,
    )


@pytest.fixture
def tree():
    """Four particles: slot 2 dies at once, slot 3 a step later; slots 0 and 1 say the same."""
    return Tree(
        nodes=[
            node(0, 0, -1, "A has 2.\n\n", 2.0),
            node(0, 1, -1, "A has 2. ", 2.0),
            node(0, 2, -1, "A has 9.", -3.0, alive=False),
            node(0, 3, -1, "A has 7.", 0.5, alive=False),
            node(1, 0, 0, "B has 5.", 2.5),
            node(1, 1, 1, "B has \\boxed{4}.", 1.5, finished=True),
            node(1, 2, 3, "B has 8.", -2.0, alive=False),
            node(1, 3, 0, "B has 5.", 2.5),
            node(2, 0, 4, "B has \\boxed{5}.", 3.0, finished=True),
            node(2, 3, 7, "B has \\boxed{5}.", 3.0, finished=True),
        ],
        leaves=[8, 5, 9, 9],
        weights=[0.25, 0.125, 0.5, 0.125],
    )


def test_merge(tree):
    nine, seven, two = merge(tree, chosen=0, right=[k % 2 == 0 for k in range(10)], cut={1})
    assert (nine.text, nine.count, nine.dropped, nine.alive) == ("A has 9.", 1, 1, False)
    assert (seven.count, seven.dropped, seven.lost, seven.alive) == (1, 0, 1, False)
    assert (two.text, two.count, two.dropped, two.right, two.chosen) == (
        "A has 2.",
        2,
        0,
        True,
        True,
    )
    assert two.share is None and two.mass == 1.0
    four, five = two.below
    assert (four.count, four.share, four.cut, four.chosen) == (1, 0.125, True, False)
    assert (five.count, five.dropped, five.chosen) == (2, 0, True)
    (answer,) = five.below
    assert (answer.count, answer.share, answer.value) == (2, 0.875, 3.0)


def render(steps, width=80, colour=None, **options):
    file = io.StringIO()
    Console(file=file, width=width, color_system=colour, force_terminal=bool(colour)).print(
        particle_tree(steps, **options)
    )
    return file.getvalue()


def test_tree_on_a_screen(tree):
    lines = [line.rstrip() for line in render(merge(tree, 0)).splitlines()]
    assert lines == [
        "question                 PRM   ×   †  weight",
        "├ A has 9.              -3.0  ×1  †1",
        "├ A has 7.              +0.5  ×1",
        "│ └ B has 8.            -2.0  ×1  †1",
        "└ A has 2.              +2.0  ×2",
        "  ├ B has \\boxed{4}.    +1.5  ×1         12%",
        "  └ B has 5.            +2.5  ×2",
        "    └ B has \\boxed{5}.  +3.0  ×2         88%",
    ]
    assert "PRM" not in render(merge(tree, 0), scored=False)


def test_colours(tree):
    right = [node.alive for node in tree.nodes]
    lines = render(merge(tree, 0, right), colour="standard").splitlines()
    assert "\x1b[2;31m✗ " in lines[1] and "\x1b[2mA has 9." in lines[1]
    assert "\x1b[2;31m-3.0" in lines[1] and "\x1b[2;33m+0.5" in lines[2]
    assert "\x1b[32m✓ \x1b[0m\x1b[1mA has 2." in lines[4] and "\x1b[32m+2.0" in lines[4]
    assert "✓ \x1b[0mB has \\boxed{4}." in lines[5]


@pytest.mark.parametrize("width", [40, 80])
def test_long_steps_leave_room_for_the_numbers(tree, width):
    first = node(0, 0, -1, "so " * 100, 2.0)
    long = Tree([first, *tree.nodes[1:]], tree.leaves, tree.weights)
    lines = render(merge(long, 0), width).splitlines()
    assert len(lines) == 9 and max(map(len, lines)) <= width
    assert sum("…" in line and "+2.0  ×1" in line for line in lines) == 1


def test_fold_keeps_the_heavy_branches_and_the_counts():
    nodes = [node(0, i, -1, f"step {i % 20}", 0.0) for i in range(30)]
    nodes += [node(1, i, i, f"\\boxed{{{i}}}", 0.0, finished=True) for i in range(30)]
    tree = Tree(nodes, list(range(30, 60)), [1 / 30] * 30)
    folded = fold(merge(tree, chosen=15), lines=10)
    assert len(render(folded).splitlines()) <= 12
    assert sum(s.count for s in folded) == 30 and sum(s.mass for s in folded) == pytest.approx(1.0)
    assert folded[0].text.endswith("more branches") and folded[0].share > 0.5
    assert folded[-1].chosen and folded[-1].below[-1].text == "\\boxed{15}"
    assert len(render(fold(merge(tree, 15), lines=1000)).splitlines()) == 51
