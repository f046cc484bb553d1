"""What the programs of a launch load and store, from the numbers its grid is made of.

A template calls the small functions it is given a known number of times, and its masks let through known elements:

    loads of a tile    = images * (visits of all rows) * (visits of all columns) * channels * repeats
    loads of a vector  = calls * (lanes whose channel the vector has)
    loads of a number  = calls

where a convolution visits row h of its image once for each (p, r) with p*SH + r*DH - PT = h, and repeats it for every
tile of filters. What is loaded more than once is *tile overlap*: it reaches the L2 cache or L1, not memory again. Of
each buffer the same numbers say which fraction is read at all: the rows and columns that are visited, and the channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..ir.numpy_ops.resample import Taps
from ..machine.tiles import Tile
from .body import Body
from .convolution import Axis, Convolution, Counts
from .positions import ALL, Channels, times_visited
from .runs import Taken
from .size import N, Size, at_most, cdiv


@dataclass
class Traffic:
    """What a launch moves.
    Of each buffer: the elements that are loaded, as often as they are, the fraction that is read at all of some
    channels, and the channels that are written."""

    loads: dict[str, Size] = field(default_factory=dict)
    read: dict[str, dict[Channels, float]] = field(default_factory=dict)
    written: dict[str, set[Channels]] = field(default_factory=dict)

    def load(self, buffer: str, elements: int | Size, share: float = 1.0, channels: Channels = ALL) -> Traffic:
        """This traffic, with so many elements loaded beside, which are this share of the channels."""
        self.loads[buffer] = self.loads.get(buffer, Size()) + elements
        shares = self.read.setdefault(buffer, {})
        shares[channels] = max(share, shares.get(channels, 0.0))
        return self

    def add(self, other: Traffic) -> Traffic:
        """This traffic, with what something else in the launch moves."""
        for buffer, elements in other.loads.items():
            self.loads[buffer] = self.loads.get(buffer, Size()) + elements
        for buffer, shares in other.read.items():
            own = self.read.setdefault(buffer, {})
            own.update({channels: max(share, own.get(channels, 0.0)) for channels, share in shares.items()})
        for buffer, written in other.written.items():
            self.written.setdefault(buffer, set()).update(written)
        return self

    def read_share(self, buffer: str) -> float:
        """The fraction of a buffer that is read."""
        shares = self.read.get(buffer, {})
        return min(1.0, sum(share * channels.share for channels, share in shares.items()))

    def written_share(self, buffer: str) -> float:
        """The fraction of a buffer that is written: all of it, unless a function said which channels."""
        return min(1.0, sum(channels.share for channels in self.written.get(buffer, {ALL})))


def loads(buffer: str, elements: int | Size, share: float = 1.0) -> Traffic:
    """The traffic of what a template loads by itself: a weight, partial sums."""
    return Traffic().load(buffer, elements, share)


def stored(body: Body) -> Traffic:
    """The traffic of a function that loads nothing."""
    return Traffic(written={buffer: set(channels) for buffer, channels in body.stores.items()})


def channels_stored(buffer: str, count: int, pitch: int) -> Traffic:
    """The traffic of storing the first ``count`` channels of a buffer whose pitch is given."""
    return Traffic(written={buffer: {Channels(0, count, pitch)}})


@dataclass(frozen=True)
class Calls:
    """How often a template calls a function, and for what.
    It has the visits of each row and column of an image, how often all of it is repeated, the number of calls, and the
    channels (first, count) that each goes through."""

    rows: Counts
    columns: Counts
    calls: Size
    lanes: tuple[tuple[int, int], ...]
    repeats: int = 1
    images: Size = N
    channels: int | None = None  # visits of all channels of a pixel together, if not each once
    windows: tuple[Counts, Counts] = ((), ())  # what `window` of a pooled tile visits

    @cached_property
    def alike(self) -> Mapping[tuple[int, int], int]:
        """How many times over lanes go through the same channels: (first, count) -> times."""
        return Counter(self.lanes)

    def of(self, body: Body) -> Traffic:
        """The traffic of all calls of a function."""
        traffic = stored(body)
        for load in body.loads:
            if load.kind == "number":
                traffic.load(load.buffer, self.calls)
            elif load.kind == "vector":  # by channel, of a slice from the channel that it begins at
                numbers = load.channels
                begin = numbers.first + load.at.first
                ends = {(first, count): min(first + count, numbers.last - begin) for first, count in self.alike}
                end = min(numbers.last, begin + max(first + count for first, count in self.alike))
                loaded = sum(max(0, ends[lanes] - lanes[0]) * times for lanes, times in self.alike.items())
                traffic.load(load.buffer, self.calls * loaded, channels=Channels(begin, end, numbers.width))
            else:
                rows, columns = self._visits(body, load.at.pixel)
                first, last = load.at.channels
                channels = self.channels or (last - first) * load.at.lanes
                count = int(sum(rows) * sum(columns) * channels) * self.repeats
                share = _visited(rows) * _visited(columns)
                traffic.load(load.buffer, self.images * count, share, load.channels)
        return traffic

    def _visits(self, body: Body, pixel: str) -> tuple[Counts, Counts]:
        """How often the rows and columns are visited that a name of a function stands for.
        They are the image's, or those that its pixels are made of."""
        if pixel in body.elsewhere:
            parent, *axes = body.elsewhere[pixel]
            rows, columns = (axis.visits(n) for axis, n in zip(axes, self._visits(body, parent), strict=True))
            return rows, columns
        return self.windows if pixel == "window" else (self.rows, self.columns)


def _visited(visits: Counts) -> float:
    """The fraction of positions that are visited at all."""
    return sum(map(bool, visits)) / len(visits)


# --- how each template calls its functions ----------------------------------------------------


def once(spatial: tuple[int, int], calls: Size, channels: int, tile: Tile, images: Size = N) -> Calls:
    """The calls by which every pixel and channel is loaded once, by so many tiles of rows."""
    return Calls((1,) * spatial[0], (1,) * spatial[1], calls, ((0, _padded(channels, tile.n)),), images=images)


def _cycles(groups: int, count: int, lanes: int) -> tuple[tuple[int, int], ...]:
    """The channels (first, how many) that lanes go through.
    In each group they are ``lanes`` of its ``count``, from the first on, and again from the first after the last."""
    whole, rest = divmod(lanes, count)
    return tuple(
        cycle
        for first in range(0, groups * count, count)
        for cycle in [(first, count)] * whole + [(first, rest)] * (rest > 0)
    )


def _padded(count: int, block: int) -> int:
    """A count, rounded up to whole blocks."""
    return cdiv(count, block) * block


def _results(groups: int, count: int, tile: Tile) -> tuple[tuple[int, int], ...]:
    """The channels (first, how many) of all tiles of a result.
    In a tile that a group does not fill, the rest has the number after all groups' channels."""
    if groups == 1:
        return results_of(count, tile.n)
    beyond = groups * (_padded(count, tile.n) - count)
    return ((0, groups * count), *((groups * count, 1),) * beyond)


def _beside(count: int, each: int, tile: Tile) -> tuple[tuple[int, int], ...]:
    """The channels (first, how many) of tiles that begin ``each`` channels apart, and may reach into the next one's."""
    return tuple((first, min(tile.n, count - first)) for first in range(0, count, each))


def results_of(count: int, block: int) -> tuple[tuple[int, int], ...]:
    """The channels (first, how many) of all tiles of a result, in blocks of so many, that has no groups."""
    return ((0, _padded(count, block)),)


@dataclass(frozen=True)
class RowTiles:
    """The tiles of a product's rows: how many, and how many rows and columns of the image they cover.
    That may be more than the result has, where tiles are boxes."""

    count: Size
    covered: tuple[int, int]


def fprop(
    load: Body, store: Body, weight: str, conv: Convolution, tile: Tile, rows: RowTiles, streams: bool = False
) -> list[Traffic]:
    """What conv2d_fprop, conv2d_boxes and, with ``streams``, matmul_boxes move.
    Every tile of filters loads x once for each tap, every tile of rows all weights."""
    cg, kg = conv.group_channels, conv.group_filters
    windows = (1,) * (conv.p // conv.window[0]), (1,) * (conv.q // conv.window[1])
    columns = cdiv(kg, tile.n)
    # With few channels the summed axis is (r, s, c) flattened.
    sweeps, summed = (conv.taps, cg) if cg >= 16 else (1, conv.taps * cg)
    lanes = ((0, _padded(cg, tile.k)),) if streams else _cycles(conv.groups, cg, _padded(summed, tile.k))
    visits = [replace(axis, outputs=n).taps() for axis, n in zip(conv.axes, rows.covered, strict=True)]
    x = Calls(visits[0], visits[1], rows.count * (columns * sweeps), lanes, columns)
    height, width = (len(n) * size for n, size in zip(windows, conv.window, strict=True))
    y = Calls((1,) * height, (1,) * width, rows.count, _results(conv.groups, kg, tile), windows=windows)
    return [x.of(load), y.of(store), loads(weight, rows.count * (conv.taps * cg * conv.k))]


def dgrad(
    load: Body, store: Body, weight: str, conv: Convolution, tile: Tile, rows: RowTiles, streams: bool = False
) -> list[Traffic]:
    """What conv2d_dgrad and the templates of boxes move (``streams``: matmul_boxes).
    Every tile of channels loads dy once for each tap, and each tap belongs to the pixels of one residue class. ``rows``
    are those of one class."""
    cg, kg = conv.group_channels, conv.group_filters
    columns = cdiv(cg, tile.n)
    lanes = ((0, _padded(kg, tile.k)),) if streams else _cycles(conv.groups, kg, _padded(kg, tile.k))
    visits = [replace(axis, size=n).covers() for axis, n in zip(conv.axes, rows.covered, strict=True)]
    dy = Calls(visits[0], visits[1], rows.count * (columns * conv.taps), lanes, columns)
    every_class = rows.count * (conv.sh * conv.sw)
    dx = Calls((1,) * conv.h, (1,) * conv.w, every_class, _results(conv.groups, cg, tile))
    return [dy.of(load), dx.of(store), loads(weight, rows.count * (conv.taps * conv.k * cg))]


def by_rows(load: Body, store: Body, weight: str, taken: Taken) -> list[Traffic]:
    """What conv2d_rows moves: each row of a run once for each column of taps, all filters once for each program."""
    conv = taken.conv
    rows = cdiv(N, taken.box[0]) * (cdiv(conv.q, taken.box[2]) * conv.p)
    x = Calls((1,), (1,), taken.steps * conv.s, ((0, conv.c),), images=taken.pixels, channels=taken.channels)
    y = Calls((1,) * conv.p, (1,) * conv.q, taken.steps, _beside(conv.k, taken.columns, taken.tile))
    filters = loads(weight, at_most(rows, taken.programs) * (conv.taps * conv.group_channels * conv.k))
    return [x.of(load), y.of(store), filters]


def left(leave: Body, channels: int, parts: Size, tile: Tile) -> Traffic:
    """What matmul_boxes moves as each stream of tiles leaves its sums."""
    return Calls((), (), parts, ((0, _padded(channels, tile.n)),)).of(leave)


def wgrad(
    load_dy: Body, load_x: Body, conv: Convolution, tile: Tile, blocks: RowTiles, beside: int = 0,
    adding: bool = False,
) -> list[Traffic]:  # fmt: skip
    """What conv2d_wgrad and conv2d_wgrad_boxes move: every tile of (r, s, c) loads dy, every tile of filters x.
    ``blocks`` are those of the sum over pixels. In boxes no tile has channels of two taps; dy is loaded once for so
    many tiles ``beside`` one another, and once more by programs that are ``adding`` it up."""
    cg, kg = conv.group_channels, conv.group_filters
    filters, columns = cdiv(kg, tile.m), cdiv(conv.taps * cg, tile.n)
    dy_lanes, x_lanes = (
        _cycles(conv.groups, kg, filters * tile.m),
        _cycles(conv.groups, cg, columns * tile.n),
    )
    loaded = (conv.taps * cdiv(cg, tile.n) // beside if beside else columns) + adding
    dy = Calls((1,) * conv.p, (1,) * conv.q, blocks.count * loaded, dy_lanes, loaded)
    rows, cols = (replace(axis, outputs=n).taps() for axis, n in zip(conv.axes, blocks.covered, strict=True))
    return [dy.of(load_dy), Calls(rows, cols, blocks.count * filters, x_lanes, filters).of(load_x)]


def pool_blocks(
    load: Body, store: Body, axes: tuple[Axis, Axis], block: tuple[int, int], channels: int, tile: Tile
) -> list[Traffic]:
    """What pooling by blocks of so many results, down and across, moves: each block loads what its windows cover."""
    rows, columns = axes
    (from_rows, high), (from_columns, wide) = rows.shared(block[0]), columns.shared(block[1])
    tiles = cdiv(N * (cdiv(rows.outputs, block[0]) * cdiv(columns.outputs, block[1])), tile.m)
    lanes = ((0, _padded(channels, tile.n)),)
    x = Calls(from_rows, from_columns, tiles * (high * wide), lanes)
    y = Calls((1,) * rows.outputs, (1,) * columns.outputs, tiles * (block[0] * block[1]), lanes)
    return [x.of(load), y.of(store)]


def pool(load: Body, store: Body, axes: tuple[Axis, Axis], channels: int, tile: Tile) -> list[Traffic]:
    """What max_pool2d and avg_pool2d move: each window loads what it covers."""
    rows, columns = axes
    tiles, lanes = cdiv(N * (rows.outputs * columns.outputs), tile.m), ((0, _padded(channels, tile.n)),)
    x = Calls(rows.taps(), columns.taps(), tiles * (rows.kernel * columns.kernel), lanes)
    return [x.of(load), Calls((1,) * rows.outputs, (1,) * columns.outputs, tiles, lanes).of(store)]


def pool_of_images(load: Body, store: Body, spatial: tuple[int, int], channels: int, tile: Tile) -> list[Traffic]:
    """What avg_pool2d of whole images moves: each pixel is loaded once."""
    (high, wide), lanes = spatial, ((0, _padded(channels, tile.n)),)
    x = Calls((1,) * high, (1,) * wide, N * cdiv(high * wide, tile.m), lanes)
    return [x.of(load), Calls((1,), (1,), N * 1, lanes).of(store)]


def pool_grad(load: Body, store: Body, axes: tuple[Axis, Axis], channels: int, tile: Tile) -> list[Traffic]:
    """What avg_pool2d_grad moves: each pixel loads from the windows that cover it."""
    rows, columns = axes
    tiles, lanes = cdiv(N * (rows.size * columns.size), tile.m), ((0, _padded(channels, tile.n)),)
    most = cdiv(rows.kernel, rows.stride) * cdiv(columns.kernel, columns.stride)
    dy = Calls(rows.covers(), columns.covers(), tiles * most, lanes)
    return [dy.of(load), Calls((1,) * rows.size, (1,) * columns.size, tiles, lanes).of(store)]


def pool_grad_blocks(
    load: Body, store: Body, axes: tuple[Axis, Axis], block: tuple[int, int], channels: int, tile: Tile,
    index: str | None = None,
) -> list[Traffic]:  # fmt: skip
    """What the gradient of a pooling moves by blocks of pixels, so many strides high and wide.
    Each loads the windows that reach into it and, if there is one, the ``index`` of their maximum."""
    rows, columns = axes
    (from_rows, down), (from_columns, across) = rows.reached(block[0]), columns.reached(block[1])
    high, wide = block[0] * rows.stride, block[1] * columns.stride
    tiles = cdiv(N * (cdiv(rows.size, high) * cdiv(columns.size, wide)), tile.m)
    lanes = ((0, _padded(channels, tile.n)),)
    dy = Calls(from_rows, from_columns, tiles * (down * across), lanes)
    dx = Calls((1,) * rows.size, (1,) * columns.size, tiles * (high * wide), lanes)
    count = N * (sum(from_rows) * sum(from_columns) * channels)
    indices = [] if index is None else [loads(index, count, _visited(from_rows) * _visited(from_columns))]
    return [dy.of(load), dx.of(store), *indices]


def resampled(
    load: Body, store: Body, axes: tuple[Taps, Taps], spatial: tuple[int, int], channels: int, tile: Tile
) -> list[Traffic]:
    """What resample moves.
    Each pixel of the result loads those of the operand, so high and wide, that have a weight in it."""
    p, q = (len(axis.index) for axis in axes)
    tiles, lanes = cdiv(N * (p * q), tile.m), ((0, _padded(channels, tile.n)),)
    rows, columns = (
        times_visited(np.where(axis.weight > 0, axis.index, -1), size, (1,) * len(axis.index))
        for axis, size in zip(axes, spatial, strict=True)
    )
    x = Calls(rows, columns, tiles * (axes[0].most * axes[1].most), lanes)
    return [x.of(load), Calls((1,) * p, (1,) * q, tiles, lanes).of(store)]


def normalised_channels(channels: int, size: int, *, gradient: bool) -> dict[str, int]:
    """How many elements local response normalisation, or its gradient, loads of each pixel of an operand.
    It is more than there are channels, for the windows overlap."""
    before, after = size // 2, (size - 1) // 2
    c = np.arange(channels)
    window = np.minimum(c + after, channels - 1) - np.maximum(c - before, 0) + 1
    own = int(window.sum()) + channels
    if not gradient:
        return {"x": own}
    first, last = np.maximum(c - after, 0), np.minimum(c + before, channels - 1)  # whose windows have c
    until = np.concatenate([[0], np.cumsum(window + 1)])
    return {
        "dy": int((last - first + 1).sum()) + channels,
        "x": own + int((until[last + 1] - until[first]).sum()),
    }
