"""How a table fits a terminal: figures are never cut, names are not broken.

Columns stand side by side where every word has room. Where one has not, or where that takes more lines, a row's texts
stand one below the other over the whole width (stacked.py), its figures beside them at the right."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from ..ir.wording import breaks
from .stacked import Stacked

GAP, EDGES = 3, 2  # blanks between two columns of a table; before the first and behind the last


class Words:
    """A cell of text, broken at blanks; a word that is longer than a line behind its separators."""

    def __init__(self, text: Text):
        self.text = text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.text.plain.split()), default=0), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width)

    def lines(self, width: int) -> list[Text]:
        """The text in lines of up to ``width`` columns."""
        parts = self.text.divide(list(breaks(self.text.plain, width)))
        for part in parts:
            part.rstrip()
        return list(parts)


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, each broken into lines of up to ``width`` columns as a cell is."""
    return [part.plain for line in text.split("\n") for part in Words(Text(line)).lines(width)]


def fitted(made: Table, console: Console) -> RenderableType:
    """A table as it is printed on a console.
    Of its two layouts that is one without a broken word, of two such the one with fewer lines, and of two as long the
    one without a broken text."""
    if made.title:
        made.title = Text("\n").join(Words(Text(str(made.title))).lines(console.width))
    stacked = Stacked(made, console.width)
    widths = _side_by_side(made, console)
    if widths is None:
        return stacked
    for column, width in zip(made.columns, widths, strict=True):
        column.width = width
    rows = [[_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
            for row in zip(*(column.cells for column in made.columns), strict=True)]  # fmt: skip
    broken = any(row[n] > 1 for row in rows for n, column in enumerate(made.columns) if not column.no_wrap)
    return made if sum(map(max, rows)) + broken <= stacked.height else stacked


def _side_by_side(made: Table, console: Console) -> list[int] | None:
    """The columns' widths; None where no word may be broken and there is not enough room.
    The widest column that can be narrower gives way first."""
    ranges = [_range(column, console) for column in made.columns]
    widths = [most for _, most in ranges]
    over = sum(widths) + GAP * (len(widths) - 1) + EDGES - console.width
    if over > sum(most - least for least, most in ranges):
        return None
    while over > 0:
        able = [i for i, (least, _) in enumerate(ranges) if widths[i] > least]
        widths[max(able, key=widths.__getitem__)] -= 1
        over -= 1
    return widths


def _range(column: Column, console: Console) -> tuple[int, int]:
    """The least and the most columns that a column's text takes."""
    options = console.options.update(width=1 << 16)
    found = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells, column.footer)]
    most = max((m.maximum for m in found), default=1)
    return (most if column.no_wrap else max((m.minimum for m in found), default=1)), most


def _lines(cell: RenderableType, width: int) -> int:
    """How many lines a cell takes."""
    return len(cell.lines(width)) if isinstance(cell, Words) else str(cell).count("\n") + 1
