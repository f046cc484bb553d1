"""The options of ``tricnn train`` that say what it minimises, and the loss that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import UsageError, real

if TYPE_CHECKING:
    from tricnn.ir import Graph
    from tricnn.ir.objective import Loss
    from tricnn.training.batch_sources import Source

#: of the options here, where none is given
LOSS: dict[str, Any] = {"loss": "cross_entropy", "label_smoothing": 0.0, "class_weights": None, "ignore_index": None}


def add_loss_arguments(group: argparse._ActionsContainer) -> None:
    from tricnn.ir.objective import ROWS

    group.add_argument("--loss", default=LOSS["loss"], choices=tuple(ROWS), help="what is minimised (cross_entropy)")
    group.add_argument(
        "--label-smoothing", type=real(0, 0.999), default=LOSS["label_smoothing"], metavar="L",
        help="share of the target spread over all classes (0.0)",
    )  # fmt: skip
    group.add_argument(
        "--class-weights", type=_weights, metavar="W,W",
        help="of cross entropy: how much each class counts, a number for each, in the order of their names",
    )  # fmt: skip
    group.add_argument(
        "--ignore-index", type=int, metavar="K", help="of cross entropy: images of class K, from 0, count nothing"
    )


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(real()(part.strip()) for part in text.split(","))
    except argparse.ArgumentTypeError:
        weights = ()
    if not any(weights):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a number of at least 0 for each class, not all 0, such as 1,2.5,1"
        )
    return weights


def loss_of(options: argparse.Namespace) -> Loss:
    """The loss that the options name; with mixup or CutMix cross entropy takes two labels.
    Raises TricnnError for options that do not go together."""
    from tricnn.ir.objective import Loss

    mixed = options.loss == "cross_entropy" and bool(options.mixup or options.cutmix)
    return Loss(options.loss, options.label_smoothing, options.class_weights, options.ignore_index, mixed)


def check_loss(loss: Loss, graph: Graph, source: Source) -> None:
    """Raise UsageError for weights that are not one for each class, or a class to ignore that there is not."""
    from ..report.figures import plural

    weights, classes = loss.class_weights, graph.classes
    if weights is not None and len(weights) != classes:
        raise UsageError(
            f"--class-weights: {plural(len(weights), 'number')}, where {graph.name} has {plural(classes or 0, 'class')}"
            "; accepted is one for each"
        )
    if loss.ignore_index is not None and not 0 <= loss.ignore_index < source.num_classes:
        raise UsageError(
            f"--ignore-index {loss.ignore_index}: accepted is a class of {source.name}, 0 to {source.num_classes - 1}"
        )
