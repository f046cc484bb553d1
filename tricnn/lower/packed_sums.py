"""Weight gradients of grouped convolutions by `conv2d_wgrad_packs`, whose groups are multiplied together."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.plan import Kernel
from ..machine import tiles
from ..machine.long_sums import packed_gradient
from .boxes import covering, divided, images_last, lies_alone
from .call import BATCH, Call, Helper, Pointer
from .convolution import Convolution
from .lowering import Lowering
from .packs import columns_of_taps, moved
from .size import N, cdiv
from .traffic import RowTiles, Traffic


@dataclass(frozen=True)
class PackedSums:
    """A weight gradient whose groups are multiplied together, with both operands in boxes.
    ``dy`` and ``x`` are the buffers of these. ``box`` = (images, rows of the image, columns of the result) are the
    boxes that are summed over; with a stride they have every so-manieth of these rows."""

    dy: str
    x: str
    conv: Convolution
    tile: tiles.Tile
    box: tuple[int, int, int]

    @property
    def packs(self) -> int:
        """How many packs of groups there are, each of which has programs of its own."""
        return cdiv(self.conv.c, self.tile.m)

    @property
    def blocks(self) -> RowTiles:
        """How many boxes there are, and what they cover."""
        return covering(self.box, (self.conv.h // self.conv.sh, self.conv.q))

    def split(self, state: Lowering) -> int:
        """Between how many programs each sum over boxes is dealt out."""
        boxes, conv = self.blocks.count.at(state.batch), self.conv
        return packed_gradient(self.packs, boxes, self.tile, (conv.r, conv.s), state.dtype, state.target).split

    def call(self, state: Lowering, store: Helper, split: int) -> Call:
        """The call of the template, with this function that stores."""
        conv, wide = self.conv, self.tile.m
        shape: tuple[int, ...] = (*conv.image, conv.c)
        box = (*images_last(self.box), wide)
        if conv.strided:  # every other row and column is an image of its own
            shape, box = _apart(conv), (self.box[1], 1, self.box[2], self.box[0], wide)
        dy = state.descriptor(self.dy, (*conv.result, conv.k), (*images_last(self.box), wide))
        x = state.descriptor(self.x, shape, box)
        assert dy and x, "both were asked for"
        constants = {name: conv.sizes[name] for name in ("C", "H", "K", "R", "S", "Q")}
        constants |= {"GROUPS": conv.groups, "SPLIT": split}
        constants |= dict(zip(("BOX_N", "BOX_H", "BOX_W"), self.box, strict=True))
        constants |= {"WIDE": wide, "BLOCK_M": tiles.BLOCK_OF_FILTERS, "BLOCK_N": self.tile.n}
        constants |= {key: value for key, value in conv.options.items() if key[0] in "SDP"}
        return Call("conv2d_wgrad_packs", [Pointer(dy, "dy"), Pointer(x, "x"), store, BATCH], constants)

    @property
    def moved(self) -> list[Traffic]:
        """What the template loads: dy once for each row of taps, unless two find the same box; x for each column."""
        conv, (high, wide) = self.conv, self.blocks.covered
        rows = moved(conv.p, high, {-((r * conv.dh - conv.pt) // conv.sh) for r in range(conv.r)})
        loaded, columns = columns_of_taps(conv, wide, self.tile.m)
        return [
            Traffic().load(self.dy, N * (len(rows) * conv.q * conv.k), len(set(rows)) / conv.p),
            Traffic().load(self.x, N * (conv.h * loaded), len(columns) / conv.w),
        ]


def _apart(conv: Convolution) -> tuple[int, ...]:
    """The shape of an image whose rows and columns are a stride apart, each of them an image of its own."""
    return conv.h // conv.sh, conv.sh, conv.w // conv.sw, conv.sw * conv.c


def packed_sums(state: Lowering, kernel: Kernel, conv: Convolution) -> PackedSums | None:
    """How the weight gradient of a grouped convolution is computed with its groups packed, or None where it is not.
    Its operands must lie in memory as they are multiplied, and the sums of all taps fit the registers."""
    if conv.groups == 1 or conv.c != conv.k or not state.describes or conv.c % 8:
        return None
    if conv.strided and not (divided(conv, False) and divided(conv, True)):
        return None
    tile = tiles.packed_sums(conv.c, conv.group_channels, conv.taps, conv.strided, state.target)
    operands = ((*conv.result, conv.k), (*conv.image, conv.c))
    if tile is None or not all(lies_alone(state, kernel, i, shape) for i, shape in enumerate(operands)):
        return None
    dy, x = (state.plan.storage(value) for value in kernel.anchor.inputs)
    box = tiles.box(tile.k, state.batch, conv.h // conv.sh, conv.q)
    return PackedSums(dy, x, conv, tile, box) if box else None
