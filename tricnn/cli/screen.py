"""Where a command's words go: the table or the JSON object to standard output, progress to standard error."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from ..report.fit import fitted
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
    """Where a command shows its result: tables for people, or with ``--json`` one object on standard output.
    With ``--json`` progress is shown only where somebody watches standard error. One that does not ``speak`` (of
    several processes, all but the first) prints nothing."""

    def __init__(self, as_json: bool, speaks: bool = True):
        self.as_json, self.speaks = as_json, speaks
        self.out = console()
        self.progress: Console | None = console(to_stderr=True) if as_json else self.out
        if not speaks or (as_json and not sys.stderr.isatty()):
            self.progress = None

    def waiting(self, what: str) -> Waiting:
        """A context for something that may take long.
        It is said on standard error, so that what is printed stays what was asked for."""
        watched = self.speaks and (not self.as_json or sys.stderr.isatty())
        return Waiting(console(to_stderr=True) if watched else None, what)

    def show(self, *things: Any) -> None:
        """Print tables and lines, for people."""
        if self.speaks and not self.as_json:
            for thing in things:
                shown = fitted(thing, self.out) if isinstance(thing, Table) else thing
                # a sentence is broken for a person at a terminal, not for what else reads lines
                broken = isinstance(shown, Table) or (isinstance(shown, str) and self.out.is_terminal)
                with self.out.capture() as captured:
                    self.out.print(shown, soft_wrap=not broken)
                for line in captured.get().splitlines():  # tables fill their lines up with blanks
                    print(line.rstrip())
            sys.stdout.flush()

    def json(self, result: dict[str, Any]) -> None:
        """Print the object, for programs."""
        if self.speaks and self.as_json:
            print(json.dumps(result, allow_nan=False, indent=1))
