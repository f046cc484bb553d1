"""Lowering of a network's first convolution, which reads an image of few channels: windows that overlap, in boxes.

A row of a filter meets, at each pixel of the result, one run of an image's row: taps by channels. Where the image has
zeros beside it in memory (:class:`Packing`), a tensor descriptor of all these windows needs no padding and no address
of any pixel. The host's copy of a batch to the device puts the images amid the zeros, so that this is no pass of its
own; and of whom reads an input all must do it in this way. Where a kernel makes the image, of bytes, it is this kernel
that puts it there, and writes the zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import gcd, lcm, prod

import numpy as np

from ..compiler.plan import Kernel, Plan
from ..ir.graph import Node
from ..machine import tiles, tuned_files, window_tiles
from ..machine.targets import TARGETS
from ..machine.tiles import Problem
from . import traffic
from .call import BATCH, NOTHING, Call, Pointer, blocks, helper
from .contractions import stored_product, wgrad_results
from .convolution import Convolution
from .filters import finish_weight_gradient, found_by_filter
from .kept_sums import kept_sums
from .lowering import Lowering
from .partial_sums import PartialResults
from .positions import At
from .program import Packing
from .size import N, Size, at_most, cdiv, images
from .traffic import RowTiles, Traffic

#: boxes begin at multiples of 16 bytes, and so do rows: so many numbers of 16 bits
ALIGNED = 8
#: the longest window: a row of 128 bytes in shared memory
DEEPEST = 64


@dataclass(frozen=True)
class Windows:
    """A convolution's windows in a packed image.
    ``step``: elements between two of them. They may begin anywhere, boxes at multiples of :data:`ALIGNED`: so
    ``phases`` of them take turns that begin equally far behind one, and of each ``depth`` elements are multiplied, some
    of them before or behind the taps."""

    conv: Convolution
    step: int
    phases: int
    depth: int

    @property
    def columns(self) -> int:
        """How many windows of one phase a row has."""
        return cdiv(self.conv.q, self.phases)

    def first(self, packing: Packing) -> int:
        """Where in the first window of a row its first tap is."""
        return packing.left - self.conv.pl * self.conv.c

    def described(self, packing: Packing) -> tuple[int, int]:
        """The size of a descriptor's windows, in which those of all phases lie, and the step from one to the next."""
        return max(self.begins(packing)) + self.depth, self.phases * self.step

    def begins(self, packing: Packing) -> list[int]:
        """For each phase, the element of a descriptor's window at which its box begins."""
        return [(self.first(packing) + phase * self.step) // ALIGNED * ALIGNED for phase in range(self.phases)]

    def packing(self, left: int = 0) -> Packing:
        """The least memory for an image that these windows can be read from, with at least so many zeros before it."""
        conv = self.conv
        least = Packing(cdiv(conv.h, conv.sh) * conv.sh, 0, max(left, conv.pl * conv.c))
        size, step = self.described(least)
        pitch = max(size + (self.columns - 1) * step, least.left + conv.w * conv.c)
        return replace(least, pitch=cdiv(pitch, ALIGNED) * ALIGNED)

    def constants(self, packing: Packing, box: tuple[int, int, int], tile: tiles.Tile) -> dict[str, int]:
        """The constants of the templates that read windows."""
        conv = self.conv
        sizes = {name: conv.sizes[name] for name in "CKRSPQ"}
        rows = {"SH": conv.sh, "DH": conv.dh, "PT": conv.pt}
        where = {"FIRST": self.first(packing), "STEP": self.step, "PHASES": self.phases}
        boxes = dict(zip(("BOX_N", "BOX_P", "BOX_Q"), box, strict=True))
        return {**sizes, **rows, **where, **boxes, "BLOCK_N": tile.n, "DEPTH": self.depth}

    def tiles(self, box: tuple[int, int, int]) -> RowTiles:
        """The tiles of pixels."""
        _, p, q = box
        high, wide = cdiv(self.conv.p, p), cdiv(self.columns, q)
        return RowTiles(self.places(box) * self.phases, (high * p, wide * q * self.phases))

    def places(self, box: tuple[int, int, int]) -> Size:
        """How many tiles each phase has."""
        n, p, q = box
        return cdiv(N, n) * (cdiv(self.conv.p, p) * cdiv(self.columns, q))

    def traffic(self, buffer: str, packing: Packing, box: tuple[int, int, int], rows: int, repeats: int) -> Traffic:
        """What boxes load of the image: of ``rows`` rows of taps, for each of ``repeats`` tiles of filters."""
        conv, (_, p, q) = self.conv, box
        size, step = self.described(packing)
        outputs = np.arange(cdiv(conv.p, p) * p)
        at = np.add.outer(outputs * conv.sh, np.arange(rows) * conv.dh - conv.pt)
        at = at[(at >= 0) & (at < packing.rows)]
        windows = min(cdiv(self.columns, q) * q, (packing.pitch - size) // step + 1)
        starts = np.add.outer(np.arange(windows) * step, self.begins(packing))
        seen = np.unique(np.add.outer(starts.ravel(), np.arange(self.depth))).size
        loaded = at.size * windows * self.phases * self.depth * repeats
        return Traffic().load(buffer, N * loaded, np.unique(at).size / packing.rows * (seen / packing.pitch))


def windows_of(conv: Convolution, target: str) -> Windows | None:
    """How a convolution reads an image as windows; None where it cannot.
    It can if channels are few, the taps of a row lie side by side, and its weights fit in shared memory."""
    step = conv.sw * conv.c
    depth = max(16, tiles.power_of_two(conv.s * conv.c + ALIGNED - gcd(ALIGNED, step)))
    if depth > DEEPEST or conv.c >= 16 or conv.dw > 1 or conv.groups > 1 or conv.pooled:
        return None
    if window_tiles.windows(conv.k, conv.r, depth, TARGETS[target].shared_limit) is None:
        return None
    return Windows(conv, step, ALIGNED // gcd(ALIGNED, step), depth)


def packed_images(plan: Plan, dtype: str, batch: int, target: str) -> Mapping[str, Packing]:
    """The images that only convolutions read, and only as windows; with the memory that all of them can read from.
    They are inputs, or what a kernel makes of an input of bytes."""
    found = {}
    for node in (*plan.graph.inputs, *(k.by_name[k.writes[0]] for k in plan.kernels if _makes_image(plan, k))):
        readers = [kernel for kernel in plan.kernels if node.name in map(plan.storage, kernel.reads)]
        ways = [_reads_windows(plan, kernel, node, dtype, batch, target) for kernel in readers]
        if readers and None not in ways and node.name not in plan.graph.results and not plan.type(node.name).is_weight:
            found[node.name] = _common(way for way in ways if way)
    return found


def _makes_image(plan: Plan, kernel: Kernel) -> bool:
    """Does a kernel do nothing but make an image of bytes that were given?"""
    given = {n.name for n in plan.graph.inputs if plan.type(n.name).dtype == "uint8"}
    read = [v for v in kernel.reads if plan.type(v).batched]
    if not kernel.anchor.row.chains or not read or not given.issuperset(read) or len(kernel.writes) > 1:
        return False
    (image,) = kernel.writes
    return image not in plan.within and image not in plan.views.values()


def _common(ways: Iterable[Windows]) -> Packing:
    """The least memory for an image from which several convolutions can read their windows."""
    ways = list(ways)
    left = max(way.packing().left for way in ways)
    each = [way.packing(left) for way in ways]
    divided = lcm(*(way.conv.sh for way in ways))  # as many rows as every stride divides
    return Packing(cdiv(ways[0].conv.h, divided) * divided, max(p.pitch for p in each), left)


def _reads_windows(plan: Plan, kernel: Kernel, image: Node, dtype: str, batch: int, target: str) -> Windows | None:
    """How a kernel reads an input as windows, or None where it does not.
    It does not if it reads the input otherwise too, or a tile is given for every function of it, and so gathers."""
    node, value = kernel.anchor, image.name
    operand = {"forward": 0, "by_weight": 1}.get(node.row.product or "")
    if operand is None or not node.row.over_images or plan.type(value).dtype != "float":
        return None
    readers = [n for n in kernel.nodes if value in map(plan.storage, n.inputs)]
    if readers != [node] or [plan.storage(v) for v in node.inputs].count(value) > 1 or value in kernel.writes:
        return None
    if plan.storage(node.inputs[operand]) != value or len(plan.type(node.inputs[operand]).shape) != 4:
        return None
    conv = Convolution.of(plan, node, kernel.window)
    windows, problem = windows_of(conv, target), Problem.of(target, node.op, dtype, {"N": batch, **conv.constants})
    if windows is None or tiles.box(64, batch, conv.p, windows.columns) is None:
        return None
    gathered = any(not entry.functions for entry in tuned_files.lookup(problem))  # those of functions gather elsewhere
    return None if gathered else windows


def _box(windows: Windows, tile: tiles.Tile, batch: int) -> tuple[tuple[int, int, int], tiles.Tile]:
    """The box of a tile's pixels; of fewer of them where too many would lie outside the image."""
    while (box := tiles.box(tile.m, batch, windows.conv.p, windows.columns)) is None:
        tile = replace(tile, m=tile.m // 2)
    return box, tile


def lower_windows(state: Lowering, kernel: Kernel) -> None:
    """Lower conv2d of a packed input."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node)
    windows = windows_of(conv, state.target)
    form = state.form(name)
    assert windows is not None
    limit, pixels = TARGETS[state.target].shared_limit, state.batch * conv.p * conv.q
    tile = window_tiles.windows(conv.k, conv.r, windows.depth, limit, form.smaller, pixels=pixels, target=state.target)
    assert tile is not None
    box, tile = _box(windows, tile if form.pipelined else replace(tile, stages=1), state.batch)
    x, packing = _described(state, windows, state.plan.storage(node.inputs[0]), (*box, windows.depth))
    weight, rows = state.multiplied(node.inputs[1]), windows.tiles(box)
    store = state.body(kernel)
    store.terms = []
    stores = stored_product(store, kernel, At("pixel", "channel", "mask", conv.k), "conv", f"{name}_store_y")
    columns = cdiv(conv.k, tile.n)
    programs = at_most(windows.places(box), max(1, tiles.programs(state.target) // windows.phases)) * windows.phases
    lanes = ((0, columns * tile.n),)
    y = traffic.Calls((1,) * conv.p, (1,) * conv.q, rows.count, lanes)
    sums = kept_sums(state, kernel, store, programs, conv.k, tile, columns)
    operands = [Pointer(x, "x"), Pointer(weight, "weight"), stores, BATCH]
    constants = {**windows.constants(packing, box, tile), **sums.constants}
    state.add(
        name,
        kernel,
        Call("conv2d_windows", operands, constants, sums.keywords),
        (programs, columns),
        tile,
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[
            windows.traffic(state.plan.storage(node.inputs[0]), packing, box, conv.r, columns),
            y.of(store),
            traffic.loads(weight, programs * prod((conv.k, conv.taps, conv.c))),
            *sums.moved,
        ],
        handed_on=sums.handed_on,
    )
    sums.launch(state, kernel)


def lower_windows_wgrad(state: Lowering, kernel: Kernel) -> None:
    """Lower conv2d_grad_weight of a packed input, with the bias gradient as a side sum.
    Partial sums of both lie side by side, and one more launch adds them in order."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node)
    windows = windows_of(conv, state.target)
    form = state.form(name)
    assert windows is not None
    tile, taken = window_tiles.windows_wgrad(conv.k, conv.r, windows.depth, form.smaller)
    box, tile = _box(windows, tile if form.pipelined else replace(tile, stages=1), state.batch)
    image = state.plan.storage(node.inputs[1])
    x, packing = _described(state, windows, image, (*box, windows.depth))
    load = state.body(kernel)
    bias = next((n for n in kernel.nodes if n.row.side_sum == "loaded"), None)
    rows, parts, columns = windows.tiles(box), cdiv(conv.r, taken), cdiv(conv.k, tile.n)
    dy = load.load_multiplied(f"{name}_load_dy", node.inputs[0], conv.k, "dy", zeros=bias is not None)
    wanted = max(1, tiles.programs(state.target) // (parts * columns * windows.phases))
    split = min(windows.places(box).at(state.batch), wanted) * windows.phases
    total = prod((conv.k, conv.taps, conv.c))
    everything = total + (conv.k if bias else 0)
    apart = split > 1 or found_by_filter(kernel)
    partials = state.workspace(name, "partial", split * everything) if apart else None
    store_dw, store_db = wgrad_results(name, node, bias, partials, total // conv.k, (total, everything))
    constants = {**windows.constants(packing, box, tile), "ROWS": taken, "BIAS": bias is not None}
    lanes = ((0, columns * tile.n),)
    calls = traffic.Calls((1,) * conv.p, (1,) * conv.q, rows.count * parts, lanes, parts)
    state.add(
        name,
        kernel,
        Call("conv2d_windows_wgrad", [dy, Pointer(x, "x"), store_dw, *(store_db or NOTHING), BATCH], constants),
        (split, parts, columns),
        tile,
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[calls.of(load), windows.traffic(image, packing, box, parts * taken, columns)],
    )
    if partials:
        results = PartialResults(partials, Size.of(split), total, everything)
        finish_weight_gradient(state, kernel, results, node.name, bias.name if bias else None)


def _described(state: Lowering, windows: Windows, value: str, block: tuple[int, ...]) -> tuple[str, Packing]:
    """The descriptor of a packed input's windows in boxes, and how the input is packed."""
    packing = state.buffers[value].packing
    assert packing is not None
    n, p, q, depth = block
    shape = (packing.rows // windows.conv.sh, windows.conv.sh, packing.pitch)
    return state.windows(value, shape, (n, p, 1, q, depth), windows.described(packing)), packing


def lower_packed(state: Lowering, kernel: Kernel) -> None:
    """Lower what makes an image of bytes, amid the zeros that its readers want beside it."""
    name, value, plan = kernel.name, kernel.writes[0], state.plan
    type_, packing = plan.type(value), state.buffers[value].packing
    assert packing is not None
    shape = {"PIXELS": packing.rows, "C": packing.pitch}
    tile = state.tile(name, kernel, "pointwise", shape, partial(tiles.packed, packing.pitch))
    load, store = state.body(kernel), state.body(kernel)
    x = load.load_function(f"{name}_load_x", value, type_.channels, "x")
    place, rounded = f"y + {store.row('row', packing.pitch)} + column", store.rounded("tile", state.storage)
    line = f"tl.store({place}, {rounded}, mask=mask)"
    y = helper(f"{name}_store_y", "tile, row, column, mask, args", {value: "y"}, [line], (value,), value)
    h, w = type_.spatial
    rows = cdiv(N * packing.rows, tile.m)
    sizes = {"C": type_.channels, "H": h, "W": w, "ROWS": packing.rows, "PITCH": packing.pitch, "LEFT": packing.left}
    state.add(
        name,
        kernel,
        Call("packed_images", [x, y, BATCH], {**sizes, **blocks(tile)}),
        (rows, cdiv(packing.pitch, tile.n)),
        tile,
        kind="pointwise",
        flops=prod(type_.per_image) * len(kernel.nodes),
        traffic=[traffic.once(type_.spatial, rows, type_.channels, replace(tile, n=type_.channels)).of(load)],
    )


def pack(state: Lowering) -> Mapping[str, Packing]:
    """Give the images of which only windows are read their memory amid zeros; the packing of each is returned."""
    found = packed_images(state.plan, state.dtype, state.batch, state.target) if state.describes else {}
    for name, packing in found.items():
        size = images(True) * packing.elements
        state.buffers[name] = replace(state.buffers[name], size=size, packing=packing)
    return found
