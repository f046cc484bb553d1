"""What generated functions hold in registers: which elements of a value, and what they loaded to have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class At:
    """The elements of a value that a tile of registers holds.

    It has the names of the tensors of their pixels and channels and of the mask of those that exist, and ``width``, how
    many elements lie between two pixels. Of these, ``count`` from ``first`` on are the value's channels; all, unless
    said otherwise. A tile of successive pixels, or of a box of them, and channels that may be loaded or stored by a
    descriptor has a ``corner``: the names of its first pixel and channel.

    Whenever a pixel is visited, each element is loaded for ``lanes`` channels of the tile: for fewer than one, on
    average, where some of a pixel's channels are looked at in one visit and others in another. Then ``seen`` is the
    fraction of all elements that all visits together look at."""

    pixel: str
    channel: str
    mask: str
    width: int
    first: int = 0
    count: int | None = None
    corner: tuple[str, ...] | None = None
    lanes: Fraction = Fraction(1)
    seen: Channels | None = None

    @property
    def channels(self) -> tuple[int, int]:
        """The value's first channel, and the one after its last."""
        return self.first, self.first + (self.width if self.count is None else self.count)


@dataclass(frozen=True)
class Channels:
    """The channels ``first`` to ``last`` of the ``width`` elements between two pixels of a buffer.
    Of a vector they are so many of its numbers. They are all of them, unless said otherwise."""

    first: int = 0
    last: int = 1
    width: int = 1

    @property
    def share(self) -> float:
        """The fraction of the buffer that they are."""
        return (self.last - self.first) / self.width


ALL = Channels()


@dataclass(frozen=True, eq=False)
class Sources:
    """For each position p of an axis, the positions ``table[p]`` of another, ``size`` long, that it is made of."""

    table: NDArray[np.int64]
    size: int

    @staticmethod
    def of(table: ArrayLike, size: int) -> Sources:
        """The sources of each result, from an array [results, taps], or one source for each result."""
        found = np.asarray(table, np.int64)
        return Sources(found.reshape(len(found), -1), size)

    def visits(self, results: Sequence[int]) -> tuple[int, ...]:
        """How often each of the positions is visited, given how often each result is computed."""
        return times_visited(self.table, self.size, results)


def times_visited(sources: np.ndarray, size: int, results: Sequence[int]) -> tuple[int, ...]:
    """How often each of ``size`` positions is visited, given how often each result is computed.
    ``sources`` [results, taps] are those of each result, -1 for none."""
    times = np.broadcast_to(np.array(results, np.int64)[:, None], sources.shape)
    counts = np.zeros(size, np.int64)
    np.add.at(counts, sources[sources >= 0], times[sources >= 0])
    return tuple(counts.tolist())


@dataclass(frozen=True)
class Load:
    """One load in a function, and what it may read of the buffer.
    It is of a ``tile`` at a position, of a ``vector`` (a number for each channel) or of one ``number``; ``channels``
    are those of the buffer (or numbers of the vector) that it may read."""

    kind: str
    buffer: str
    at: At
    channels: Channels = ALL


# What a register may hold beside the values of layers, which are known by their names.


@dataclass(frozen=True)
class Rounded:
    """A value as it was stored, after rounding."""

    value: str


@dataclass(frozen=True)
class Summed:
    """A tile as its sum over pixels takes it: in fp32, 0 where there is no pixel."""

    tile: str


@dataclass(frozen=True)
class OfWindow:
    """Of each pooling window, the maximum of a value, or its position in the window."""

    value: str
    position: bool


@dataclass(frozen=True)
class Numbers:
    """The numbers of a buffer from an element on, one for each channel."""

    buffer: str
    first: int


@dataclass(frozen=True)
class LaterChannel:
    """The channel's number in a tensor of which the value is a slice that begins at ``start``."""

    start: int


@dataclass(frozen=True)
class Image:
    """The number of the image that a pixel lies in."""


@dataclass(frozen=True)
class FirstChannel:
    """Channel 0, whatever channel a lane computes: a value with one channel has no other."""
