"""Convolutions by `conv2d_rows`: where they are taken, in which tile, and what their programs load.

Strips of some images and columns lie one behind the other, and each program has a run of their rows. A run that begins
or ends amid a strip loads rows that its neighbour loads, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..machine import tiles
from .convolution import Axis, Convolution
from .size import Size, Term, cdiv


@dataclass(frozen=True)
class Taken:
    """A convolution with stride 1, or the gradient of one by its input, that `conv2d_rows` computes.
    ``conv`` is the product itself: that of a gradient has the gradient for its image, and its own padding. ``box`` is
    (images, 1, columns); there are at most ``programs`` for each pack, which has so many groups."""

    conv: Convolution
    tile: tiles.Tile
    box: tuple[int, int, int]
    programs: int
    pack: int = 1

    @property
    def constants(self) -> dict[str, int]:
        """The constants of the template."""
        conv = self.conv
        sizes = {name: conv.sizes[name] for name in ("C", "K", "R", "S", "P", "Q")}
        options = {key: value for key, value in conv.options.items() if key in ("DW", "PT", "PL")}
        packed = {"GROUPS": conv.groups, "PACK": self.pack, "BLOCK_C": self.tile.k} if conv.groups > 1 else {}
        return {**sizes, "BOX_N": self.box[0], "BOX_W": self.box[2], "BLOCK_N": self.tile.n, **packed, **options}

    @property
    def packs(self) -> int:
        """How many packs of groups there are, each of which has programs of its own."""
        return cdiv(self.conv.groups, self.pack)

    @property
    def columns(self) -> int:
        """How many columns of a tile are those of a pack."""
        return self.pack * self.conv.group_filters

    @property
    def channels(self) -> int:
        """How many channels the boxes of all packs have for each pixel: some at the end may be the next pack's, too."""
        conv, each = self.conv, self.pack * self.conv.group_channels
        wide = self.tile.k if conv.groups > 1 else conv.c
        return sum(min(wide, conv.c - first) for first in range(0, conv.c, each))

    @cached_property
    def steps(self) -> Size:
        """How many rows all programs load, those of zeros around the image among them."""
        return Size((Term(Runs(self, everything=True), ()),))

    @cached_property
    def pixels(self) -> Size:
        """How many pixels of images all programs load."""
        return Size((Term(Runs(self, everything=False), ()),))


@dataclass(frozen=True)
class Runs:
    """A size that is counted run by run: the rows that are loaded, or the pixels of images in them."""

    taken: Taken
    everything: bool

    def at(self, batch: int) -> int:
        """The number at a batch size. Of each piece of a strip that a program has, rows first to last are loaded."""
        conv, (images, _, wide) = self.taken.conv, self.taken.box
        across = cdiv(conv.q, wide)
        rows = cdiv(batch, images) * across * conv.p
        if rows == 0:
            return 0
        programs = min(rows, self.taken.programs)
        begins = np.arange(programs) * (rows // programs) + np.minimum(np.arange(programs), rows % programs)
        begin = np.unique(np.concatenate([begins, np.arange(0, rows, conv.p)]))
        end = np.append(begin[1:], rows)
        first = np.maximum(begin % conv.p, conv.pt) - conv.pt
        last = (end - 1) % conv.p + conv.r - 1 - conv.pt
        if self.everything:
            return int((last - first + 1).sum())
        strip = begin // conv.p
        high = np.minimum(last, conv.h - 1) - first + 1
        there = np.minimum(images, batch - strip // across * images)
        return int((high * there * np.array(self._columns)[strip % across]).sum())

    @property
    def _columns(self) -> list[int]:
        """How many columns of the image the boxes of all taps cover, for each place of a strip."""
        conv, wide = self.taken.conv, self.taken.box[2]
        counts = Axis(conv.w, cdiv(conv.q, wide) * wide, conv.s, 1, conv.pl, conv.dw).covers()
        return [sum(counts[at : at + wide]) for at in range(0, len(counts), wide)]

    def text(self, cdiv: str) -> str:
        return f"{'rows' if self.everything else 'pixels'}_of_runs(N)"


def by_rows(conv: Convolution, gradient: bool, beside: int, batch: int, target: str) -> Taken | None:
    """How `conv2d_rows` computes a convolution, or its gradient, that reads so many images ``beside`` its operand.
    None where it cannot, or is not faster by the rule of `tiles.by_rows`."""
    if gradient:
        behind = conv.r - 1 - conv.pt, (conv.s - 1) * conv.dw - conv.pl
        sizes = (conv.k, conv.p, conv.q, conv.c, conv.r, conv.s, conv.h, conv.w)
        conv = Convolution(*sizes, conv.sh, conv.sw, conv.dh, conv.dw, *behind, conv.groups, conv.window)
    if conv.strided or conv.dh > 1 or conv.pooled or not 0 <= conv.pt < conv.r:
        return None
    pack = tiles.pack(conv.groups, max(conv.group_channels, conv.group_filters))
    packs, packed = cdiv(conv.groups, pack), conv.groups > 1
    box = tiles.box(tiles.ROW, batch, 1, conv.q)
    if box is None:
        return None
    rows = cdiv(batch, box[0]) * cdiv(conv.q, box[2]) * conv.p * packs
    depth, columns = pack * conv.group_channels, pack * conv.group_filters
    tile = tiles.by_rows(rows, columns, depth, (conv.r, conv.s), beside, target, packed)
    # Where groups are not packed, a box of filters would reach into the next tap.
    if tile is None or (tile.k > conv.c if packed else gradient and conv.k != tile.n):
        return None
    programs = (tiles.passing if packed else tiles.programs)(target)
    return Taken(conv, tile, box, max(1, programs // packs), pack)
