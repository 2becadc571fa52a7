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


@pytest.mark.slow
def test_the_python_block_runs(tmp_path, monkeypatch):
    """Above 20 s: a fresh process compiles the programs that no test before it had."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "Counts(policy_tokens=" in done.stdout


def test_the_python_block_of_smc_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "smc/README.md").read_text(), re.S)
    found: dict = {}
    exec(code, found)  # our own text
    assert int(found["infos"].status[-1]) == 0 and found["infos"].ess.shape == (3,)


def test_every_variant_of_the_table_exists():
    from pfjax import smc

    table = re.findall(r"^\| (.*?) \|", (ROOT / "smc/README.md").read_text(), re.M)
    names = [name for row in table for name in re.findall(r"`(\w+)", row)]
    assert len(names) > 50 and not [name for name in names if not hasattr(smc, name)]


def test_the_file_tree_names_files_that_exist():
    (tree,) = re.findall(r"```\n(smc/.*?)```", README, re.S)
    for name in re.findall(r"\w+\.py", tree):
        assert list(ROOT.glob(f"*/{name}")) + list(ROOT.glob(f"*/*/{name}")), name
    assert len(README.splitlines()) <= 120


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


def test_public_python_files_are_small():
    for folder in ("smc", "models", "pfjax"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 250, path
