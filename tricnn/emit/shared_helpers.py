"""Small functions that several kernels of a file have in common, written once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from ..lower.call import Line
from ..lower.program import Function

DEFINED = re.compile(r"def (\w+)\(")
WORD = re.compile(r"\b[A-Za-z_]\w*\b")


def shared(functions: Iterable[Function]) -> tuple[Function, ...]:
    """The functions of a file without the helpers that an earlier one has, whatever their names.
    What called such a helper calls the earlier one. The convolution of a layer and its weight's gradient load the same
    image in the same way."""
    known: dict[str, str] = {}  # text without its own name -> the name under which it stands in the file
    found = []
    for function in functions:
        names: dict[str, str] = {}
        kept = []
        for helper in function.helpers:
            lines = tuple(Line(_renamed(line, names), line.layer) for line in helper)
            own = next(match for line in lines if (match := DEFINED.match(line)))
            first = known.setdefault(_renamed("\n".join(lines), {own[1]: "_"}), own[1])
            if first == own[1]:
                kept.append(lines)
            else:
                names[own[1]] = first
        found.append(replace(function, helpers=tuple(kept), call=_renamed(function.call, names)))
    return tuple(found)


def _renamed(text: str, names: dict[str, str]) -> str:
    """The text with other names in place of some."""
    return WORD.sub(lambda word: names.get(word[0], word[0]), text) if names else text
