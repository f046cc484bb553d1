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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..machine.tiles import Tile
from .body import Body
from .size import N, Size, cdiv

#: channels first to last, of those that lie between two pixels (or of all numbers of a vector)
Part = tuple[int, int, int]
Counts = tuple[int, ...]
#: how many boxes there are, and the rows and columns that they cover, which may be more than the result has
Boxes = tuple[Size, tuple[int, int]]


@dataclass
class Traffic:
    """Of each buffer: the elements that are loaded, the fraction of each part that is read, and the parts that are
    written."""

    loads: dict[str, Size] = field(default_factory=dict)
    read: dict[str, dict[Part, float]] = field(default_factory=dict)
    written: dict[str, set[Part]] = field(default_factory=dict)

    def load(self, buffer: str, elements: int | Size, share: float = 1.0, part: Part = (0, 1, 1)) -> Traffic:
        self.loads[buffer] = self.loads.get(buffer, Size()) + elements
        shares = self.read.setdefault(buffer, {})
        shares[part] = max(share, shares.get(part, 0.0))
        return self

    def add(self, other: Traffic) -> Traffic:
        for buffer, elements in other.loads.items():
            self.loads[buffer] = self.loads.get(buffer, Size()) + elements
        for buffer, parts in other.read.items():
            own = self.read.setdefault(buffer, {})
            own.update({part: max(share, own.get(part, 0.0)) for part, share in parts.items()})
        for buffer, ranges in other.written.items():
            self.written.setdefault(buffer, set()).update(ranges)
        return self

    def read_share(self, buffer: str) -> float:
        """The fraction of a buffer that is read."""
        parts = self.read.get(buffer, {})
        return min(1.0, sum(share * (last - first) / width for (first, last, width), share in parts.items()))

    def written_share(self, buffer: str) -> float:
        """The fraction of a buffer that is written: all of it, unless a function said which channels."""
        parts = self.written.get(buffer, {(0, 1, 1)})
        return min(1.0, sum((last - first) / width for first, last, width in parts))


def loads(buffer: str, elements: int | Size, share: float = 1.0) -> Traffic:
    """What a template loads by itself: a weight, partial sums."""
    return Traffic().load(buffer, elements, share)


def stored(body: Body) -> Traffic:
    """What a function that loads nothing stores."""
    return Traffic(written={buffer: set(parts) for buffer, parts in body.stores.items()})


def channels_stored(buffer: str, count: int, pitch: int) -> Traffic:
    """Some channels of a buffer are stored."""
    return Traffic(written={buffer: {(0, count, pitch)}})


@dataclass(frozen=True)
class Calls:
    """How often a template calls a function: visits of each row and column of an image, how often all of it is
    repeated, the number of calls, and the channels (first, count) that each goes through."""

    rows: Counts
    columns: Counts
    calls: Size
    lanes: tuple[tuple[int, int], ...]
    repeats: int = 1
    images: Size = N
    channels: int | None = None  # visits of all channels of a pixel together, if not each once
    windows: tuple[Counts, Counts] = ((), ())  # what `window` of a pooled tile visits

    def of(self, body: Body) -> Traffic:
        """What all calls of a function load, and what they store."""
        traffic = stored(body)
        for load in body.loads:
            if load.kind == "number":
                traffic.load(load.buffer, self.calls)
            elif load.kind == "vector":  # by channel, of a slice from the channel that it begins at
                begin = load.first + load.at.first
                lanes = [min(first + count, load.last - begin) - first for first, count in self.lanes]
                end = min(load.last, begin + max(first + count for first, count in self.lanes))
                loaded = sum(n for n in lanes if n > 0)
                traffic.load(load.buffer, self.calls * loaded, part=(begin, end, load.width))
            else:
                part = (load.first, load.last, load.width)
                rows, columns = self._visits(body, load.at.pixel)
                channels = self.channels or (load.last - load.first) * load.at.lanes
                count = sum(rows) * sum(columns) * channels * self.repeats
                traffic.load(load.buffer, self.images * count, _visited(rows) * _visited(columns), part)
        return traffic

    def _visits(self, body: Body, pixel: str) -> tuple[Counts, Counts]:
        """Visits of the rows and columns that a name of a function stands for: the image's, or those of the windows
        that its pixels lie in."""
        if pixel in body.windows:
            parent, windows = body.windows[pixel]
            rows, columns = self._visits(body, parent)
            (p, q), (r, s), (sh, sw) = windows.count, windows.size, windows.stride
            return _grouped(rows, p, r, sh), _grouped(columns, q, s, sw)
        return self.windows if pixel == "window" else (self.rows, self.columns)


def _grouped(visits: Counts, windows: int, kernel: int, stride: int) -> Counts:
    """Visits of windows that do not overlap, given those of what they cover."""
    return tuple(sum(visits[p * stride : p * stride + kernel]) for p in range(windows))


def _visited(visits: Counts) -> float:
    return sum(n > 0 for n in visits) / len(visits)


# --- how each template calls its functions ----------------------------------------------------


def once(spatial: tuple[int, int], calls: Size, channels: int, tile: Tile, images: Size = N) -> Calls:
    """Every pixel and channel once. ``calls``: by how many tiles of rows."""
    return Calls((1,) * spatial[0], (1,) * spatial[1], calls, ((0, _padded(channels, tile.n)),), images=images)


def taps(size: int, outputs: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Counts:
    """Visits of each position of an axis by windows: how many (p, r) have p*stride + r*dilation - before there."""
    change = [0] * size  # against the position a dilation before
    for p in range(outputs):
        first, end = _inside(size, p * stride - before, kernel, dilation)
        if first < end:
            change[p * stride - before + first * dilation] += 1
            if (beyond := p * stride - before + end * dilation) < size:
                change[beyond] -= 1
    for at in range(dilation, size):
        change[at] += change[at - dilation]
    return tuple(change)


def covers(size: int, outputs: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Counts:
    """Visits of each window by the positions of the axis that it covers."""
    taken = (_inside(size, p * stride - before, kernel, dilation) for p in range(outputs))
    return tuple(max(end - first, 0) for first, end in taken)


def _inside(size: int, start: int, kernel: int, dilation: int) -> tuple[int, int]:
    """The taps (first, end) of a window that begins at ``start`` which lie in ``range(size)``."""
    return max(0, -(start // dilation)), min(kernel, -((start - size) // dilation))


def _axes(visits: Callable[..., Counts], c: Mapping[str, int], rows: int, columns: int) -> tuple[Counts, Counts]:
    return (visits(c["H"], rows, c["R"], c.get("SH", 1), c.get("PT", 0), c.get("DH", 1)),
            visits(c["W"], columns, c["S"], c.get("SW", 1), c.get("PL", 0), c.get("DW", 1)))  # fmt: skip


def _cycles(groups: int, count: int, lanes: int) -> tuple[tuple[int, int], ...]:
    """For each group (first channel, how many): ``lanes`` of its ``count`` channels, beginning again after the last."""
    whole, rest = divmod(lanes, count)
    return tuple(
        cycle
        for first in range(0, groups * count, count)
        for cycle in [(first, count)] * whole + [(first, rest)] * (rest > 0)
    )


def _padded(count: int, block: int) -> int:
    return -(-count // block) * block


def _results(groups: int, count: int, tile: Tile) -> tuple[tuple[int, int], ...]:
    """The channels of all tiles of a result. In a tile that a group does not fill, the rest has the number after all
    groups' channels."""
    if groups == 1:
        return ((0, _padded(count, tile.n)),)
    beyond = groups * (_padded(count, tile.n) - count)
    return ((0, groups * count), *((groups * count, 1),) * beyond)


def fprop(
    load: Body, store: Body, weight: str, c: Mapping[str, int], tile: Tile, window: Sequence[int] = (1, 1),
    boxes: Boxes | None = None,
) -> list[Traffic]:  # fmt: skip
    """conv2d_fprop, conv2d_boxes: every tile of filters loads x once for each tap, every tile of rows all weights."""
    groups = c.get("GROUPS", 1)
    cg, kg, every_tap = c["C"] // groups, c["K"] // groups, c["R"] * c["S"]
    p, q = c["P"] // window[0], c["Q"] // window[1]
    height, width = p * window[0], q * window[1]
    row_tiles, loaded = boxes or (cdiv(N * (height * width), tile.m), (height, width))
    columns = -(-kg // tile.n)
    # With few channels the summed axis is (r, s, c) flattened.
    sweeps, summed = (every_tap, cg) if cg >= 16 else (1, every_tap * cg)
    lanes = _cycles(groups, cg, _padded(summed, tile.k))
    x = Calls(*_axes(taps, c, *loaded), row_tiles * (columns * sweeps), lanes, columns)
    windows = (1,) * p, (1,) * q
    y = Calls((1,) * height, (1,) * width, row_tiles, _results(groups, kg, tile), windows=windows)
    return [x.of(load), y.of(store), loads(weight, row_tiles * (every_tap * cg * c["K"]))]


def dgrad(
    load: Body, store: Body, weight: str, c: Mapping[str, int], tile: Tile, boxes: Boxes | None = None
) -> list[Traffic]:  # fmt: skip
    """conv2d_dgrad, conv2d_boxes: every tile of channels loads dy once for each tap. Each tap is one class of pixels'
    only."""
    groups, sh, sw = c.get("GROUPS", 1), c.get("SH", 1), c.get("SW", 1)
    cg, kg, every_tap = c["C"] // groups, c["K"] // groups, c["R"] * c["S"]
    row_tiles, (height, width) = boxes or (
        cdiv(N * (cdiv(c["H"], sh) * cdiv(c["W"], sw)), tile.m), (c["H"], c["W"])
    )  # fmt: skip
    columns = -(-cg // tile.n)
    lanes = _cycles(groups, kg, _padded(kg, tile.k))
    visits = _axes(covers, {**c, "H": height, "W": width}, c["P"], c["Q"])
    dy = Calls(*visits, row_tiles * (columns * every_tap), lanes, columns)
    dx = Calls((1,) * c["H"], (1,) * c["W"], row_tiles * (sh * sw), _results(groups, cg, tile))
    return [dy.of(load), dx.of(store), loads(weight, row_tiles * (every_tap * c["K"] * cg))]


def wgrad(load_dy: Body, load_x: Body, c: Mapping[str, int], tile: Tile) -> list[Traffic]:
    """conv2d_wgrad: every tile of (r, s, c) loads dy, every tile of filters x."""
    groups, blocks = c.get("GROUPS", 1), cdiv(N * (c["P"] * c["Q"]), tile.k)
    cg, kg = c["C"] // groups, c["K"] // groups
    filters, columns = -(-kg // tile.m), -(-c["R"] * c["S"] * cg // tile.n)
    dy_lanes, x_lanes = _cycles(groups, kg, filters * tile.m), _cycles(groups, cg, columns * tile.n)
    dy = Calls((1,) * c["P"], (1,) * c["Q"], blocks * columns, dy_lanes, columns)
    x = Calls(*_axes(taps, c, c["P"], c["Q"]), blocks * filters, x_lanes, filters)
    return [dy.of(load_dy), x.of(load_x)]


def pool(load: Body, store: Body, c: Mapping[str, int], tile: Tile) -> list[Traffic]:
    """max_pool2d and avg_pool2d: each window loads what it covers."""
    row_tiles, lanes = cdiv(N * (c["P"] * c["Q"]), tile.m), ((0, _padded(c["C"], tile.n)),)
    x = Calls(*_axes(taps, c, c["P"], c["Q"]), row_tiles * (c["R"] * c["S"]), lanes)
    return [x.of(load), Calls((1,) * c["P"], (1,) * c["Q"], row_tiles, lanes).of(store)]


def pool_grad(load: Body, store: Body, index: Iterable[str], c: Mapping[str, int], tile: Tile) -> list[Traffic]:
    """max_pool2d_grad and avg_pool2d_grad: each pixel loads from the windows that cover it."""
    row_tiles, lanes = cdiv(N * (c["H"] * c["W"]), tile.m), ((0, _padded(c["C"], tile.n)),)
    rows, columns = _axes(covers, c, c["P"], c["Q"])
    most = -(-c["R"] // c["SH"]) * -(-c["S"] // c["SW"])
    dy = Calls(rows, columns, row_tiles * most, lanes)
    dx = Calls((1,) * c["H"], (1,) * c["W"], row_tiles, lanes)
    share = _visited(rows) * _visited(columns)
    chosen = [loads(b, N * (sum(rows) * sum(columns) * c["C"]), share) for b in index]
    return [dy.of(load), dx.of(store), *chosen]


def normalised_channels(op: str, channels: int, size: int) -> dict[str, int]:
    """Channels that local response normalisation loads of each pixel's x (and dy): windows overlap."""
    before, after = size // 2, (size - 1) // 2
    c = np.arange(channels)
    window = np.minimum(c + after, channels - 1) - np.maximum(c - before, 0) + 1
    own = int(window.sum()) + channels
    if op == "local_response_norm":
        return {"x": own}
    first, last = np.maximum(c - after, 0), np.minimum(c + before, channels - 1)  # whose windows have c
    until = np.concatenate([[0], np.cumsum(window + 1)])
    return {
        "dy": int((last - first + 1).sum()) + channels,
        "x": own + int((until[last + 1] - until[first]).sum()),
    }
