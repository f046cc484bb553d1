"""Where batches come from: what the loop asks of a data set, and the sources that hold no pictures of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ir.byte_images import takes_bytes
from ..ir.ops.images import MOST_CHANNELS
from ..system.errors import DataError, TricnnError
from .chance import generator
from .processes import ALONE, Processes
from .workers import read

#: images [B, C, H, W] as the network takes them, and what they are: class numbers [B], or targets
Batch = tuple[Any, Any]
#: mean and standard deviation of pixels of 0 to 1: numbers, or one for each channel
Normalisation = tuple[Sequence[float], Sequence[float]]


class Skipped(NamedTuple):
    """A picture that could not be read: its place below the data set's folder, why, and how many there are so far."""

    path: str
    reason: str
    so_far: int

    def __str__(self) -> str:
        return f"{self.path}: cannot be read as a picture ({self.reason}), skipped ({self.so_far} so far)"


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
    bits of a run, as JSON has it. ``notes()`` gives what there is to say since it was last asked:
    sentences, and the pictures that were skipped.

    A source that can hand over its images as bytes, for a network that normalises them, is a dataclass with a field
    ``as_bytes`` and the ``normalisation`` that it does otherwise; that is None where its images are no bytes.
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
    def notes(self) -> Sequence[str | Skipped]: ...


def batches_per_epoch(source: Source, batch: int, processes: int = 1) -> int:
    """How many batches an epoch has.
    The last one may be smaller, but not smaller than the number of processes, each of which needs an image; a source
    that comes in batches has ``batches`` of them."""
    given = getattr(source, "batches", None)
    if given is not None:
        return int(given)
    whole, rest = divmod(len(source), batch)
    return whole + (rest >= processes)


def suited(source: Any, graph: Any, mixup: float, device: str = "cpu") -> Any:
    """The data set with its images as the bytes they are, for a network that takes those; for others as it is.

    A source that has no ``normalisation`` gives what it gives. Where the network is on a GPU, and images go there as
    workers made them, they come in page-locked memory: what is normalised on the way is in other memory by then.

    Raises DataError for a source whose images are no bytes, and TricnnError for mixup, whose images are none.
    """
    source = _as_taken(source, graph, mixup)
    as_made = getattr(source, "as_bytes", False) or getattr(source, "transform", None) is not None
    if hasattr(source, "pinned") and as_made and device == "cuda":
        return replace(source, pinned=True)
    return source


def _as_taken(source: Any, graph: Any, mixup: float) -> Any:
    """The data set with bytes or numbers for images, as the network takes them."""
    if not takes_bytes(graph):
        return source
    if mixup:
        raise TricnnError(f"{graph.name} takes images of bytes, and mixup gives others: cutmix keeps them bytes")
    if not hasattr(source, "normalisation"):
        return source
    if source.normalisation is None:
        raise DataError(
            f"{source.name}: {graph.name} takes images of bytes, and these are none: they are stored as other numbers, "
            "are resized as such, or come of a transform"
        )
    return replace(source, as_bytes=True)


@dataclass(frozen=True)
class Synthetic:
    """One batch of noise, again and again, as a data set: what a step costs where data cost nothing.
    An epoch has ``count`` images, which are bytes with ``as_bytes``."""

    image_shape: tuple[int, int, int]
    num_classes: int = 1000
    count: int = 1600
    name: str = "synthetic"
    as_bytes: bool = False

    def __len__(self) -> int:
        return self.count

    @property
    def normalisation(self) -> Normalisation | None:
        """Of bytes that are all as likely: 0.5, and the square root of 1/12."""
        return ((0.5,), (12**-0.5,)) if self.image_shape[0] <= MOST_CHANNELS else None

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

    def _noise(self, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        rng, (channels, height, width) = generator("synthetic"), self.image_shape
        shape = count, height, width, channels
        x: NDArray[Any] = rng.standard_normal(shape, dtype=np.float32)
        if self.as_bytes:
            x = rng.integers(0, 256, shape, dtype=np.uint8)
        return x.transpose(0, 3, 1, 2), rng.integers(0, self.num_classes, count)


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
