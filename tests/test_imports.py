"""The rooms of the house: a module imports from its own room or from those below it, never upwards; a newcomer finds
every file in docs/architecture.md, and no name in two rooms for two things."""

import ast
import re
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


def files() -> set[str]:
    """Every file of every room, by room and name; what packages and ``python -m`` need is no file to look for."""
    found = {path.relative_to(ROOT / "tricnn") for room in ROOMS for path in (ROOT / "tricnn" / room).rglob("*.py")}
    return {path.as_posix() for path in found if path.name not in ("__init__.py", "__main__.py")}


def test_every_file_is_described_once_in_the_architecture() -> None:
    """Who adds, moves or takes away a file says so in the list at the end of the page, in a line of words."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Every file, room by room")[1]
    listed = re.findall(r"^- `([\w/]+\.py)`: \w|^- `([\w/]+\.py)`: `", section, re.MULTILINE)
    assert sorted(one or other for one, other in listed) == sorted(files())


#: names that one subject has at several stages of a graph's journey: as a row, in NumPy, fused, lowered, as a kernel
SUBJECTS = """
    conv depthwise dropout epilogue filters fold loss lrn pointwise pool pooling resample sums views
"""


def test_a_name_means_one_thing() -> None:
    names = [Path(file).stem for file in files()]
    assert {name for name in names if names.count(name) > 1} <= set(SUBJECTS.split())
