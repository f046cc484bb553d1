"""Where batches come from: what the loop asks of a data set, and the sources that hold no pictures of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..system.errors import DataError
from .chance import generator
from .processes import ALONE, Processes
from .workers import read

#: images [B, C, H, W] as the network takes them, and what they are: class numbers [B], or targets
Batch = tuple[Any, Any]


class How(Protocol):
    """What decides an epoch's batches (:class:`tricnn.training.loop.TrainOptions` has it)."""

    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def shift(self) -> int: ...
    @property
    def processes(self) -> Processes: ...


class Source(Protocol):
    """A data set as the training loop sees it.

    ``training(how, epoch, start)`` gives the epoch's batches from number ``start`` on, each a function of the data set,
    ``how`` and its number, or this process's share of each (``how.processes.shared``); ``evaluation(batch, processes)``
    the test images in their own order, or this process's part of them; ``settings()`` what of the data set decides the
    bits of a run, as JSON has it. ``notes()`` gives what there is to say since it was last asked.
    """

    @property
    def name(self) -> str: ...
    @property
    def num_classes(self) -> int: ...
    def __len__(self) -> int: ...  # training images
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    def settings(self) -> dict[str, Any]: ...
    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]: ...
    def notes(self) -> list[str]: ...


def batches_per_epoch(source: Source, batch: int, processes: int = 1) -> int:
    """How many batches an epoch has.
    The last one may be smaller, but not smaller than the number of processes, each of which needs an image; a source
    that comes in batches has ``batches`` of them."""
    given = getattr(source, "batches", None)
    if given is not None:
        return int(given)
    whole, rest = divmod(len(source), batch)
    return whole + (rest >= processes)


@dataclass(frozen=True)
class Synthetic:
    """One batch of noise, again and again, as a data set: what a step costs where data cost nothing.
    An epoch has ``count`` images."""

    image_shape: tuple[int, int, int]
    num_classes: int = 1000
    count: int = 1600
    name: str = "synthetic"

    def __len__(self) -> int:
        return self.count

    def settings(self) -> dict[str, Any]:
        return {"data": self.name, "images": self.count, "image shape": list(self.image_shape)}

    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]:
        x, labels = self._noise(min(how.batch, self.count))
        for first in range(start * how.batch, self.count, how.batch):
            shared = how.processes.shared(min(how.batch, self.count - first))
            number = shared.stop - shared.start
            yield x[:number], labels[:number]

    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
        yield self._noise(min(batch, self.count))

    def notes(self) -> list[str]:
        return []

    def _noise(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rng, (channels, height, width) = generator("synthetic"), self.image_shape
        x = rng.standard_normal((count, height, width, channels), dtype=np.float32).transpose(0, 3, 1, 2)
        return x, rng.integers(0, self.num_classes, count)


class Batches:
    """Any iterables of (images [B, C, H, W], labels [B]) as a data set, such as two ``torch.utils.data.DataLoader``.

    Of several processes each has its own, with its own share (such as by a ``DistributedSampler``), equally many.
    Each is gone through once an epoch; a ``set_epoch`` of the training one, or of its ``sampler``, is called first. A
    resumed run goes past the batches that it had: it gets the same bits where the iterable gives the same batches for
    an epoch. ``num_classes`` is found in the test labels where it is not given. Raises DataError for an iterable
    without a length, unless ``batches`` is given, and for one that has none left at a second epoch.
    """

    def __init__(
        self,
        training: Iterable[Any],
        evaluation: Iterable[Any],
        num_classes: int | None = None,
        batches: int | None = None,
        name: str = "batches",
        settings: Mapping[str, Any] | None = None,
    ):
        self.name, self._training, self._evaluation = name, training, evaluation
        self._settings = dict(settings or {})
        if batches is None:
            if not isinstance(training, Sized):
                raise DataError(f"{name}: an iterable without a length needs batches=N, how many it gives in an epoch")
            batches = len(training)
        self.batches = batches
        if self.batches < 1:
            raise DataError(f"{name}: its training part has no batches")
        self.num_classes = num_classes or self._largest_label + 1

    @cached_property
    def _first(self) -> Any:
        return next(iter(self._evaluation), None)

    @cached_property
    def _largest_label(self) -> int:
        return max((int(np.max(np.asarray(labels))) for _, labels in self._evaluation), default=1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        if self._first is None:
            raise DataError(f"{self.name}: its test part has no batches")
        channels, height, width = self._first[0].shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return self.batches

    def settings(self) -> dict[str, Any]:
        return {"data": self.name, "batches": self.batches, "image shape": list(self.image_shape), **self._settings}

    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]:
        for drawn in (self._training, getattr(self._training, "sampler", None)):
            if (set_epoch := getattr(drawn, "set_epoch", None)) is not None:
                set_epoch(epoch)
        number = 0
        for number, (x, labels) in enumerate(read(self._training, self.name), 1):
            if number > self.batches:
                return
            if number > start:
                yield x, labels
        if number < self.batches:
            raise DataError(
                f"{self.name}: epoch {epoch + 1} has {number} batches, not {self.batches}; it must be possible to go "
                "through the iterable again (a list or a DataLoader, not a generator)"
            )

    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
        yield from read(self._evaluation, self.name)

    def notes(self) -> list[str]:
        return []
