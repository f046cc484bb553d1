"""Lines of the emitted file that fit a page, however long the names of a network are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from ..ir.wording import pieces
from ..lower.call import wrapped

#: columns that a line has at most, where it can be broken
WIDTH = 118

UNBROKEN = "\N{NO-BREAK SPACE}"

#: columns that no line has more of; the templates' own have so many
MOST = 120

#: a name of a tensor in the emitted file, which stands within brackets
LITERAL = re.compile(r""" "[^"\\]*" | '[^'\\]*' """, re.VERBOSE)


def fitting(text: str) -> str:
    """The text of a file whose lines fit: of a longer one each literal goes on below, where Python joins the two."""
    return "\n".join(line if len(line) <= MOST else _broken(line) for line in text.split("\n"))


def _broken(line: str) -> str:
    """A line whose literals are in pieces, the second and further ones below the first."""
    made, rest = "", line
    while found := LITERAL.search(rest):
        made, rest = made + rest[: found.start()], rest[found.end() :]
        quote, content, column = found[0][0], found[0][1:-1], len(made) - made.rfind("\n") - 1
        behind = len(rest.partition('"')[0])  # what stands on the last one's line
        below = "\n" + " " * column
        made += below.join(f"{quote}{piece}{quote}" for piece in pieces(content, WIDTH - column - behind - 2))
    return made + rest


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
