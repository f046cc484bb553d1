"""A line now and then while something takes long, so that no command is silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar

from rich.console import Console

SECONDS_BETWEEN_LINES = 3.0


class Waiting:
    """A context manager that says ``what`` is under way and for how long, every few seconds.

    It is silent for the first ones, and while another one inside it speaks.

    with Waiting(console, "fusing resnet152"):
        ...

    ``what`` may be a function, asked for its text each time.
    """

    #: those that are under way, of which the last one speaks
    speaking: ClassVar[list[Waiting]] = []

    def __init__(self, console: Console | None, what: str | Callable[[], str]):
        self.console = console if console is not None and not console.quiet else None
        self.what, self.ended = what, threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Waiting:
        self.began = time.monotonic()
        if self.console:
            self.speaking.append(self)
            self.thread = threading.Thread(target=self._lines, daemon=True)
            self.thread.start()
        return self

    def end(self) -> None:
        """There is nothing to wait for any more; may be called again."""
        self.ended.set()
        if self in self.speaking:
            self.speaking.remove(self)
        if self.thread:
            self.thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _lines(self) -> None:
        while not self.ended.wait(SECONDS_BETWEEN_LINES):
            assert self.console is not None
            if self.speaking[-1:] != [self]:
                continue
            what = self.what if isinstance(self.what, str) else self.what()
            text = f"{what}, {time.monotonic() - self.began:.0f} s"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
