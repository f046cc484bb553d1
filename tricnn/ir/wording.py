"""Counted nouns and sizes, as every message writes them, and where a line of text is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

HARD = ("epoch",)  # a ch that sounds like k


def plural(count: int, noun: str) -> str:
    """``1 kernel``, ``3 kernels``, ``2 launches``, ``2 epochs``, ``2 entries``."""
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith(("s", "x", "z", "sh", "ch")) and noun not in HARD:
        return f"{count:,} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str = "") -> str:
    """Three significant digits or more and a decimal prefix: ``416 k``, ``15.5 G``, ``1.31 MB``."""
    for size, prefix in _STEPS:
        if value >= size * 0.9995:
            number = value / size
            digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number:,.{digits}f} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes: ``982 B``, ``1.31 MB`` (a megabyte is a million)."""
    return scaled(count, "B")


#: what is not broken, each where the one before is longer than a line: an edge ``a -> b``, a word up to a blank, a run
#: up to its separators, what lies between underscores
_SEPARATORS = r"./,:=>()\[\]-"
UNBROKEN = (
    re.compile(r"\S+(?: -> \S+)?\s*"),
    re.compile(r"\S+\s*"),
    re.compile(rf"[^\s{_SEPARATORS}]*[{_SEPARATORS}]*\s*"),
    re.compile(r"[^_]*_*"),
)


def breaks(line: str, width: int) -> Iterator[int]:
    """Where a line of text is broken to fit into ``width`` columns."""
    start = 0  # of the line that is being filled
    for begin, end in _unbroken(line, width):
        if begin > start and len(line[start:end].rstrip()) > width:
            yield (start := begin)


def _unbroken(line: str, width: int, rule: int = 0) -> Iterator[tuple[int, int]]:
    """Where the pieces of a line begin and end that are not broken."""
    for found in UNBROKEN[rule].finditer(line):
        if rule + 1 < len(UNBROKEN) and len(found[0].rstrip()) > width:
            for begin, end in _unbroken(found[0], width, rule + 1):
                yield found.start() + begin, found.start() + end
        else:
            yield found.span()


def pieces(line: str, width: int) -> list[str]:
    """A line in as few pieces of up to ``width`` columns as it takes; together they are the line."""
    places = [0, *breaks(line, width), len(line)]
    return [line[begin:end] for begin, end in pairwise(places)]
