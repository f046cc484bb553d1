"""What a run leaves for other programs: its epochs as CSV and JSON lines, for TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..system.errors import CheckpointError
from ..system.files import write_atomically
from .checkpoint import Progress

CSV, JSONL, TENSORBOARD = "epochs.csv", "log.jsonl", "tensorboard"


class Callback(Protocol):
    """What a user's object may have, any of it: each is called after what it is named for."""

    def on_step(self, step: int, loss: float) -> None: ...
    def on_epoch(self, record: Mapping[str, float]) -> None: ...
    def on_checkpoint(self, path: Path) -> None: ...


def tell(callbacks: tuple[Any, ...], what: str, *about: Any) -> None:
    """Call ``on_<what>`` of each callback that has it."""
    for callback in callbacks:
        if (method := getattr(callback, f"on_{what}", None)) is not None:
            method(*about)


def write_logs(folder: Path, progress: Progress) -> None:
    """Write ``epochs.csv`` and ``log.jsonl``, the logs of a run.
    The first has a row for each epoch, the second a line for each point of the curve, each picture that was skipped and
    each epoch. Both are written whole: of a run that was taken up again each epoch is there once.
    Raises CheckpointError."""
    table = io.StringIO()
    if progress.epochs:
        writer = csv.DictWriter(table, list(progress.epochs[-1]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(progress.epochs)
    points = [{"step": int(step), "loss": loss} for step, loss in progress.curve]
    lines = [*points, *progress.skipped_pictures, *progress.epochs]
    lines.sort(key=lambda line: line["step"])  # an epoch after the last of its steps: sorting is stable
    try:
        write_atomically(folder / CSV, table.getvalue().encode(), durable=False)
        write_atomically(folder / JSONL, "".join(json.dumps(line) + "\n" for line in lines).encode(), durable=False)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error.strerror or error})") from None


class TensorBoard:
    """A callback that writes the loss of each step and the figures of each epoch for TensorBoard.
    What an earlier run in the folder wrote of the same steps, or later ones, is no longer shown."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None

    @staticmethod
    def installed() -> bool:
        """Is TensorBoard there?"""
        return find_spec("tensorboard") is not None

    def on_step(self, step: int, loss: float) -> None:
        self._from(step).add_scalar("loss", loss, step)

    def on_epoch(self, record: Mapping[str, float]) -> None:
        step = int(record["step"])
        writer = self._from(step)
        for name, value in record.items():
            if name not in ("epoch", "step"):
                writer.add_scalar(name, value, step)
        writer.flush()

    def on_checkpoint(self, path: Path) -> None:
        if self.writer is not None:
            self.writer.flush()  # a run that goes on from there does not write it again

    def _from(self, step: int) -> Any:
        """What writes, opened at the first step that there is to write of."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        return self.writer
