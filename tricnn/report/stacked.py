"""A table whose texts stand one below the other, for names that are longer than a column of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

INDENT, FURTHER, GAP = 2, 4, 3  # blanks: before texts below the first one; before what does not fit their first line;
#                                 between figures
EDGES = 2  # before and behind a line

Lines = list[Text]


class Stacked:
    """A table in which a row's texts have the whole width, the second and further ones indented.
    Its figures stand at the right, beside the first lines that leave them room, or below."""

    def __init__(self, made: Table, width: int):
        self.made, self.width = made, width
        self.figures = [n for n, column in enumerate(made.columns) if column.no_wrap]
        self.texts = [n for n, column in enumerate(made.columns) if not column.no_wrap]

    @cached_property
    def rows(self) -> list[tuple[Lines, list[Lines]]]:
        """Of each row the lines of its texts, and those of each of its figures."""
        return [self._cells(cells) for cells in zip(*(column.cells for column in self.made.columns), strict=True)]

    @cached_property
    def head(self) -> tuple[Lines, list[Lines]]:
        return self._cells([column.header for column in self.made.columns])

    @cached_property
    def foot(self) -> tuple[Lines, list[Lines]] | None:
        return self._cells([column.footer for column in self.made.columns]) if self.made.show_footer else None

    @cached_property
    def widths(self) -> list[int]:
        """The width of each column of figures."""
        every = [figures for _, figures in (self.head, *self.rows, *([self.foot] if self.foot else []))]
        return [max((len(line) for row in every for line in row[n]), default=0) for n in range(len(self.figures))]

    @cached_property
    def room(self) -> int:
        """Columns before the figures."""
        longest = max((len(line) for texts, _ in (self.head, *self.rows) for line in texts), default=0)
        return max(0, min(longest, self.width - EDGES - sum(w + GAP for w in self.widths)))

    @property
    def height(self) -> int:
        """How many lines the rows take."""
        return sum(len(self._joined(*row)) for row in self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.made.title:
            yield Text(str(self.made.title), style="bold")
        yield Text()
        head, body = self._joined(*self.head), [self._joined(*row) for row in self.rows]
        foot = self._joined(*self.foot) if self.foot else []
        rule = Text("─" * max(len(line) for lines in (head, foot, *body) for line in lines))
        for line in head:
            line.stylize("bold")
        yield from map(_printed, (*head, rule))
        for row, lines in zip(self.made.rows, body, strict=True):
            for line in lines:
                line.stylize(row.style or "")
                yield _printed(line)
        if foot:
            yield from map(_printed, (rule, *foot))
        yield Text()

    def _cells(self, cells: Sequence[Any]) -> tuple[Lines, list[Lines]]:
        texts: Lines = []
        for position, number in enumerate(self.texts):
            lines = _broken(cells[number], self.width - EDGES - FURTHER)
            indents = [INDENT * (position > 0), *[FURTHER] * (len(lines) - 1)]
            texts += [Text(" " * indent) + line for indent, line in zip(indents, lines, strict=True) if line]
        return texts, [_broken(cells[number], 1 << 16) for number in self.figures]

    def _joined(self, texts: Lines, figures: list[Lines]) -> Lines:
        """A row's lines: the figures begin beside the first line from which on all texts leave them room."""
        block = [self._figures(line) for line in zip_longest(*figures, fillvalue=Text())]
        lengths = [len(line) for line in texts]
        start = next(s for s in range(len(texts) + 1) if all(n <= self.room for n in lengths[s : s + len(block)]))
        together = []
        for number, line in enumerate(block, start):
            text = texts[number] if number < len(texts) else Text()
            together.append(text + Text(" " * (self.room - len(text))) + line)
        return [*texts[:start], *together, *texts[start + len(block) :]]

    def _figures(self, cells: Sequence[Text]) -> Text:
        line = Text()
        for number, cell, width in zip(self.figures, cells, self.widths, strict=True):
            blank = Text(" " * (width - len(cell)))
            left = self.made.columns[number].justify == "left"
            line += Text(" " * GAP) + (cell + blank if left else blank + cell)
        return line


def _broken(cell: Any, width: int) -> Lines:
    """A cell's text in lines."""
    if hasattr(cell, "lines"):
        return list(cell.lines(width))
    text = cell if isinstance(cell, Text) else Text(str(cell))
    return list(text.split("\n", allow_blank=True))


def _printed(line: Text) -> Text:
    """A line behind one blank, without those at its end, whatever the console's width."""
    shown = Text(" ") + line
    shown.rstrip()
    shown.no_wrap, shown.overflow = True, "ignore"
    return shown
