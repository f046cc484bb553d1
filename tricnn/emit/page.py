"""Lines of the emitted file that fit a page, however long the names of a network are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..lower.call import wrapped

#: columns that a line has at most, where it can be broken
WIDTH = 118

UNBROKEN = "\N{NO-BREAK SPACE}"


def entry(indent: int, name: str, value: str) -> list[str]:
    """The lines of an item of a dictionary: both are Python; the value goes below where one line is too short."""
    margin = " " * indent
    line = f"{margin}{name}: {value},"
    return [line] if len(line) <= WIDTH else [f"{margin}{name}:", f"{margin}    {value},"]


def row(indent: int, items: Sequence[object]) -> list[str]:
    """The lines of a tuple as an item of a list: one, or, where that is too short, as few as hold its items."""
    margin = " " * indent
    line = f"{margin}{tuple(items)},"
    if len(line) <= WIDTH:
        return [line]
    return [f"{margin}(", *wrapped(map(repr, items), indent + 4, WIDTH), f"{margin}),"]


def total(indent: int, terms: str) -> list[str]:
    """The lines of a sum as an argument of a call: broken before a plus, where one line is too short."""
    margin = " " * indent
    kept = f"{terms},".replace(" ", UNBROKEN).replace(f"{UNBROKEN}+", " +")
    broken = textwrap.wrap(kept, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return [margin + line.replace(UNBROKEN, " ") for line in broken]
