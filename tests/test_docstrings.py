"""Every docstring begins with a line that is a whole sentence: who reads no further knows what is returned, or done."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted({path.resolve() for room in ("tricnn", "kernels", "graphs") for path in (ROOT / room).rglob("*.py")})


def unfinished(source: str) -> Iterator[str]:
    """The first lines of a file's docstrings that are no whole sentence.
    An equation, or what introduces one, may stand by itself: then the next line is empty."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        waiting += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first, _, rest = (ast.get_docstring(node) or ".").partition("\n")
        alone = rest.startswith("\n") and (" = " in first or first.endswith(":"))
        if not first.endswith((".", "?")) and not alone:
            yield f"{getattr(node, 'name', 'module')}: {first}"


def test_every_docstring_begins_with_a_whole_sentence():
    assert len(FILES) > 200
    found = {str(path.relative_to(ROOT)): [*unfinished(path.read_text(encoding="utf-8"))] for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text, caught",
    [
        ("The size of an image.", False),
        ("The size of an image.\n    It is in pixels.", False),
        ("Does it fit?", False),
        ("The size of an image, in\n    pixels.", True),
        ("The size of an image:\n    pixels.", True),
        ("The size of an image", True),
        ("y = x + 1\n\n    for x: [N, C].", False),
        ("y = x + 1\n    for x: [N, C].", True),
        ("The sum of all:\n\n        y = x + 1\n", False),
    ],
)
@pytest.mark.parametrize("of", ["def f():", "async def f():", "class F:", ""])
def test_a_first_line_that_runs_on_is_caught(text, caught, of):
    source = f'{of}\n    """{text}"""\n' if of else f'"""{text}"""\n'
    assert bool([*unfinished(source)]) == caught
