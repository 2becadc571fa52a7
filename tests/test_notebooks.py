"""Every notebook runs top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path):
    """Above 20 s: a fresh kernel compiles its own programs."""
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), (
        "commit notebooks without outputs"
    )
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    kinds = {o["output_type"] for c in notebook.cells for o in c.get("outputs", [])}
    assert "display_data" in kinds and "error" not in kinds
