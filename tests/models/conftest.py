"""The committed checkpoints of make_fixtures.py, and copies of them to damage."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pfjax import models

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def checkpoint():
    """checkpoint(name): a committed folder; read-only."""
    return lambda name: FIXTURES / name


@pytest.fixture
def copied(tmp_path):
    """copied(name): a folder of its own, to be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy


@pytest.fixture
def expected():
    """expected(name): (arrays, texts) that torch and transformers computed."""

    def load(name: str):
        with np.load(FIXTURES / name / "expected.npz") as arrays:
            return dict(arrays), json.loads((FIXTURES / name / "expected.json").read_text())

    return load


@pytest.fixture
def refused():
    """refused(folder, message): loading raises a CheckpointError of one sentence with this text."""

    def check(folder: Path, message: str):
        load = models.load_prm if folder.name == "prm" else models.load_policy
        with pytest.raises(models.CheckpointError, match=re.escape(message)) as caught:
            load(folder)
        text = str(caught.value)
        assert "\n" not in text and text.endswith("."), text

    return check
