"""The text of the templates in ``kernels/``, and which of them a piece of code needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

IMPORTS = "import triton\nimport triton.language as tl"


@dataclass(frozen=True)
class Template:
    """A function or constant of ``kernels/``: its name, its file, its text, and the names that it uses."""

    name: str
    module: str
    text: str
    uses: frozenset[str]


@cache
def library() -> dict[str, Template]:
    """The top-level functions and constants of ``kernels/``, by name, in the order of the files."""
    found: dict[str, Template] = {}
    folder = files("tricnn.kernels")
    for path in sorted((p for p in folder.iterdir() if p.name.endswith(".py")), key=lambda p: p.name):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                names, first = [node.name], node.decorator_list[0].lineno if node.decorator_list else node.lineno
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names, first = [t.id for t in targets if isinstance(t, ast.Name)], node.lineno
            else:
                continue
            while first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            text = "\n".join(lines[first - 1 : node.end_lineno])
            uses = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name)) - set(names)
            for name in names:
                if name in found and name != "__all__":
                    raise AssertionError(f"two templates are named {name}")
                found[name] = Template(name, path.name, text, uses)
    return found


def closure(code: str) -> list[Template]:
    """The templates that ``code`` uses, directly or not, each after what it uses itself."""
    templates = library()
    ordered: dict[str, Template] = {}

    def visit(name: str) -> None:
        if name in templates and name not in ordered:
            for other in sorted(templates[name].uses):
                if other != name:
                    visit(other)
            ordered[name] = templates[name]

    for name in _names(code):
        visit(name)
    return list(ordered.values())


def _names(code: str) -> Iterable[str]:
    """The identifiers in generated code (no comments, no text) that stand by themselves."""
    return sorted(set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code)))


def module_text(code: str) -> str:
    """The text of a module of ``code`` and the templates it needs, which imports only triton."""
    return "\n\n\n".join([IMPORTS, *(t.text for t in closure(code)), code.strip()]) + "\n"


def module_sources(code: str) -> list[tuple[str, int]]:
    """Where each line of :func:`module_text` comes from.
    It is the name of a template and which of its lines, from 0; "" and which line of ``code``; or "" and -1."""
    parts = [("", IMPORTS), *((t.name, t.text) for t in closure(code)), ("", code.strip())]
    found: list[tuple[str, int]] = []
    for number, (name, text) in enumerate(parts):
        found += [("", -1)] * (2 if number else 0)
        found += [(name, line if number else -1) for line in range(len(text.splitlines()))]
    return found
