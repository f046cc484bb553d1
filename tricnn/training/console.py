"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ..system.waiting import Waiting

SECONDS_BETWEEN_LINES = 5.0


def duration(seconds: float) -> str:
    """A time as text: ``1:05`` or ``2:03:04``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Reporter:
    """Shows loss, accuracy, images per second and the time left; a context manager around the loop."""

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int, step: int):
        self.console, self.epochs, self.steps_per_epoch = console, epochs, steps_per_epoch
        self.total, self.first = epochs * steps_per_epoch, step
        self.loss: float | None = None
        self.accuracy: float | None = None
        self.training_seconds = self.waited_seconds = 0.0
        self.images = 0
        self.last_line = time.monotonic()
        self.bar: Progress | None = None
        self.waiting = Waiting(console, "first step")  # of a wide network it may take a minute
        if console.is_terminal and not console.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[figures]}"),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=self.total, completed=step, figures="")

    def __enter__(self) -> Reporter:
        if self.bar:
            self.bar.start()
        else:
            self.waiting.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        self.waiting.end()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stepped(self, step: int, loss: float, images: int, seconds: float, waited: float) -> None:
        """One update is done, in ``seconds``, ``waited`` of them until its batch was there."""
        self.waiting.end()
        self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        self.images += images
        self.training_seconds += seconds
        self.waited_seconds += waited
        epoch = min(self.epochs, (step - 1) // self.steps_per_epoch + 1)
        if self.bar:
            self.bar.update(
                self.task, completed=step, description=f"epoch {epoch}/{self.epochs}", figures=self.figures(step)
            )
        elif not self.console.quiet and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.say(f"epoch {epoch}/{self.epochs}  {100 * step // self.total:3d} %  {self.figures(step)}")

    def figures(self, step: int) -> str:
        speed = self.images / self.training_seconds if self.training_seconds else 0.0
        left = (self.total - step) * self.training_seconds / max(1, step - self.first)
        parts = [f"loss {self.loss:.4f}" if self.loss is not None else ""]
        parts.append(f"accuracy {self.accuracy:.2%}" if self.accuracy is not None else "")
        waiting = self.waited_seconds / self.training_seconds if self.training_seconds else 0.0
        parts += [f"{speed:,.0f} images/s", f"waiting for data {waiting:.0%}", f"{duration(left)} left"]
        return "  ".join(part for part in parts if part)

    def evaluated(self, record: dict[str, float]) -> None:
        """One epoch is done and its test set was run."""
        self.accuracy, self.last_line = record["test_accuracy"], time.monotonic()
        overlap = f"  mean IoU {record['test_mean_iou']:.2%}" if "test_mean_iou" in record else ""
        self.say(
            f"epoch {record['epoch']}/{self.epochs}  loss {record['train_loss']:.4f}"
            f"  test loss {record['test_loss']:.4f}  test accuracy {record['test_accuracy']:.2%}{overlap}"
            f"  {record['images_per_second']:,.0f} images/s  waiting for data {record['waiting_for_data']:.0%}"
        )
