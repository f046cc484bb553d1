"""Errors a user can cause.

Every one of them is a :class:`TricnnError` whose text is a single line that names the layer (or file, or option)
and says what would have been accepted. The command line prints that line and exits with status 2.
"""

from typing import Any


def shown(value: Any, limit: int = 80) -> str:
    """``repr(value)`` for a message: one line, and short whatever came in."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of so many digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class TricnnError(ValueError):
    """Bad input: the base of every error tricnn raises on purpose."""

    said = False  # by another process of the run, which met it first


class GraphError(TricnnError):
    """A graph that is not well formed: unknown or duplicate names, cycles, impossible attributes."""


class ShapeError(GraphError):
    """A layer whose input shapes do not fit it."""


class TextError(GraphError):
    """A text graph that does not parse; carries the line and the column (both from 1)."""

    def __init__(self, message: str, line: int, column: int):
        super().__init__(f"line {line}, column {column}: {message}")
        self.line, self.column = line, column


class TargetError(TricnnError):
    """A target, dtype or executor that does not exist or does not fit the machine."""


class DataError(TricnnError):
    """A data set that is missing, damaged or does not fit the network."""


class CheckpointError(TricnnError):
    """A checkpoint or weights file that is missing, damaged or of another network."""
