"""Training at several image sizes with one set of weights.

Touvron et al., "Fixing the train-test resolution discrepancy", 2019; progressive resizing.

A network without dense layers of a fixed image has the same parameters at every size. So there is a step for each size,
compiled when its first epoch begins, and parameters, running statistics and what the optimiser remembers go from one
to the next. Test images keep the size that the network was declared for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..system.errors import DataError, TricnnError
from .batch_sources import Batch, How, Skipped, Source, Synthetic
from .processes import ALONE, Processes
from .trainable import Trainable

#: pairs of an epoch, from 1, and the side in pixels that training images have from it on
Sizes = Sequence[tuple[int, int]]


def check_sizes(sizes: Sizes) -> None:
    """Raise TricnnError unless epochs begin at 1 and increase, and sides are at least 1."""
    epochs = [epoch for epoch, _ in sizes]
    if sizes and (epochs[0] != 1 or epochs != sorted(set(epochs)) or min(side for _, side in sizes) < 1):
        raise TricnnError(f"sizes {list(sizes)} are not accepted; they are pairs (epoch, side), from epoch 1 on")


def side_at(sizes: Sizes, epoch: int) -> int:
    """The side of training images in an epoch, counted from 0."""
    return next(side for first, side in reversed(sizes) if first <= epoch + 1)


class SizedImages:
    """A data set whose training images have the side that ``sizes`` gives each epoch; test images are as they were."""

    def __init__(self, source: Source, sizes: Sizes):
        check_sizes(sizes)
        self.source, self.sizes = source, tuple(sizes)
        self._by_side = {side: at_side(source, side) for _, side in self.sizes}
        self.name, self.num_classes, self.image_shape = source.name, source.num_classes, source.image_shape

    def __len__(self) -> int:
        return len(self.source)

    def settings(self) -> dict[str, Any]:
        return self.source.settings()

    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self._by_side[side_at(self.sizes, epoch)].training(how, epoch, start)

    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
        return self.source.evaluation(batch, processes)

    def notes(self) -> list[str | Skipped]:
        return [note for source in (self.source, *self._by_side.values()) for note in source.notes()]


def at_side(source: Any, side: int) -> Source:
    """The data set with images of this side. Raises DataError for one that cannot resize its images."""
    resized: Source
    if isinstance(source, Synthetic):
        resized = replace(source, image_shape=(source.image_shape[0], side, side))
    elif hasattr(source, "image_size"):
        resized = replace(source, image_size=(side, side))
    else:
        raise DataError(f"{source.name}: its images come as they are; several sizes need a Dataset or a PictureFolder")
    return resized


class SizedSteps:
    """The step of each epoch of a network whose images change their size: call it with an epoch, counted from 0.

    ``model`` is that of the size that the network was declared for. One step at a time is kept beside it.
    """

    def __init__(self, model: Any, sizes: Sizes):
        check_sizes(sizes)
        self.model, self.sizes = model, tuple(sizes)
        self._side, self._step = 0, model

    def __call__(self, epoch: int) -> Trainable:
        side = side_at(self.sizes, epoch)
        if side != self._side:
            own = self.model.graph.types[self.model.graph.inputs[0].name].per_image
            self._side, self._step = side, self.model if own[1:] == (side, side) else self.model.resized(side, side)
        step: Trainable = self._step
        return step


#: the step for the images of an epoch, counted from 0
Steps = Callable[[int], Trainable]
