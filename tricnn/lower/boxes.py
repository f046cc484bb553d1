"""Products of operands that lie in memory just as they are multiplied: they come in boxes, by tensor descriptors.

Two templates take them: `matmul_boxes` for dense layers and 1x1 convolutions, whose programs compute tile after tile,
and `conv2d_boxes` for larger ones with stride 1. Whatever else is multiplied is gathered, by generated functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import Body
from .lowering import Lowering, Parameter, as_tuple, call_text, everything_of
from .size import N, Size, at_most, cdiv

#: boxes begin at a multiple of 16 bytes: so many 16-bit numbers
ALIGNED = 8
GRADIENTS = ("conv2d_grad_input", "linear_grad_input")


def lies_alone(state: Lowering, kernel: Kernel, index: int, shape: tuple[int, ...]) -> bool:
    """Does the kernel compute nothing of an operand as it loads, and does that lie in memory by itself: a matrix of
    pixels (or rows) by channels, or images of a shape?"""
    plan, value = state.plan, state.plan.storage(kernel.anchor.inputs[index])
    apart = plan.place(value).buffer == value and plan.place(value).pitch in (shape[-1], plan.type(value).channel_count)
    return value not in kernel.by_name and apart and prod(plan.type(value).per_image) % prod(shape) == 0


def as_it_lies(
    state: Lowering, kernel: Kernel, index: int, shape: tuple[int, ...], box: tuple[int, ...]
) -> str | None:  # fmt: skip
    """A descriptor of such an operand."""
    value = state.plan.storage(kernel.anchor.inputs[index])
    return state.descriptor(value, shape, box) if lies_alone(state, kernel, index, shape) else None


def within(
    state: Lowering, kernel: Kernel, shape: tuple[int, ...], box: tuple[int, ...]
) -> tuple[str, int] | None:  # fmt: skip
    """The same of the first operand where it lies among other channels, boxes ending with its own: a descriptor of all
    of them, and the first channel of its own."""
    plan, value = state.plan, state.plan.storage(kernel.anchor.inputs[0])
    node = kernel.by_name.get(value)
    first = 0
    if node is not None and node.op == "slice_channels":
        first, value = node.attrs["start"], plan.storage(node.inputs[0])
    place = plan.place(value)
    first += place.offset
    if value in kernel.by_name or shape[-1] % box[-1] or first % ALIGNED or len(plan.type(value).shape) != 4:
        return None
    descriptor = state.descriptor(place.buffer, (*shape[:-1], place.pitch), box)
    return (descriptor, first) if descriptor else None


def weight_boxes(
    state: Lowering, weight: str, c: Mapping[str, int], options: Mapping[str, int], box: tuple[int, int]
) -> str | None:  # fmt: skip
    """A descriptor of weights, a matrix of filters by taps and channels, if no box reaches beyond a tap or group."""
    if "GROUPS" in options or (c["R"] * c["S"] > 1 and c["C"] % box[1]):
        return None
    return state.descriptor(weight, (c["R"] * c["S"] * c["C"],), box)


def pixel_by_pixel(c: Mapping[str, int], options: Mapping[str, int]) -> bool:
    """Is it a matrix product of pixels by channels: a dense layer, or a 1x1 convolution with no options?"""
    return c["R"] * c["S"] == 1 and not options and (c["H"], c["W"]) == (c["P"], c["Q"])


@dataclass(frozen=True)
class Boxes:
    """Both operands in boxes: descriptors of the image, of whose channels they are those from ``first`` on, and of the
    weights; the tile; and of the image that is computed, ``box`` = (images, rows, columns) of the pixels of a tile, or
    () where a tile is any rows of a matrix; then there are as many ``programs`` at most, each with tile after tile."""

    image: str
    first: int
    weight: str
    tile: tiles.Tile
    box: tuple[int, ...]
    result: tuple[int, int]
    columns: int
    programs: int
    gradient: bool

    @property
    def parts(self) -> Size:
        """How many tiles of rows."""
        if not self.box:
            return cdiv(N * prod(self.result), self.tile.m)
        images, height, width = self.box
        return cdiv(N, images) * (cdiv(self.result[0], height) * cdiv(self.result[1], width))

    @property
    def cover(self) -> traffic.Boxes:
        """The same, and the rows and columns of the image that they cover, those beyond it too."""
        height, width = self.box[1:] or (1, 1)
        return self.parts, (cdiv(self.result[0], height) * height, cdiv(self.result[1], width) * width)

    @property
    def grid(self) -> Size:
        """Where programs compute tile after tile, no more of them than fill the machine."""
        every = self.parts * cdiv(self.columns, self.tile.n)
        return every if self.box else at_most(every, self.programs)

    @property
    def corner(self) -> tuple[str, str] | None:
        """The first pixel and channel of a tile, if stores may be by descriptors."""
        return None if self.box else ("first_pixel", "first_channel")

    @property
    def head(self) -> str:
        """The parameters of the function that stores."""
        return ", ".join(["acc, pixel, channel, mask, part", *(self.corner or ()), "args"])

    def call(self, name: str, p: Parameter, store: Body, c: Mapping[str, int], g: Mapping[str, int]) -> str:
        """The template's call. The taps of a convolution lie ahead of the padding, those of its gradient behind it."""
        sign, renamed = (-1, {"C": "K", "K": "C", "P": "H", "Q": "W"}) if self.gradient else (1, {})
        axes = ("C", "K", "R", "S", "P", "Q") if self.box else ("C", "K")
        constants = {axis: c[renamed.get(axis, axis)] for axis in axes}
        rows = N if self.box else N * prod(self.result)
        if self.box:
            constants |= {"FIRST_H": -sign * g.get("PT", 0), "FIRST_W": -sign * g.get("PL", 0),
                          "STEP_H": sign * g.get("DH", 1), "STEP_W": sign * g.get("DW", 1),
                          **dict(zip(("BOX_N", "BOX_H", "BOX_W"), self.box, strict=True))}  # fmt: skip
        else:
            constants["BLOCK_M"] = self.tile.m
        constants |= {"BLOCK_N": self.tile.n, "BLOCK_K": self.tile.k}
        constants |= {key: value for key, value in (("X_FIRST", self.first), ("GRADIENT", self.gradient)) if value}
        arguments = [p(self.image), p(self.weight), name, as_tuple([p(b) for b in everything_of(store)]), str(rows)]
        return call_text("conv2d_boxes" if self.box else "matmul_boxes", arguments, constants)


def in_boxes(
    state: Lowering, kernel: Kernel, weight: str, c: Mapping[str, int], options: Mapping[str, int], tile: tiles.Tile
) -> Boxes | None:  # fmt: skip
    """Both operands in boxes, if they are multiplied as they lie in memory, with stride 1, and boxes waste little."""
    gradient = kernel.anchor.op in GRADIENTS
    depth, columns = ("K", "C") if gradient else ("C", "K")
    image, result = (c["H"], c["W"]), (c["P"], c["Q"])
    image, result = (result, image) if gradient else (image, result)
    box: tuple[int, ...] | None = ()
    shape: tuple[int, ...] = (c[depth],)
    if not pixel_by_pixel(c, options):
        if c["R"] * c["S"] == 1 or {"SH", "SW", "GROUPS", "WINDOW_H"} & options.keys():
            return None
        box, shape = tiles.box(tile.m, state.batch, *result), (*image, c[depth])
    alone = lies_alone(state, kernel, 0, shape)
    # A box must not reach into the next tap, or into other channels: so many as divide them, a power of two.
    k = tile.k if alone and not box else min(tile.k, c[depth] & -c[depth])
    if box is None or k < min(32, c[depth]) or min(k, c[depth]) < 16:
        return None
    weights = weight_boxes(state, weight, c, options, (k, tile.n) if gradient else (tile.n, k))
    if weights is None:
        return None
    boxed = (*(box or (tile.m,)), k)
    whole = as_it_lies(state, kernel, 0, shape, boxed)
    place = (whole, 0) if whole else within(state, kernel, shape, boxed)
    tile = tiles.Tile(tile.m, tile.n, k, tile.warps, tile.stages)
    programs = tiles.programs(state.target)
    return Boxes(*place, weights, tile, box, result, c[columns], programs, gradient) if place else None
