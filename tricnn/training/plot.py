"""The training curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..system.errors import DataError

TRAIN, TEST, INK, FAINT = "#4c78a8", "#e45756", "#333333", "#dddddd"


def save_curve(history: Mapping[str, Any], path: str | Path, title: str) -> Path:
    """Draw ``TrainResult.history`` as a PNG: loss on the left, test accuracy on the right, both over epochs.

    Raises DataError if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError:
        raise DataError("the training curve needs matplotlib; pip install 'tricnn[plot]'") from None

    per_epoch = history["steps_per_epoch"]
    steps, losses = zip(*history["curve"], strict=True) if history["curve"] else ((), ())
    records = history["epochs"]
    epochs = [r["epoch"] for r in records]

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=13)
    left, right = figure.subplots(1, 2)

    left.plot([s / per_epoch for s in steps], losses, color=TRAIN, linewidth=0.8, alpha=0.35)
    left.plot(
        epochs, [r["train_loss"] for r in records], "o-", color=TRAIN, markersize=4, label="training, mean of the epoch"
    )
    left.plot(epochs, [r["test_loss"] for r in records], "o-", color=TEST, markersize=4, label="test, after the epoch")
    left.set(xlabel="epoch", ylabel="cross-entropy loss (log scale)", yscale="log")
    left.legend(frameon=False, labelcolor=INK)

    accuracies = [r["test_accuracy"] for r in records]
    right.plot(epochs, accuracies, "o-", color=TEST, markersize=4)
    right.set(xlabel="epoch", ylabel="test accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    right.annotate(
        f"{100 * accuracies[-1]:.2f} %",
        (epochs[-1], accuracies[-1]),
        textcoords="offset points",
        xytext=(0, -16),
        ha="right",
        color=TEST,
        fontweight="bold",
    )

    for axes in (left, right):
        axes.set_xlim(0, max(epochs) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    path = Path(path)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
