"""The table of docs/lecture.md: the lecture's systems, each with a notebook, something to try, and a test."""

import inspect
import re
from pathlib import Path

import pytest

import tricnn

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "lecture.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")][1:]
CODE = re.compile(r"`([^`]+)`")


def lacks(row: list[str]) -> list[str]:
    """What a row of the table names and is not there."""
    _, notebooks, tries, tests = row
    found = [name for name in CODE.findall(notebooks) if not (ROOT / "notebooks" / f"{name}.ipynb").exists()]
    for name in CODE.findall(tests):
        path, _, function = name.partition("::")
        known = (ROOT / path).read_text() if (ROOT / path).exists() else ""
        if not known or (function and f"def {function}(" not in known):
            found.append(name)
    found += [name for name in CODE.findall(tries) if not _there(name)]
    return found + [part for cell, part in zip(row[1:], ("notebook", "to try", "test")) if not CODE.search(cell)]


def _there(name: str) -> bool:
    """A file, a command with a network of the zoo, or something of the public surface, with an argument of it."""
    if name.startswith("tricnn "):
        _, command, network, *_ = name.split()
        return (ROOT / "tricnn" / "cli" / f"{command}_command.py").exists() and hasattr(tricnn.graphs, network)
    if "/" in name:
        return (ROOT / name).exists()
    path, _, argument = name.removeprefix("tricnn.").rstrip("=)").partition("(")
    there = tricnn
    for part in path.split("."):
        there = getattr(there, part, None)
    return there is not None and (not argument or argument in inspect.signature(there).parameters)


def test_there_is_a_row_for_each_of_the_lectures_systems():
    assert len(ROWS) == len({row[0] for row in ROWS}) == 23
    numbers = {name[:2] for row in ROWS for name in CODE.findall(row[1])}
    assert numbers == {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]-*.py")}


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:30] for row in ROWS])
def test_what_a_row_names_is_there(row):
    assert lacks(row) == []


@pytest.mark.parametrize(
    "row, what",
    [(["x", "`13-none`", "`GraphBuilder.conv2d`", "`tests/test_lecture.py`"], ["13-none"]),
     (["x", "`01-gpus`", "`tricnn.compile(pad=)`", "`tests/no.py`"], ["tests/no.py", "tricnn.compile(pad=)"]),
     (["x", "`01-gpus`", "`tricnn show lenet9`", "`tests/test_lecture.py::test_no`"],
      ["tests/test_lecture.py::test_no", "tricnn show lenet9"]),
     (["x", "`01-gpus`", "", "`tests/test_lecture.py`"], ["to try"])],
)  # fmt: skip
def test_what_is_not_there_is_seen(row, what):
    assert lacks(row) == what
