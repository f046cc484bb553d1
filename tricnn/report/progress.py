"""Progress of something that takes a while: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..system.waiting import Waiting


class Steps:
    """Counts ``total`` steps of ``what``. Never silent for long, even while one step takes many seconds.

    with Steps(console, "compiling", 18, "kernels") as steps:
        steps.done("k00_conv1")
    """

    def __init__(self, console: Console | None, what: str, total: int, noun: str):
        self.console = console if console is not None and not console.quiet else None
        self.what, self.total, self.noun, self.count, self.last = what, total, noun, 0, ""
        self.bar: Progress | None = None
        self.waiting = Waiting(console, self._said)

    def __enter__(self) -> Steps:
        if self.console and self.console.is_terminal:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.noun),
                TimeElapsedColumn(),
                TextColumn("{task.fields[last]}", style="dim", markup=False),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task(self.what, total=self.total, last="")
            self.bar.start()
        else:
            self.waiting.__enter__()
        return self

    def done(self, name: str = "") -> None:
        """One more step is done."""
        self.count, self.last = self.count + 1, name
        self.total = max(self.total, self.count)
        if self.bar:
            self.bar.update(self.task, completed=self.count, total=self.total, last=name)

    def _said(self) -> str:
        last = f", last {self.last}" if self.last else ""
        return f"{self.what}: {self.count} of {self.total} {self.noun}{last}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        self.waiting.end()
