"""The house as DESIGN.md draws it: rooms on floors, imports run down, no file too long, no cycles."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Rooms of one floor do not know one another.
FLOORS = [
    ["cli"],
    ["recipes", "bench"],
    ["plan", "evaluation", "distill"],
    ["search"],
    ["engine"],
    ["reasoning"],
    ["embedded"],
    ["tasks", "models", "smc"],
    ["settings"],
]
FLOOR = {room: -i for i, rooms in enumerate(FLOORS) for room in rooms}
FILES = {
    f"pfjax.{file.relative_to(folder.parent).with_suffix('').as_posix().replace('/', '.')}": file
    for folder in (ROOT / "smc", ROOT / "models")
    for file in folder.rglob("*.py")
} | {
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): file
    for file in (ROOT / "pfjax").rglob("*.py")
    if not {"smc", "models"} & set(file.relative_to(ROOT).parts)
}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}


def imported(source: str) -> set[str]:
    """Modules of pfjax that the source imports anywhere, without those for types alone."""
    found = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return {"pfjax.search" if name == "pfjax" else name for name in found if is_ours(name)}


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "pfjax"


def room(name: str) -> str:
    return name.split(".")[1]


def wrong_arrows(name: str, source: str) -> list[str]:
    """Imports of the module that do not run down."""
    if name == "pfjax" or name == "pfjax.__main__":
        return []
    to = {target for target in imported(source) if room(target) != room(name)}
    return sorted(target for target in to if FLOOR[room(target)] >= FLOOR[room(name)])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_down(name):
    assert not wrong_arrows(name, MODULES[name].read_text())


def test_a_wrong_arrow_is_seen():
    assert wrong_arrows("pfjax.reasoning.model", "from pfjax.search import methods")
    assert wrong_arrows("pfjax.smc.weights", "from pfjax.models import cache")
    assert wrong_arrows("pfjax.models.cache", "def f():\n    from pfjax.smc import resample")
    assert wrong_arrows("pfjax.plan.shapes", "import pfjax.evaluation")
    assert wrong_arrows("pfjax.engine.run", "import pfjax")
    assert not wrong_arrows("pfjax.search.solver", "from pfjax.engine import run")


def test_no_module_imports_itself_by_a_detour():
    graph = {
        name: {t for t in imported(file.read_text()) if t in MODULES and t != name}
        for name, file in MODULES.items()
        if file.name != "__init__.py"
    }
    list(TopologicalSorter(graph).static_order())


def test_what_measures_uses_public_names_of_solver_and_engine():
    measuring = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "pfjax/bench").glob("*.py")]
    hidden = re.compile(r"\b(solver|engine|search|s)\._(?!replace|asdict|fields)\w+")
    assert not {
        f.name: hidden.findall(f.read_text()) for f in measuring if hidden.search(f.read_text())
    }


def test_files_are_short_and_in_rooms():
    long = [f for f in MODULES.values() if len(f.read_text().splitlines()) > 250]
    assert not long
    assert {f.name for f in (ROOT / "pfjax").glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {room(name) for name in MODULES if name.count(".")} - {"__main__"} == set(FLOOR)
