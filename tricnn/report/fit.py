"""How a table fits a terminal: figures are never cut, names break behind a separator only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

#: what is not broken: a word up to a blank, and within it a run up to its separators
WORD, PIECE = re.compile(r"\S+\s*"), re.compile(r"[^\s./,:=>()\[\]-]*[./,:=>()\[\]-]*\s*")
#: a run with more letters than LONG is broken behind its underscores, too; where a table does not fit else, than SHORT
PART, LONG, SHORT = re.compile(r"[^_]*_*"), 26, 13
ANY = 1 << 16  # columns: more than any table has


class Words:
    """A cell of text, broken at blanks, and in a word that is too long for its column behind a separator."""

    def __init__(self, text: Text):
        self.text, self.longest = text, LONG

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        lines = self.text.plain.splitlines()
        widths = (_indent(line) + end - start for line in lines for start, end in pieces(line.strip(), self.longest))
        return Measurement(max(widths, default=0), max(map(len, lines), default=0))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.split("\n", allow_blank=True):
            indent = _indent(line.plain)
            rest = line[indent:]
            for part in rest.divide(list(breaks(rest.plain, options.max_width - indent, self.longest))):
                part.rstrip()
                yield Text(" " * indent) + part


def _indent(line: str) -> int:
    """How far a line is indented; what is broken off it is, too."""
    return len(line) - len(line.lstrip())


def pieces(line: str, longest: int = LONG) -> Iterator[tuple[int, int]]:
    """Where the runs of a line begin and end that are not broken, without the blanks behind them: those with up to
    ``longest`` letters, of longer ones what lies between underscores."""
    for found in PIECE.finditer(line):
        start, text = found.start(), found[0].rstrip()
        if len(text) <= longest:
            yield start, start + len(text)
        else:
            yield from ((start + part.start(), start + part.end()) for part in PART.finditer(text))


def breaks(line: str, width: int, longest: int = LONG) -> Iterator[int]:
    """Where a line of text is broken to fit into ``width`` columns."""
    start = 0  # of the line that is being filled
    for word in WORD.finditer(line):
        if len(word[0].rstrip()) <= width:
            if word.start() > start and word.end() - len(word[0]) + len(word[0].rstrip()) - start > width:
                yield (start := word.start())
            continue
        for begin, end in pieces(word[0], longest):
            begin, end = word.start() + begin, word.start() + end
            if begin > start and end - start > width:
                yield (start := begin)


def fit(made: Table, console: Console) -> int:
    """Choose the widths of a table's columns, and return the table's: that of the console or less, unless figures and
    words that do not break need more. The widest column that can be narrower gives way first; names are broken behind
    underscores where the table does not fit with whole ones."""
    width = _fit(made, console)
    if width > console.width:
        for cell in (cell for column in made.columns for cell in column.cells):
            if isinstance(cell, Words):
                cell.longest = SHORT
        width = _fit(made, console)
    return width


def _fit(made: Table, console: Console) -> int:
    """Choose the widths of a table's columns by how its cells may be broken now, and return the table's."""
    roomy = console.options.update(width=ANY)
    for column in made.columns:
        column.width = None
    ranges = [_range(column, console, roomy) for column in made.columns]
    widths = [most for _, most in ranges]

    def total() -> int:
        for column, width in zip(made.columns, widths, strict=True):
            column.width = width
        return Measurement.get(console, roomy, made).maximum

    over = total() - console.width
    while over > 0 and (able := [i for i, (least, _) in enumerate(ranges) if widths[i] > least]):
        widths[max(able, key=widths.__getitem__)] -= 1
        over -= 1
    return total()


def _range(column: Column, console: Console, options: ConsoleOptions) -> tuple[int, int]:
    """The least and the most columns that a column's text takes."""
    found = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells, column.footer)]
    most = max((m.maximum for m in found), default=1)
    return (most if column.no_wrap else max((m.minimum for m in found), default=1)), most
