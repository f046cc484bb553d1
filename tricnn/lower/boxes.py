"""Products of operands that lie in memory just as they are multiplied: they come in boxes, by tensor descriptors.

Six templates take them: `matmul_boxes` for dense layers and 1x1 convolutions, whose programs compute tile after tile;
for larger ones of few channels `conv2d_rows`, whose programs go down images row by row; `conv2d_packs` for groups with
a stride; `conv2d_streams`, where programs compute tile after tile, if they have a stride, or leave sums which they have
registers for; `conv2d_boxes` for all others; `conv2d_wgrad_boxes` for the gradients by their weights. Whatever else is
multiplied is gathered, by generated functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from ..machine.long_sums import beside_one_another
from ..machine.targets import TARGETS
from .call import BATCH, Call, Helper, InBoxes, Operand, Pointer, Text
from .convolution import Convolution
from .lowering import ALIGNED, Lowering
from .runs import Taken, by_rows
from .size import N, Size, at_most, cdiv
from .traffic import RowTiles

#: up to so many columns a forward product's programs stay where they leave sums; those of more columns do so up to so
#: many terms of a product, beyond which the end of a tile counts for little (by simulation: 3x3 of 512 channels)
MOST_KEPT, MOST_TERMS = 64, 9 * 256


def lying(
    state: Lowering, kernel: Kernel, index: int, shape: tuple[int, ...]
) -> tuple[str, int, tuple[int, int]] | None:
    """Where an operand of the anchor lies: a buffer, how many channels its pixels have, and (first, count) of its own.
    It is a matrix of pixels (or rows) by channels, or images of this shape. None where it is computed as it is loaded,
    or its channels begin where no bulk copy may."""
    plan, value = state.plan, state.plan.storage(kernel.anchor.inputs[index])
    node, first = kernel.by_name.get(value), 0
    whole = plan.type(value)
    if node is not None and node.row.cuts:
        first, value = node.attrs["start"], plan.storage(node.inputs[0])
    place = plan.place(value)
    first += place.offset
    if value in kernel.by_name or first % ALIGNED or shape[-1] % ALIGNED or prod(whole.per_image) % prod(shape):
        return None
    if place.buffer == value and place.pitch in (shape[-1], whole.channel_count):
        return place.buffer, shape[-1], (0, shape[-1])
    amid = len(whole.shape) == 4 and shape[-1] == whole.channel_count and place.pitch % ALIGNED == 0
    return (place.buffer, place.pitch, (first, shape[-1])) if amid else None


def lies_alone(state: Lowering, kernel: Kernel, index: int, shape: tuple[int, ...]) -> bool:
    """Whether an operand of the anchor lies as it is multiplied, with no other channels beside its own."""
    found = lying(state, kernel, index, shape)
    return found is not None and found[1] == shape[-1]


def as_it_lies(state: Lowering, kernel: Kernel, index: int, shape: tuple[int, ...], box: tuple[int, ...]) -> str | None:
    """A descriptor of the anchor's operand as images or rows of this shape, if boxes of it can come as it lies."""
    found = lying(state, kernel, index, shape)
    if found is None:
        return None
    buffer, pitch, channels = found
    return state.descriptor(buffer, (*shape[:-1], pitch), box, channels)


def weight_boxes(
    state: Lowering, weight: str, conv: Convolution, box: tuple[int, int], *, padded: bool = False
) -> str | None:
    """A descriptor of weights, a matrix of filters by taps and channels, if no box reaches beyond a tap or group.
    Where the last box of a tap's channels may be ``padded`` with zeros, every tap is a row of a filter instead."""
    if conv.groups > 1:
        return None
    if conv.taps == 1 or conv.c % box[1] == 0:
        return state.descriptor(weight, (conv.taps * conv.c,), box)
    return state.descriptor(weight, (conv.taps, conv.c), (box[0], 1, box[1])) if padded else None


@dataclass(frozen=True)
class Boxes:
    """A product whose weights come in boxes, and its other operand too, or each of its tiles is computed of such.
    ``image`` and ``weight`` are descriptors, ``image`` None where it is computed. ``box`` = (images, rows, columns) are
    the pixels of a tile, or () where a tile is any rows of a matrix. Where programs stay (``stays``), each computes
    tile after tile of the same columns, and there are at most ``programs`` of them, or one for each of the columns'
    tiles. The columns of such a tile are stored in so many ``pieces``. ``rowwise`` is how `conv2d_rows` computes it,
    where that does; ``packed``: `conv2d_packs` does."""

    image: str | None
    weight: str
    tile: tiles.Tile
    box: tuple[int, ...]
    conv: Convolution
    gradient: bool
    stays: bool
    programs: int
    pieces: int
    rowwise: Taken | None = None
    packed: bool = False

    @property
    def small(self) -> bool:
        """Whether tiles are those of packed groups, so small that four programs share a multiprocessor."""
        return self.rowwise is not None and self.conv.groups > 1 and self.tile.n <= tiles.PACKED

    @property
    def result(self) -> tuple[int, int]:
        """Rows and columns of the image that is computed."""
        return self.conv.image if self.gradient else self.conv.result

    @property
    def rows(self) -> RowTiles:
        """How many tiles of rows there are (of one residue class of pixels), and what those of all classes cover."""
        if not self.box:
            return RowTiles(cdiv(N * prod(self.result), self.tile.m), self.result)
        high, wide = self.apart
        rows = covering(self.box, (cdiv(self.result[0], high), cdiv(self.result[1], wide)))
        return replace(rows, covered=(rows.covered[0] * high, rows.covered[1] * wide))

    @property
    def apart(self) -> tuple[int, int]:
        """How many rows and columns lie from one pixel of a box to the next one, in the image that is computed."""
        return (self.conv.sh, self.conv.sw) if self.gradient else (1, 1)

    @property
    def parts(self) -> Size:
        """In how many parts sums over all pixels are left: one for each box, or for each stream of tiles."""
        tiles = self.rows.count if self.packed else self.rows.count * prod(self.apart)
        return at_most(tiles, max(1, self.programs // self.column_tiles)) if self.stays else tiles

    @property
    def grid(self) -> tuple[Size]:
        """One program for each tile, or for each stream of tiles."""
        return (self.parts * self.column_tiles,)

    @property
    def column_tiles(self) -> int:
        """How many tiles there are beside one another, of all columns."""
        if self.rowwise:
            return self.rowwise.packs
        return cdiv(self.conv.c if self.gradient else self.conv.k, self.tile.n)

    @property
    def corner(self) -> tuple[str, ...] | None:
        """The names of a tile's first pixel and channel, if it may be loaded and stored by a descriptor.
        The first pixel of a box has an image, a row and a column."""
        if not self.stays or self.apart != (1, 1):
            return None
        return ("first_p", "first_q", "first_n", "first_channel") if self.box else ("first_pixel", "first_channel")

    @property
    def whole(self) -> bool:
        """Whether no tile has columns that are the next one's."""
        return self.rowwise is None or self.rowwise.packs == 1 or self.rowwise.columns == self.tile.n

    @property
    def stored(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and box, but for channels, of the descriptors by which tiles with a corner are loaded and stored."""
        return (self.result, images_last(self.box)) if self.box else ((), (self.tile.m,))

    @property
    def head(self) -> str:
        """The parameters of the function that stores."""
        return ", ".join(["acc, pixel, channel, mask, part", *(self.corner or ()), "args"])

    def call(self, store: Helper, load: Operand, **keywords: Helper) -> Call:
        """The call of `conv2d_boxes` or `matmul_boxes`, with the function ``store`` that stores.
        Where the image does not come in boxes, ``load`` loads it."""
        rows = N if self.box else N * prod(self.result)
        stem = "dy" if self.gradient else "x"
        operands: list[Operand] = [Pointer(self.weight, "weight"), store, Text(str(rows))]
        if self.image is None:
            operands.insert(0, load)
        else:
            operands.insert(0, (Pointer if self.box else InBoxes)(self.image, stem))
        template = "conv2d_streams" if self.stays else "conv2d_boxes"
        if self.rowwise:
            options = {key: True for key, value in (("GRADIENT", self.gradient),) if value}
            return Call("conv2d_rows", operands, {**self.rowwise.constants, **options}, keywords)
        if self.packed:
            options = {key: True for key, value in (("GRADIENT", self.gradient),) if value}
            return Call("conv2d_packs", operands, {**self._packs(), **options}, keywords)
        if self.box:
            constants = {**self._axes("C", "K", "R", "S", "P", "Q"), **_named(self.box)}
            constants |= self._strided() if self.stays else self._moved()
        else:
            template, constants = "matmul_boxes", {**self._axes("C", "K"), "BLOCK_M": self.tile.m}
        constants |= {"BLOCK_N": self.tile.n, "BLOCK_K": self.tile.k}
        constants |= {"GRADIENT": True} if self.gradient else {}
        constants |= {"PIECES": self.pieces} if self.pieces > 1 else {}
        return Call(template, operands, constants, keywords)

    def _axes(self, *names: str) -> dict[str, int]:
        """The constants of a convolution for a template of one direction: a gradient's image is its result."""
        renamed = {"C": "K", "K": "C", "P": "H", "Q": "W"} if self.gradient else {}
        return {name: self.conv.sizes[renamed.get(name, name)] for name in names}

    def _moved(self) -> dict[str, int]:
        """How far the boxes of taps are moved, for `conv2d_boxes`.
        The taps of a convolution lie ahead of the padding, those of its gradient behind it."""
        conv, sign = self.conv, -1 if self.gradient else 1
        first = {"FIRST_H": -sign * conv.pt, "FIRST_W": -sign * conv.pl}
        return {**first, "STEP_H": sign * conv.dh, "STEP_W": sign * conv.dw}

    def _strided(self) -> dict[str, int]:
        """Stride, dilation and padding, for `conv2d_streams`."""
        return {key: value for key, value in self.conv.options.items() if key[0] in "SDP"}

    def _packs(self) -> dict[str, int]:
        """The constants of `conv2d_packs`."""
        blocks = {"WIDE": self.tile.n, "BLOCK": self.tile.k}
        sizes = {**self._axes("C", "R", "S", "P", "Q"), "GROUPS": self.conv.groups, **_named(self.box)}
        return {**sizes, **blocks, **self._strided()}

    @property
    def repeats(self) -> int:
        """How often the warps of `conv2d_streams` take 16 rows each, so that sums of a thread's rows stay with it.
        It is 0 for 128 columns on 8 warps, which have no registers for such sums."""
        return 0 if self.tile.warps > 4 and self.tile.n > 64 else max(1, self.tile.m // (16 * self.tile.warps))


def images_last(box: tuple[int, ...]) -> tuple[int, ...]:
    """A box of (images, rows, columns) in the order that descriptors have of images: rows, columns, images."""
    return (*box[1:], box[0])


def _named(box: tuple[int, ...]) -> dict[str, int]:
    """The constants by which templates know a box of (images, rows, columns)."""
    return dict(zip(("BOX_N", "BOX_H", "BOX_W"), box, strict=True))


def covering(box: tuple[int, ...], spatial: tuple[int, int]) -> RowTiles:
    """How many boxes of (images, rows, columns) cover all images of a size, and the rows and columns they cover."""
    images, *extents = box
    high, wide = (cdiv(size, extent) for size, extent in zip(spatial, extents, strict=True))
    return RowTiles(cdiv(N, images) * (high * wide), (high * extents[0], wide * extents[1]))


def going_down(state: Lowering, kernel: Kernel, conv: Convolution) -> Taken | None:
    """How `conv2d_rows` computes a product, or None where another template does.
    Its image must lie in memory as it is multiplied, with all its channels, and filters must come in boxes."""
    gradient = kernel.anchor.row.product == "by_input"
    image, depth, columns = (conv.result, conv.k, conv.c) if gradient else (conv.image, conv.c, conv.k)
    operand = state.plan.storage(kernel.anchor.inputs[0])
    beside = sum(value != operand and state.plan.type(value).batched for value in kernel.reads)
    if not state.describes or not lying(state, kernel, 0, (*image, depth)) or columns % ALIGNED:
        return None
    return by_rows(conv, gradient, beside, state.batch, state.target)


def rowwise(state: Lowering, kernel: Kernel, weight: str, taken: Taken, conv: Convolution) -> Boxes | None:
    """The product as `conv2d_rows` computes it, with its operands in boxes."""
    gradient, own, tile = kernel.anchor.row.product == "by_input", taken.conv, taken.tile
    boxed = (*images_last(taken.box), tile.k if own.groups > 1 else own.c)
    whole = as_it_lies(state, kernel, 0, (*own.image, own.c), boxed)
    weights: str | None = weight
    if conv.groups == 1:
        weights = weight_boxes(state, weight, conv, (own.c, tile.n) if gradient else (tile.n, own.c))
    if whole is None or weights is None:
        return None
    return Boxes(whole, weights, tile, taken.box, conv, gradient, True, taken.programs * taken.packs, 1, taken)


def in_packs(state: Lowering, kernel: Kernel, conv: Convolution) -> tiles.Tile | None:
    """The tile with which `conv2d_packs` computes a product, or None where another template does.
    The product has groups and a stride, and its image lies in memory as it is multiplied."""
    gradient = kernel.anchor.row.product == "by_input"
    image = conv.result if gradient else conv.image
    if conv.groups == 1 or conv.c != conv.k or not conv.strided or conv.pooled or (conv.dh, conv.dw) != (1, 1):
        return None
    if not state.describes or not divided(conv, gradient) or not lies_alone(state, kernel, 0, (*image, conv.c)):
        return None
    return tiles.packs(conv.c, conv.group_channels, conv.taps, state.target)


def packwise(state: Lowering, kernel: Kernel, weight: str, tile: tiles.Tile, conv: Convolution) -> Boxes | None:
    """The product as `conv2d_packs` computes it, with its image in boxes."""
    gradient = kernel.anchor.row.product == "by_input"
    apart = cdiv(conv.h, conv.sh), cdiv(conv.w, conv.sw)
    box = tiles.box(tile.m, state.batch, *(apart if gradient else conv.result))
    if box is None:
        return None
    if gradient:
        whole = as_it_lies(state, kernel, 0, (*conv.result, conv.k), (*images_last(box), tile.n))
    else:  # every other row and column is an image of its own
        shape = (apart[0], conv.sh, apart[1], conv.sw * conv.c)
        whole = as_it_lies(state, kernel, 0, shape, (box[1], 1, box[2], box[0], tile.n))
    programs = tiles.multiprocessors(state.target) * tiles.PACKS_TOGETHER
    return Boxes(whole, weight, tile, box, conv, gradient, True, programs, 1, packed=True) if whole else None


def in_boxes(state: Lowering, kernel: Kernel, weight: str, conv: Convolution, tile: tiles.Tile) -> Boxes | None:
    """The product with operands in boxes, or None where that cannot be, or would waste much.
    Operands must be multiplied as they lie in memory. Where each row of the result is made of one row of the image, the
    image may be computed."""
    gradient = kernel.anchor.row.product == "by_input"
    taken = going_down(state, kernel, conv)
    if taken and replace(tile, stages=taken.tile.stages) == taken.tile:
        return rowwise(state, kernel, weight, replace(taken, tile=tile), conv)
    packs = in_packs(state, kernel, conv)
    if packs and replace(tile, stages=packs.stages) == packs:
        return packwise(state, kernel, weight, tile, conv)
    image, result, depth = conv.image, conv.result, conv.c
    if gradient:
        image, result, depth = conv.result, conv.image, conv.k
    box: tuple[int, ...] | None = ()
    shape: tuple[int, ...] = (depth,)
    sums = any(n.row.side_sum == "stored" for n in kernel.nodes)
    operand = state.plan.storage(kernel.anchor.inputs[0])
    beside = sum(value != operand and state.plan.type(value).batched for value in kernel.reads)
    few = tile.n <= MOST_KEPT or conv.taps * depth <= MOST_TERMS
    stays = conv.pixel_by_pixel or conv.strided or (sums and (gradient or few))
    if not conv.pixel_by_pixel:
        if conv.groups > 1 or conv.pooled or not (divided(conv, gradient) if conv.strided else conv.taps > 1):
            return None
        shape = (*image, depth)
        if gradient:
            result = cdiv(result[0], conv.sh), cdiv(result[1], conv.sw)
        box = tiles.box(tile.m, state.batch, *result, of_images=True)
    # Boxes end with the operand's channels: beyond them are zeros. But where rows and columns of a stride are images
    # of their own, the next column's channels are, and boxes have so many as divide them, a power of two.
    padded = not conv.strided or gradient
    k = tile.k if not box else tiles.step(depth, tile.k) if padded else min(tile.k, depth & -depth)
    if box is None or k < min(32, depth) or min(k, depth) < 16:
        return None
    weights = weight_boxes(state, weight, conv, (k, tile.n) if gradient else (tile.n, k), padded=gradient or padded)
    if weights is None:
        return None
    boxed = (*images_last(box), k) if box else (tile.m, k)
    if box and conv.strided and not gradient:  # every other row and column is an image of its own
        shape = (image[0] // conv.sh, conv.sh, image[1] // conv.sw, conv.sw * depth)
        boxed = (box[1], 1, box[2], box[0], k)
    whole = as_it_lies(state, kernel, 0, shape, boxed)
    if whole is None and box:
        return None
    tile = tiles.Tile(tile.m, tile.n, k, tile.warps, tile.stages)
    pieces = tiles.pieces(tile.n, state.form(kernel.name).smaller) if stays else 1
    if 0 < (conv.c if gradient else conv.k) % tile.n <= tile.n // 2:
        pieces = 1  # a piece of the last tile would lie wholly beyond the columns
    alone = tile.warps > 4 and beside > 0 if box else tiles.alone(tile)
    programs = (tiles.multiprocessors if alone else tiles.programs)(state.target)
    return Boxes(whole, weights, tile, box, conv, gradient, stays, programs, pieces)


def divided(conv: Convolution, gradient: bool) -> bool:
    """Whether the image of a convolution with a stride can be seen as images of every other row and column.
    Forward its size is a multiple of the stride; in the gradient each of them has taps, and neighbours one row of
    taps."""
    if gradient:
        return conv.r >= conv.sh and conv.s >= conv.sw and (conv.dh, conv.dw) == (1, 1)
    return conv.h % conv.sh == 0 and conv.w % conv.sw == 0


def sums_in_boxes(state: Lowering, kernel: Kernel, conv: Convolution) -> bool:
    """Whether dy and x of a weight gradient can both come in boxes of pixels.
    They can if they are multiplied as they lie, in a convolution of several taps with stride 1. Where tiles of 64 would
    have half as many zeros as a tap has channels, as of 80, tiles that reach into the next tap multiply less."""
    padded = 0 if conv.c % 32 == 0 else -conv.c % 64
    if conv.taps == 1 or conv.strided or conv.groups > 1 or conv.c < 32 or 2 * padded > conv.c:
        return False
    described = TARGETS[state.target].bulk_copies and state.storage != "fp32"
    dy, x = ((*conv.result, conv.k), (*conv.image, conv.c))
    return described and bool(lying(state, kernel, 0, dy) and lying(state, kernel, 1, x))


@dataclass(frozen=True)
class SummedBoxes:
    """A weight gradient whose operands both come in boxes.
    ``dy`` and ``x`` are their descriptors, ``box`` = (images, rows, columns) the boxes that are summed over. A program
    has so many tiles of columns ``beside`` one another, for all of which it loads dy once."""

    dy: str
    x: str
    box: tuple[int, ...]
    tile: tiles.Tile
    conv: Convolution
    beside: int

    @property
    def blocks(self) -> RowTiles:
        """How many boxes there are, and what they cover."""
        return covering(self.box, self.conv.result)

    def call(self, store: Helper, store_bias: tuple[Operand, ...], split: int, bias: bool) -> Call:
        """The call of `conv2d_wgrad_boxes`, with these functions that store the gradients of weight and ``bias``."""
        names = ("C", "K", "R", "S", "P", "Q")
        placed = {key: value for key, value in self.conv.options.items() if key in ("DH", "DW", "PT", "PL")}
        constants = {name: self.conv.sizes[name] for name in names} | placed | {"SPLIT": split} | _named(self.box)
        constants |= {"BLOCK_M": self.tile.m, "BLOCK_N": self.tile.n}
        constants |= {"BESIDE": self.beside} if self.beside > 1 else {}
        constants |= {"BIAS": True} if bias else {}
        operands = [Pointer(self.dy, "dy"), Pointer(self.x, "x"), store, *store_bias, BATCH]
        return Call("conv2d_wgrad_boxes", operands, constants)


def summed_boxes(
    state: Lowering, kernel: Kernel, conv: Convolution, tile: tiles.Tile, bias: bool
) -> SummedBoxes | None:
    """A weight gradient with both operands in boxes, or None where that cannot be, or would waste much.
    :func:`sums_in_boxes` says where it cannot be. With a ``bias`` programs of their own add up dy, which is worth it
    where others have several tiles beside one another (by simulation: 97 us and 101 for one of 128x128)."""
    box = tiles.box(tile.k, state.batch, *conv.result, of_images=True)
    if box is None or not sums_in_boxes(state, kernel, conv):
        return None
    dy = as_it_lies(state, kernel, 0, (*conv.result, conv.k), (*images_last(box), tile.m))
    x = as_it_lies(state, kernel, 1, (*conv.image, conv.c), (*images_last(box), tile.n))
    beside = beside_one_another(tile, conv.taps * cdiv(conv.c, tile.n), state.target)
    return SummedBoxes(dy, x, box, tile, conv, beside) if dy and x and not (bias and beside == 1) else None
