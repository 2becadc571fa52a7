"""Runs the notebooks and stores them with what they show: python notebooks/store.py [NAME ...]"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main(names: list[str]) -> None:
    """All notebooks, or those whose names begin so."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and not path.name.startswith(tuple(names)):
            continue
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False)
        client.execute(cwd=FOLDER)
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, path)
        print(path.name, f"{path.stat().st_size >> 10} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
