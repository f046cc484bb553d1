"""Where a command's words go: the table or the JSON object to standard output, progress to standard error."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from ..report.fit import fitted, wrapped
from ..system.waiting import Waiting

WIDTH_OF_PIPES = 140  # columns, where there is no terminal to ask (and COLUMNS is not set)


class _Console(Console):
    """Plain text in, plain text out; a reader that went away is the caller's business."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(*, to_stderr: bool = False, width: int | None = None) -> Console:
    stream = sys.stderr if to_stderr else sys.stdout
    wide = width or (None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_PIPES)
    return _Console(file=stream, width=wide, markup=False, highlight=False, emoji=False)


class Screen:
    """Where a command shows its result: tables for people, or with ``--json`` one object, on standard output.
    ``progress`` is standard error, where it is said what is under way; with ``--json``, None unless somebody watches
    there. One that does not ``speak`` (of several processes, all but the first) prints nothing."""

    def __init__(self, as_json: bool, speaks: bool = True):
        self.as_json, self.speaks = as_json, speaks
        self.out = console()
        watched = speaks and (not as_json or sys.stderr.isatty())
        self.progress: Console | None = console(to_stderr=True) if watched else None

    def waiting(self, what: str) -> Waiting:
        """A context for something that may take long."""
        return Waiting(self.progress, what)

    def show(self, *things: Table | str) -> None:
        """Print tables and lines, for people.
        Both fit where it is known how wide a line may be; in a pipe sentences stay whole, for what reads lines."""
        if self.speaks and not self.as_json:
            for thing in things:
                for line in self._lines(thing):
                    print(line.rstrip())  # tables fill their lines up with blanks
            sys.stdout.flush()

    def _lines(self, thing: Table | str) -> list[str]:
        if isinstance(thing, str):
            known = self.out.is_terminal or "COLUMNS" in os.environ
            return wrapped(thing, self.out.width) if known else thing.split("\n")
        with self.out.capture() as captured:
            self.out.print(fitted(thing, self.out))
        return captured.get().splitlines()

    def json(self, result: dict[str, Any]) -> None:
        """Print the object, for programs."""
        if self.speaks and self.as_json:
            print(json.dumps(result, allow_nan=False, indent=1))
