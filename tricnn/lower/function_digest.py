"""A digest of all that decides how long a function takes, by which a tuned tile knows those that it was found for.
That is its code, the templates that it calls, how it is compiled and how it is launched."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from functools import cache

from .program import Function
from .size import Size
from .templates import closure


def function_digest(function: Function, grid: Iterable[Size], batch: int) -> str:
    """A digest of a function that is launched with so many programs: 12 hexadecimal digits.
    Layers' names, comments and line breaks are no part of it; every other change of the code, or of a template, is."""
    programs = [extent.at(batch) for extent in grid]
    facts = [function.parameters, function.num_warps, function.num_stages, programs]
    parts = [_nameless(function.text), *(_template(t.text) for t in closure(function.text)), repr(facts)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _nameless(text: str) -> str:
    """Code whose functions are called by their place in it, not after layers, without line breaks."""
    names = {name: f"f{place}" for place, name in enumerate(re.findall(r"^def (\w+)\(", text, re.MULTILINE))}
    renamed = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)
    return re.sub(r"(?<=[([{]) | (?=[)\]}])|,(?= ?[)\]}])", "", " ".join(renamed.split()))


@cache
def _template(text: str) -> str:
    """A template's code without comments, its docstring and line breaks."""
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)
