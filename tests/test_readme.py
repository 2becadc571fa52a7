"""What the README says works as it stands there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(path: str) -> list[str]:
    """The Python in a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.S)


@pytest.mark.slow
def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    """Above 20 s: a fresh process compiles the programs that no test before it had."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    code = "\n".join(blocks("README.md"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "Counts(policy_tokens=" in done.stdout
    assert done.stdout.startswith("88 ")  # the truth, which one sample of this key misses


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 120
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "smc/README.md",
        "models/README.md",
        "pfjax/search/README.md",
    ):
        found = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
        for link in found:
            inner = (ROOT / page).parent / link
            assert link.startswith("http") or inner.exists(), (page, link)


def test_the_python_block_of_models_runs():
    (code,) = blocks("models/README.md")
    found: dict = {}
    exec(code, found)  # our own text
    assert found["logits"].ndim == 3 and found["scores"].shape == (2,)


def test_the_tables_of_search_are_complete():
    """Every method, potential, answer rule and reward has its row; every name in a row exists."""
    from pfjax.search import METHODS, answers, potentials, rewards

    page = (ROOT / "pfjax/search/README.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in page, name
    for module in (answers, potentials, rewards):
        own = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        short = module.__name__.split(".")[-1]
        named = set(re.findall(rf"`(?:{short}\.)?(\w+)", page))
        functions = [n for n in own if n.islower() and not n.startswith("_")]
        missing = {n for n in functions if n not in named} - {"weigh", "opened", "name_of"}
        assert not missing, missing


def test_the_python_block_of_smc_runs():
    (code,) = blocks("smc/README.md")
    found: dict = {}
    exec(code, found)  # our own text
    assert int(found["infos"].status[-1]) == 0 and found["infos"].ess.shape == (3,)


def test_every_variant_of_the_table_exists():
    from pfjax import smc

    table = re.findall(r"^\| (.*?) \|", (ROOT / "smc/README.md").read_text(), re.M)
    names = [name for row in table for name in re.findall(r"`(\w+)", row)]
    assert len(names) > 50 and not [name for name in names if not hasattr(smc, name)]


def test_packages_are_those_of_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(settings["tool"]["setuptools"]["packages"])
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in (ROOT / "pfjax").rglob("__init__.py")
        if not {"models", "smc"} & set(p.relative_to(ROOT / "pfjax").parts[:1])
    }
    assert packages == found | {"pfjax.models", "pfjax.smc"}
    for name in ("models", "smc"):
        assert (ROOT / "pfjax" / name).resolve() == ROOT / name
