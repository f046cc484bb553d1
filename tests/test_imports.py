"""The rooms of the house: a module imports from its own room or from those below it, never upwards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: from the highest to the lowest
FLOORS = (
    "cli", "report", "measure", "check", "training", "frontends", "run", "build", "emit", "lower", "compiler",
    "machine", "graphs", "ir", "system", "kernels",
)  # fmt: skip
HEIGHT = {room: -number for number, room in enumerate(FLOORS)}
ROOMS = sorted(path.name for path in (ROOT / "tricnn").iterdir() if path.is_dir() and path.name != "__pycache__")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it; imports for type checkers only are not counted."""
    package = ("tricnn", *path.relative_to(ROOT / "tricnn").parts[:-1])
    found = set()
    tree = ast.parse(path.read_text())
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "tricnn" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("tricnn.")}
    return found & set(ROOMS)


def upward(path: Path, room: str) -> set[str]:
    """Rooms above its own that a file imports from."""
    return {other for other in imported(path) if other != room and HEIGHT[other] >= HEIGHT[room]}


def test_every_room_has_a_floor() -> None:
    assert set(ROOMS) <= set(HEIGHT)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downward(room: str) -> None:
    found = {str(path.relative_to(ROOT)): upward(path, room) for path in (ROOT / "tricnn" / room).rglob("*.py")}
    assert {path: rooms for path, rooms in found.items() if rooms} == {}


def test_an_import_that_runs_upward_is_found(tmp_path: Path) -> None:
    written = ROOT / "tricnn" / "ir" / "graph.py"
    assert upward(written, "ir") == set()
    assert upward(written, "kernels") != set()  # the same imports would be wrong one floor below
