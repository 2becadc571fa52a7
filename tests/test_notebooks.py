"""Every notebook runs top to bottom."""

import re
from pathlib import Path

import jax
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
    """Above 20 s: a fresh kernel compiles the programs that no notebook before it had."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    kinds = {o["output_type"] for c in notebook.cells for o in c.get("outputs", [])}
    assert "display_data" in kinds and "error" not in kinds


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_stored_with_what_they_show(path):
    """By notebooks/store.py: every cell was run, in order, without an error; there are pictures."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 1 << 20


def test_the_first_notebook_shows_a_slip_and_the_right_answer():
    notebook = nbformat.read(FOLDER / "01_solve.ipynb", as_version=4)
    said = ["".join(o.get("text", "") for o in c.get("outputs", [])) for c in notebook.cells]
    (truth,) = [re.search("truth: (.*)", text)[1] for text in said if "truth:" in text]
    alone, filtered = (re.search("answer: (\\S+)", text)[1] for text in said if "answer:" in text)
    assert filtered == truth != alone
