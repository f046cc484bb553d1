"""Columns: the windows of an image laid out as the rows of a matrix, so that a convolution is a matrix product.

Everything here is channels-last. A window's row holds R runs of S*C numbers, and each run is contiguous in the image
(without dilation), so building columns is a series of long copies. They are built a tile at a time: a tile is a few
images, or a band of rows of one image, small enough to stay in cache until the product has read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.lib.stride_tricks import as_strided

_TILE_BYTES = 8 << 20


@dataclass(frozen=True)
class Axis:
    """Along one axis, output i reads through tap t the input i*stride + t*step + start (zero where there is none)."""

    taps: int
    stride: int
    step: int
    start: int

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Half-open range of the inputs, in or out of bounds, that outputs first..last-1 read."""
        return first * self.stride + self.start, (last - 1) * self.stride + (self.taps - 1) * self.step + self.start + 1

    def blocked(self, block: int) -> "Axis":
        """The axis whose output i stands for `block` neighbours: it reads all that they read, gaps included."""
        if block == 1:
            return self
        width = (block - 1) * self.stride + (self.taps - 1) * self.step + 1
        return Axis(width, self.stride * block, 1, self.start)


@dataclass(frozen=True)
class Residue:
    """The inputs congruent to `offset` modulo the stride: their dgrad is a dense correlation over dy.

    taps: the kernel positions that reach them, in the order in which `axis` walks over dy.
    """

    offset: int
    axis: Axis
    taps: slice


def residues(kernel: int, stride: int, dilation: int, pad_before: int) -> list[Residue]:
    """dgrad of a strided axis as `stride` dense ones, leaving out residues that no tap reaches.

    Input h = offset + stride*i gets dy[p] * w[r] from p = (h + pad_before - r*dilation) / stride where that is whole.
    Such r are r0, r0 + jump, ... with jump = stride / gcd(stride, dilation), and p falls by dilation*jump/stride from
    one to the next; walking them backwards makes it rise.
    """
    jump = stride // gcd(stride, dilation)
    found = []
    for offset in range(stride):
        first = next((r for r in range(min(jump, kernel)) if (offset + pad_before - r * dilation) % stride == 0), None)
        if first is None:
            continue
        count = (kernel - 1 - first) // jump + 1
        last = first + (count - 1) * jump
        start = (offset + pad_before - last * dilation) // stride
        stop = first - jump
        taps = slice(last, stop if stop >= 0 else None, -jump)
        found.append(Residue(offset, Axis(count, 1, dilation * jump // stride, start), taps))
    return found


def tiles(n: int, p: int, row_bytes: int, at_least: int = 0) -> Iterator[tuple[slice, slice]]:
    """(images, output rows) covering n images of p rows in order, each with some megabytes of columns."""
    rows = max(1, max(_TILE_BYTES, at_least) // max(1, row_bytes))
    if rows >= p:
        images = rows // p
        for i in range(0, n, images):
            yield slice(i, min(n, i + images)), slice(0, p)
        return
    bands = -(-p // rows)
    for i in range(n):
        for b in range(bands):
            yield slice(i, i + 1), slice(b * p // bands, (b + 1) * p // bands)


def columns(src: np.ndarray, rows: Axis, cols: Axis, images: slice, band: slice, width: int) -> np.ndarray:
    """The windows of one tile: [n, H, W, C] -> [tile pixels, R*S*C], a view where no copy is needed.

    The tile is output rows `band` of `images`, `width` outputs across.
    """
    top, bottom = rows.reach(band.start, band.stop)
    left, right = cols.reach(0, width)
    part = crop(src[images], top, bottom, left, right)
    n, channels = part.shape[0], part.shape[3]
    sn, sh, sw, sc = part.strides
    height = band.stop - band.start
    shape = (n, height, width, rows.taps, cols.taps, channels)
    view = as_strided(
        part, shape, (sn, sh * rows.stride, sw * cols.stride, sh * rows.step, sw * cols.step, sc), writeable=False
    )
    return view.reshape(n * height * width, rows.taps * cols.taps * channels)


def crop(x: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """x[:, top:bottom, left:right], with zeros where that leaves the image."""
    n, h, w, c = x.shape
    if top >= 0 and left >= 0 and bottom <= h and right <= w:
        return x[:, top:bottom, left:right]
    padded = np.zeros((n, bottom - top, right - left, c), dtype=x.dtype)
    inside = x[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y0, x0 = max(-top, 0), max(-left, 0)
    padded[:, y0 : y0 + inside.shape[1], x0 : x0 + inside.shape[2]] = inside
    return padded
