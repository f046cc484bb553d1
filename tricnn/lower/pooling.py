"""Lowering of pooling and of its gradients: max (and the position of each maximum), average, global average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from ..machine.blocks import block
from . import traffic
from .body import Body
from .call import BATCH, Call, Helper, Pointer
from .call import blocks as blocks_of
from .convolution import Axis
from .epilogue import epilogue
from .kept_sums import kept_sums
from .lowering import Lowering, tile_grid
from .partial_sums import finish_sides, side_buffers
from .positions import At
from .size import N, at_most, cdiv


def _window(state: Lowering, node: Node, image: str, pooled: str) -> dict[str, int]:
    """The constants of the pooling templates, for a pooling of ``image`` to ``pooled``."""
    x, y = state.plan.type(image), state.plan.type(pooled)
    (h, w), (p, q) = x.spatial, y.spatial
    a = node.attrs
    r, s = a.get("kernel_size", (h, w))
    sh, sw = a.get("stride", (r, s))
    top, bottom, left, right = a.get("padding", (0, 0, 0, 0))
    c = {"C": x.channels, "H": h, "W": w, "R": r, "S": s, "P": p, "Q": q, "SH": sh, "SW": sw}
    if node.row.picks or node.row.index or node.row.from_window == "chosen":
        return {**c, "PT": top, "PL": left}
    include = a.get("count_include_pad", True)
    return {**c, "PT": top, "PB": bottom, "PL": left, "PR": right, "INCLUDE_PAD": include}


def _axes(c: dict[str, int]) -> tuple[Axis, Axis]:
    """Rows and columns of the image, with the windows along them, from those constants."""
    return Axis(c["H"], c["P"], c["R"], c["SH"], c["PT"]), Axis(c["W"], c["Q"], c["S"], c["SW"], c["PL"])


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a pooling: how many results each has, down and across (of a gradient's pixels as many strides)."""

    high: int
    wide: int

    @classmethod
    def of(cls, c: dict[str, int], gradient: bool = False) -> _Blocks:
        """The blocks of a pooling with those constants, or of its gradient."""
        return cls(*block((c["R"], c["S"]), (c["SH"], c["SW"]), c["P"], gradient))

    @property
    def several(self) -> bool:
        """Has a block several results?"""
        return self.high * self.wide > 1

    @property
    def size(self) -> tuple[int, int]:
        return self.high, self.wide

    @property
    def constants(self) -> dict[str, int]:
        """The constants of the templates of blocks."""
        return {"HIGH": self.high, "WIDE": self.wide} if self.several else {}

    def rule(self, channels: int) -> Callable[[int], tiles.Tile]:
        """The rule for tiles of such blocks."""
        return partial(tiles.in_blocks if self.several else tiles.elementwise, channels)

    def count(self, high: int, wide: int) -> int:
        """How many blocks an image has that is so many results, or strides, high and wide."""
        return cdiv(high, self.high) * cdiv(wide, self.wide)


def lower_pool(state: Lowering, kernel: Kernel) -> None:
    """Lower max_pool2d (and its index), avg_pool2d or global_avg_pool."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    constants = _window(state, node, node.inputs[0], node.name)
    c, image = constants["C"], (constants["H"], constants["W"])
    whole = "kernel_size" not in node.attrs  # all of the image
    blocks = _Blocks(1, 1) if whole else _Blocks.of(constants)
    rule = partial(tiles.whole, c, prod(image), state.batch, state.target) if whole else blocks.rule(c)
    tile = state.tile(name, kernel, node.op, constants, rule)
    load, store = state.body(kernel), state.body(kernel)
    load_x = load.load_function(f"{name}_load_x", node.inputs[0], c, "x")
    at = At("pixel", "channel", "mask", c)
    index = next((n for n in kernel.nodes if n.row.index), None)
    if index is not None:
        store.known[index.name, at] = "index"
        if index.name in kernel.writes:
            store.store(index.name, "index", at)
    store.scope.reserve("value", "index")
    if not node.row.index:
        epilogue(store, kernel, at, node.name, "value")
    is_max = node.row.picks or node.row.index
    head = "value, index, pixel, channel, mask, part, args" if is_max else "value, pixel, channel, mask, part, args"
    store_y = store.function(f"{name}_store_y", head, store.lines)
    template = f"{'max' if is_max else 'avg'}_pool2d{'_blocks' if blocks.several else ''}"
    mode = {"WHOLE": True} if whole else blocks.constants
    if whole:
        moved = traffic.pool_of_images(load, store, image, c, tile)
    elif blocks.several:
        moved = traffic.pool_blocks(load, store, _axes(constants), blocks.size, c, tile)
    else:
        moved = traffic.pool(load, store, _axes(constants), c, tile)
    places = blocks.count(constants["P"], constants["Q"])
    state.add(
        name,
        kernel,
        Call(template, [load_x, store_y, BATCH], {**constants, **blocks_of(tile), **mode}),
        (N * 1, cdiv(c, tile.n)) if whole else tile_grid(places, c, tile),
        tile,
        kind=node.op,
        flops=constants["R"] * constants["S"] * prod(plan.type(node.name).per_image),
        traffic=moved,
    )


@dataclass(frozen=True)
class _Gradient:
    """A pooling's gradient on its way to a call: its constants, and the functions that load dy and store dx."""

    constants: dict[str, int]
    load: Body
    load_dy: Helper
    store: Body
    store_dx: Helper

    @classmethod
    def of(cls, state: Lowering, kernel: Kernel, kept: bool) -> _Gradient:
        """The gradient that a kernel computes. If ``kept``, its programs keep the sums of what they store."""
        node, name = kernel.anchor, kernel.name
        constants = _window(state, node, node.name, node.inputs[0])
        c = constants["C"]
        load, store = state.body(kernel), state.body(kernel)
        load_dy = load.load_function(f"{name}_load_dy", node.inputs[0], c, "dy")
        store.terms = [] if kept else None
        epilogue(store, kernel, At("pixel", "channel", "mask", c), node.name, "acc")
        returned = [f"return {', '.join(store.terms)}"] if store.terms else []
        head = "acc, pixel, channel, mask, part, args"
        return cls(constants, load, load_dy, store, store.function(f"{name}_store_dx", head, [*store.lines, *returned]))


def lower_max_pool_grad(state: Lowering, kernel: Kernel) -> None:
    """Lower max_pool2d_grad: programs compute tile after tile of blocks of pixels."""
    node, name, gradient = kernel.anchor, kernel.name, _Gradient.of(state, kernel, kept=True)
    constants, c, blocks = gradient.constants, gradient.constants["C"], _Blocks.of(gradient.constants, gradient=True)
    tile = state.tile(name, kernel, node.op, constants, blocks.rule(c))
    index, columns = state.plan.storage(node.inputs[1]), cdiv(c, tile.n)
    places = blocks.count(cdiv(constants["H"], constants["SH"]), cdiv(constants["W"], constants["SW"]))
    programs = at_most(cdiv(N * places, tile.m), max(1, tiles.passing(state.target) // columns))
    sums = kept_sums(state, kernel, gradient.store, programs, c, tile, columns)
    operands = [gradient.load_dy, Pointer(index, "index"), gradient.store_dx, BATCH]
    wide = {**blocks.constants, **({"LONG": True} if state.wide else {})}
    moved = traffic.pool_grad_blocks(gradient.load, gradient.store, _axes(constants), blocks.size, c, tile, index)
    state.add(
        name,
        kernel,
        Call(node.op, operands, {**constants, **blocks_of(tile), **wide, **sums.constants}, sums.keywords),
        (programs, columns),
        tile,
        kind=node.op,
        flops=prod(state.plan.type(node.name).per_image),
        traffic=[*moved, *sums.moved],
        handed_on=sums.handed_on,
    )
    sums.launch(state, kernel)


def lower_avg_pool_grad(state: Lowering, kernel: Kernel) -> None:
    """Lower avg_pool2d_grad: each pixel, or block of pixels, gathers from the windows that cover it."""
    node, name, gradient = kernel.anchor, kernel.name, _Gradient.of(state, kernel, kept=False)
    constants, c, blocks = gradient.constants, gradient.constants["C"], _Blocks.of(gradient.constants, gradient=True)
    rows = constants["H"] * constants["W"]
    template, mode = node.op, {}
    if blocks.several and not any(n.row.side_sum == "stored" for n in kernel.nodes):
        template, mode = f"{node.op}_blocks", blocks.constants
        tile = state.tile(name, kernel, node.op, constants, blocks.rule(c))
        rows = blocks.count(cdiv(constants["H"], constants["SH"]), cdiv(constants["W"], constants["SW"]))
        moved = traffic.pool_grad_blocks(gradient.load, gradient.store, _axes(constants), blocks.size, c, tile)
    else:
        tile = state.pass_tile(name, kernel, node.op, constants, c)
        moved = traffic.pool_grad(gradient.load, gradient.store, _axes(constants), c, tile)
    parts = cdiv(N * rows, tile.m)
    side_buffers(state, gradient.store, parts, c)
    state.add(
        name,
        kernel,
        Call(template, [gradient.load_dy, gradient.store_dx, BATCH], {**constants, **blocks_of(tile), **mode}),
        tile_grid(rows, c, tile),
        tile,
        kind=node.op,
        flops=prod(state.plan.type(node.name).per_image),
        traffic=moved,
    )
    finish_sides(state, kernel, gradient.store, parts, c)
