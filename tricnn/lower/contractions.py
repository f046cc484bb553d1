"""Lowering of convolutions, dense layers and their gradients: implicit matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel, Place
from ..ir.graph import Node
from ..machine import tiles
from ..machine.candidates import KIND_OF
from ..machine.long_sums import (
    boxed_tile,
    summed_in_boxes,
    weight_gradient,
    weight_gradient_tile,
)
from ..machine.targets import TARGETS
from . import traffic
from .body import Body, Described
from .boxes import (
    as_it_lies,
    divided,
    going_down,
    in_boxes,
    in_packs,
    lies_alone,
    lying,
    summed_boxes,
    sums_in_boxes,
    weight_boxes,
)
from .call import BATCH, NOTHING, Call, Helper, InBoxes, Line, Operand, Pointer, helper, product_blocks
from .convolution import Convolution
from .epilogue import epilogue, leave_sums
from .filters import finish_weight_gradient, found_by_filter
from .last_programs import ends
from .lowering import Lowering
from .packed_sums import packed_sums
from .packs import traffic_of_packs
from .partial_sums import PartialResults, finish_sides, side_buffers
from .positions import At
from .size import N, Size, cdiv
from .traffic import RowTiles


@dataclass(frozen=True)
class Roles:
    """What the forward product and the gradient by the input call their operand and their result."""

    template: str
    operand: str
    result: str


#: with fewer channels, a forward product's tile has those of several taps (`conv2d_fprop`)
FLATTENED = 16
#: of a strided 1x1 product's depth: with less, programs of 128 rows spend too much of their time on storing tiles
#: (`conv2d_streams`, by simulation)
ENOUGH = 1024
#: rows of the highest tile, as many as a box can have images
HIGH = 256
#: stages of copies where a program loads ahead what its epilogue wants (`matmul_boxes`). With 3 it is alone on its
#: multiprocessor, and yet faster than two with 2 of them (by simulation: 642 us and 694, where it was 993)
AHEAD = 3
FORWARD = Roles("conv2d_fprop", "x", "y")
BACKWARD = Roles("conv2d_dgrad", "dy", "dx")


@dataclass
class Product:
    """An implicit matrix product on its way to a call.
    Its rows are pixels (of one residue class, if the image is scattered to), its columns the channels of the result,
    and ``depth`` the operand's channels."""

    state: Lowering
    kernel: Kernel
    roles: Roles
    conv: Convolution
    rows: int
    depth: int
    columns: int
    tile: tiles.Tile

    def __post_init__(self) -> None:
        state, kernel, node = self.state, self.kernel, self.kernel.anchor
        self.name = kernel.name
        self.load, self.store, self.leave = state.body(kernel), state.body(kernel), state.body(kernel)
        self.weight = state.multiplied(node.inputs[1])
        self.boxes = in_boxes(state, kernel, self.weight, self.conv, self.tile)
        corner = self.boxes.corner if self.boxes else None
        if self.boxes and corner:
            shape, box = self.boxes.stored
            if not self.boxes.box:
                self.load.described = _described(state, shape, (*box, self.boxes.tile.k))
            if self.boxes.whole:
                self.store.described = _described(state, shape, (*box, self.boxes.tile.n // self.boxes.pieces))
            self.store.scope.reserve(*corner)
        if self.boxes and self.boxes.stays:
            self.store.terms = []
        # If a row of the result depends on one row of the operand only, with all its channels, then it does not matter
        # what lies in rows beyond the last one: they are not stored.
        apart = self.conv.pixel_by_pixel and self.depth % self.tile.k == 0
        self.operand: Operand = self.load.load_multiplied(
            f"{self.name}_load_{self.roles.operand}",
            node.inputs[0],
            self.depth,
            self.roles.operand,
            zeros=not apart,
            corner=None if self.boxes and self.boxes.box else corner,
        )

    @property
    def corner(self) -> tuple[str, ...]:
        """The names of a tile's first pixel and channel, if it may be loaded or stored by a descriptor."""
        return (self.boxes.corner if self.boxes else None) or ()

    @property
    def parts(self) -> Size:
        """In how many parts sums over all pixels (of one residue class) are left."""
        return self.boxes.parts if self.boxes else self.row_tiles.count

    @property
    def row_tiles(self) -> RowTiles:
        """How many tiles of rows there are (of one residue class), and what they cover."""
        if self.boxes:
            return self.boxes.rows
        covered = self.conv.image
        if self.roles is FORWARD:
            conv = self.conv
            covered = (conv.p // conv.window[0] * conv.window[0], conv.q // conv.window[1] * conv.window[1])
        return RowTiles(cdiv(N * self.rows, self.tile.m), covered)

    def finish(self, variable: str) -> Helper:
        """The function that stores the result of the product, after its bias and the epilogue.
        The bias is added to the sum. ``variable`` is what the sum with its bias is called."""
        at = At("pixel", "channel", "mask", self.columns, corner=self.boxes.corner if self.boxes else None)
        head = (
            self.boxes.head if self.boxes else f"acc, pixel, channel, mask, {'window, ' * self.conv.pooled}part, args"
        )
        return stored_product(self.store, self.kernel, at, variable, f"{self.name}_store_{self.roles.result}", head)

    def moved(self, tile: tiles.Tile) -> list[traffic.Traffic]:
        """The traffic of the product: what its template and its functions load and store."""
        if self.boxes and self.boxes.rowwise:
            return traffic.by_rows(self.load, self.store, self.weight, self.boxes.rowwise)
        if self.boxes and self.boxes.packed:
            operand, gradient = self.state.plan.storage(self.kernel.anchor.inputs[0]), self.roles is BACKWARD
            return traffic_of_packs(
                operand, self.store, self.weight, self.conv, self.boxes.tile.n, self.row_tiles, self.parts,
                gradient=gradient,
            )  # fmt: skip
        count = traffic.fprop if self.roles is FORWARD else traffic.dgrad
        return count(self.load, self.store, self.weight, self.conv, tile, self.row_tiles, bool(self.corner))

    def keep(self, value: str) -> Body:
        """What stores the operand's tiles as they are computed, which are in the register ``tile``."""
        body = self.state.body(self.kernel)
        body.scope.reserve("tile", *self.corner)
        body.described = self.load.described
        corner = self.boxes.corner if self.boxes else None
        body.store(value, "tile", At("pixel", "channel", "mask", self.depth, corner=corner), as_it_is=True)
        return body

    def settled(self) -> tiles.Tile:
        """The tile, with one stage of copies less where two programs would not fit a multiprocessor's shared memory.
        Every stage holds the boxes of one step of the depth, beside those that the epilogue loads and stores. Programs
        of more than 4 warps have stages enough to be alone there."""
        tile = self.boxes.tile if self.boxes else self.tile
        if self.boxes is None or not self.boxes.stays or tile.stages <= 2 or tile.warps > 4:
            return self.tile
        read = sum(load.kind == "tile" for load in self.load.loads), sum(n.kind == "tile" for n in self.store.loads)
        step, beside = (read[0] * tile.m + tile.n) * tile.k, (read[1] + 1) * tile.m * tile.n
        together = tiles.share(2 * (tile.stages * step + beside), self.state.target)
        return self.tile if together else replace(self.tile, stages=2)

    @property
    def ahead(self) -> bool:
        """Whether programs load what their epilogue wants ahead, as they do their operands.
        They can where a tile's depth is one step, so that tiles follow one another in one loop; and it is worth it
        where the operand passes through registers and several images are loaded beside a tile of few columns."""
        boxes = self.boxes
        if boxes is None or boxes.box or boxes.rowwise or boxes.image is not None or self.depth > boxes.tile.k:
            return False
        several = sum(load.kind == "tile" for load in self.store.loads) > 1
        return several and boxes.tile.n <= 64 and self.state.form(self.name).pipelined

    def call(self, store: Helper, **keywords: Helper) -> Call:
        """The call of a template that computes the product, with each operand in boxes that can be."""
        if self.boxes:
            if not self.store.terms:
                return self.boxes.call(store, self.operand, **keywords)
            leave = leave_sums(self.leave, self.store, self.columns, f"{self.name}_leave_sums")
            call = self.boxes.call(store, self.operand, **keywords, leave_sums=leave)
            constants = {**call.constants, "SUMS": len(self.store.terms), **({"AHEAD": AHEAD} if self.ahead else {})}
            chosen = self.boxes.box and not self.boxes.rowwise and not self.boxes.packed
            repeats = self.boxes.repeats if chosen else 1
            if not self.boxes.whole and any(load.kind == "tile" for load in self.store.loads):
                constants["APART"] = tiles.rows_at_once(self.boxes.tile)  # that is how it has them, and the product
            return replace(call, constants={**constants, **({"REPEATS": repeats} if repeats != 1 else {})})
        state, conv, tile = self.state, self.conv, self.tile
        forward = self.roles is FORWARD
        few = forward and conv.c < FLATTENED
        if conv.pixel_by_pixel and not few:
            descriptor = as_it_lies(state, self.kernel, 0, (self.depth,), (tile.m, tile.k))
            self.operand = InBoxes(descriptor, self.roles.operand) if descriptor else self.operand
        box = (tile.n, tile.k) if forward else (tile.k, tile.n)
        weights = None if few else weight_boxes(state, self.weight, conv, box)
        constants = {**conv.constants, **product_blocks(tile), "PRECISION": state.precision}
        if weights:
            constants["W_BOXES"] = True
        operands = [self.operand, Pointer(weights or self.weight, "weight"), store, BATCH]
        return Call(self.roles.template, operands, constants, keywords)


def stored_product(
    store: Body, kernel: Kernel, at: At, variable: str, name: str, head: str = "acc, pixel, channel, mask, part, args",
    ahead: tuple[Body, Body] | None = None,
) -> Helper:  # fmt: skip
    """The function ``name`` that stores a product: the anchor's bias, which is added to the sum, and the epilogue.
    ``ahead``: the functions of `Body.split` and `Body.split_loads`."""
    node, result = kernel.anchor, "acc"
    if len(node.inputs) > 2:
        result = store.let(variable, f"acc + {store.value(node.inputs[2], at, 'bias')}")
    epilogue(store, kernel, at, node.name, result)
    returned = [f"return {', '.join(store.terms)}"] if store.terms else []
    if ahead is None:
        return store.function(name, head, [*store.lines, *returned])
    given, beside = ahead
    store.lines = store.split(given, [Line(line) for line in returned])
    return store.function(name, head, store.split_loads(beside, []))


def _described(
    state: Lowering, shape: tuple[int, ...], box: tuple[int, ...]
) -> Callable[[Place, At], Described | None]:
    """What gives the descriptor by which tiles are loaded or stored at a place: of the channels that they have there.
    It is of rows, or of images of this ``shape``, in boxes. It gives None where there is no such descriptor."""

    def described(place: Place, at: At) -> Described | None:
        begin, end = at.channels
        if at.width > place.pitch:
            return None
        channels = place.offset + begin, end - begin
        descriptor = state.descriptor(place.buffer, (*shape, place.pitch), box, channels)
        return Described(descriptor, box) if descriptor else None

    return described


def _rule(
    state: Lowering, kernel: Kernel, conv: Convolution, rows: int, columns: int, depth: int
) -> Callable[[int], tiles.Tile]:
    """The rule for the tile of a product with so many rows in each image.
    Where programs go down images row by row, or groups are packed, they do so in one tile only."""
    taken, rule = going_down(state, kernel, conv), _rule_of_tiles(state, kernel, conv, rows, columns, depth)
    tile = taken.tile if taken else in_packs(state, kernel, conv)
    return partial(_first, tile, rule) if tile else rule


def _rule_of_tiles(
    state: Lowering, kernel: Kernel, conv: Convolution, rows: int, columns: int, depth: int
) -> Callable[[int], tiles.Tile]:
    """The rule for the tile of a product whose programs compute tiles of so many rows in each image."""
    product = rows * state.batch, columns, depth, state.dtype, state.target
    operand = state.plan.storage(kernel.anchor.inputs[0])
    computed = Body.is_computed(state.plan, kernel, operand)
    beside = sum(value != operand and state.plan.type(value).batched for value in kernel.reads)
    sums = any(node.row.side_sum == "stored" for node in kernel.nodes)
    gradient = kernel.anchor.row.product == "by_input"
    apart = conv.strided and conv.taps == 1 and conv.groups == 1 and divided(conv, gradient) and not computed
    low = apart and not conv.pooled and depth < ENOUGH
    if state.describes and (conv.pixel_by_pixel or low):
        formed = computed or low or (beside > 0 and sums)
        return partial(tiles.streamed, *product, formed=formed, beside=beside)
    channels = depth // conv.taps
    tap = channels if channels >= FLATTENED or gradient else 0
    classes = conv.sh * conv.sw if gradient else 1
    if state.describes and sums and not computed and conv.groups == 1 and not conv.pooled:
        return partial(tiles.boxed, *product, alone=beside > 0, low=classes > 1, tap=tap, beside=classes)
    image, result = (conv.result, conv.image) if gradient else (conv.image, conv.result)
    alone = state.describes and conv.groups == 1 and not conv.pooled and not conv.strided and channels % 64 == 0
    high = alone and tiles.box(HIGH, state.batch, *result) and lies_alone(state, kernel, 0, (*image, channels))
    rule = tiles.tall if high else tiles.contraction
    return partial(rule, *product, tap=tap, beside=classes * conv.groups)


def lower_fprop(state: Lowering, kernel: Kernel) -> None:
    """Lower a forward product: the product's rows are output pixels, its columns filters."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node, kernel.window)
    pixels = prod(state.plan.covered(kernel)) if conv.pooled else conv.p * conv.q
    rule = _rule(state, kernel, conv, pixels, conv.group_filters, conv.taps * conv.c // conv.groups)
    tile = state.tile(name, kernel, KIND_OF["forward"], conv.constants, rule)
    product = Product(state, kernel, FORWARD, conv, pixels, conv.c, conv.k, tile)
    store = product.finish("conv" if node.row.convolution else "y")
    keep = state.body(kernel)
    keywords = {}
    if state.plan.storage(node.inputs[0]) in kernel.writes:
        keep = product.keep(state.plan.storage(node.inputs[0]))
        head = ", ".join(["tile, pixel, channel, mask", *product.corner, "args"])
        keywords["keep_x"] = keep.function(f"{name}_keep_x", head, keep.lines)
    rows, parts = product.row_tiles, product.parts
    blocks = product.boxes.column_tiles if product.boxes else cdiv(conv.group_filters, tile.n) * conv.groups
    small = product.boxes is not None and product.boxes.small
    end = ends(state, kernel, product.store, parts, conv.k, tile, blocks, small=small)
    call = product.call(store, **keywords, **({"finish": end.finish} if end else {}))
    side_buffers(state, product.store, parts, conv.k)
    state.add(
        name,
        kernel,
        call,
        product.boxes.grid if product.boxes else (rows.count * cdiv(conv.group_filters, tile.n), conv.groups),
        product.settled(),
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[
            *product.moved(tile),
            traffic.left(product.leave, conv.k, parts, tile),
            traffic.stored(keep),
            *(end.moved if end else ()),
        ],
        handed_on=end.handed_on if end else None,
    )
    if end is None:
        finish_sides(state, kernel, product.store, parts, conv.k)


def lower_dgrad(state: Lowering, kernel: Kernel) -> None:
    """Lower an input gradient: the product's rows are input pixels, its columns channels."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node)
    pixels = cdiv(conv.h, conv.sh) * cdiv(conv.w, conv.sw)
    rule = _rule(state, kernel, conv, pixels, conv.group_channels, conv.taps * conv.k // conv.groups)
    tile = state.tile(name, kernel, KIND_OF["by_input"], conv.constants, rule)
    taken = going_down(state, kernel, conv)
    if taken is None or tile.k != taken.tile.k:
        tile = replace(tile, k=min(tile.k, max(tiles.power_of_two(conv.group_filters), 16)))
    product = Product(state, kernel, BACKWARD, conv, pixels, conv.k, conv.c, tile)
    store = product.finish("conv")
    rows, classes = product.row_tiles, conv.sh * conv.sw
    parts = product.parts if product.boxes else product.parts * classes
    blocks = product.boxes.column_tiles if product.boxes else cdiv(conv.group_channels, tile.n) * conv.groups
    end = ends(state, kernel, product.store, parts, conv.c, tile, blocks)
    call = product.call(store, **({"finish": end.finish} if end else {}))
    side_buffers(state, product.store, parts, conv.c)
    grid = (rows.count * cdiv(conv.group_channels, tile.n), conv.groups, classes)
    state.add(
        name,
        kernel,
        call,
        product.boxes.grid if product.boxes else grid,
        product.settled(),
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[
            *product.moved(tile),
            traffic.left(product.leave, conv.c, parts, tile),
            *(end.moved if end else ()),
        ],
        handed_on=end.handed_on if end else None,
    )
    if end is None:
        finish_sides(state, kernel, product.store, parts, conv.c)


def lower_wgrad(state: Lowering, kernel: Kernel) -> None:
    """Lower a weight gradient, with the bias gradient as a side sum.
    Where the sum over pixels is split, partial sums of both lie side by side and one more launch adds them in order."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node)
    filters, columns, pixels = conv.group_filters, conv.taps * conv.c // conv.groups, conv.p * conv.q * state.batch
    bias = next((n for n in kernel.nodes if n.row.side_sum == "loaded"), None)
    machine = state.dtype, state.target
    packed = None if bias else packed_sums(state, kernel, conv)
    rule = _rule_of_sums(state, kernel, conv, bias is not None)
    if packed:
        rule = partial(_first, packed.tile, rule)
    tile = state.tile(name, kernel, KIND_OF["by_weight"], conv.constants, rule)
    if packed and replace(tile, stages=packed.tile.stages) != packed.tile:
        packed = None
    boxes = summed_boxes(state, kernel, conv, tile, bias is not None)
    beside = boxes.beside if boxes else 0
    summing = cdiv(filters, tile.m) if boxes and bias else 0  # programs that add up dy
    if boxes:
        sums = summed_in_boxes(filters, conv.c, conv.taps, pixels, tile, *machine, others=summing)
    else:
        formed = _passes_registers(state, kernel, conv)
        sums = weight_gradient(filters, columns, pixels, tile, *machine, formed=formed, groups=conv.groups)
    programs, split = sums.tiles // conv.groups, packed.split(state) if packed else sums.split
    dy, x, bodies = _wgrad_operands(state, kernel, conv, tile, bias is not None)
    total = conv.k * columns
    everything = total + (conv.k if bias else 0)
    apart = split > 1 or found_by_filter(kernel)
    partials = state.workspace(name, "partial", split * everything) if apart else None
    store_dw, store_db = wgrad_results(name, node, bias, partials, columns, (total, everything))
    constants = {**conv.constants, "SPLIT": split, "BIAS": bias is not None, **product_blocks(tile)}
    gathered = Call("conv2d_wgrad", [dy, x, store_dw, *store_db, BATCH], {**constants, "PRECISION": state.precision})
    call = boxes.call(store_dw, store_db, split, bias is not None) if boxes else gathered
    blocks = boxes.blocks if boxes else RowTiles(cdiv(N * (conv.p * conv.q), tile.k), conv.result)
    state.add(
        name,
        kernel,
        packed.call(state, store_dw, split) if packed else call,
        (packed.packs, 1, split) if packed else (programs, conv.groups, split),
        tile,
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=packed.moved if packed else traffic.wgrad(*bodies, conv, tile, blocks, beside, adding=summing > 0),
    )
    if partials:
        results = PartialResults(partials, Size.of(split), total, everything)
        finish_weight_gradient(state, kernel, results, node.name, bias.name if bias else None)


def _first(tile: tiles.Tile, rule: Callable[[int], tiles.Tile], attempt: int = 0) -> tiles.Tile:
    """This tile at first, and after attempts that a compiler spilled those of the rule."""
    return rule(attempt - 1) if attempt else tile


def _rule_of_sums(state: Lowering, kernel: Kernel, conv: Convolution, bias: bool) -> Callable[[int], tiles.Tile]:
    """The rule for the tile of a weight gradient: of boxes, if both operands come in them.
    Beside a ``bias`` they do where gathered tiles would have few columns: those that :func:`summed_boxes` takes."""
    pixels, machine = conv.p * conv.q * state.batch, (state.dtype, state.target)
    shape = conv.group_filters, conv.taps * conv.group_channels, pixels
    tap = conv.group_channels if conv.taps > 1 else 0
    formed = _passes_registers(state, kernel, conv)
    gathered = partial(weight_gradient_tile, *shape, *machine, formed=formed, tap=tap, groups=conv.groups)
    if not sums_in_boxes(state, kernel, conv) or (bias and gathered(0).n >= 128):
        return gathered
    return partial(boxed_tile, conv.k, conv.c, conv.taps, pixels, *machine)


def _passes_registers(state: Lowering, kernel: Kernel, conv: Convolution) -> tuple[bool, bool]:
    """Which of dy and x are gathered in registers on their way to the product of `conv2d_wgrad`.
    They are those that are computed, or cannot come in boxes."""
    boxes = TARGETS[state.target].bulk_copies and state.storage != "fp32"
    dy = boxes and conv.groups == 1 and lying(state, kernel, 0, (conv.k,))
    x = boxes and conv.pixel_by_pixel and lying(state, kernel, 1, (conv.c,))
    return not dy, not x


def _wgrad_operands(
    state: Lowering, kernel: Kernel, conv: Convolution, tile: tiles.Tile, bias: bool
) -> tuple[Operand, Operand, tuple[Body, Body]]:
    """dy and x as `conv2d_wgrad` takes them, and the functions that load them."""
    node, name = kernel.anchor, kernel.name
    bodies = load_dy, load_x = state.body(kernel), state.body(kernel)
    # Tensor cores take tf32 with the summed axis innermost only, and here it is outermost. A tile that went straight to
    # shared memory would go there number by number; one that is rounded on the way is loaded 16 bytes at a time.
    tf32 = state.precision == "tf32"
    # A product is 0 where one of its operands is; but the gradient of the bias adds up dy.
    dy: Operand = load_dy.load_multiplied(f"{name}_load_dy", node.inputs[0], conv.k, "dy", tf32=tf32, zeros=bias)
    x: Operand = load_x.load_multiplied(f"{name}_load_x", node.inputs[1], conv.c, "x", tf32=tf32)
    dy_boxes = as_it_lies(state, kernel, 0, (conv.k,), (tile.k, tile.m)) if conv.groups == 1 else None
    x_boxes = as_it_lies(state, kernel, 1, (conv.c,), (tile.k, tile.n)) if conv.pixel_by_pixel else None
    return InBoxes(dy_boxes, "dy") if dy_boxes else dy, InBoxes(x_boxes, "x") if x_boxes else x, bodies


def wgrad_results(
    name: str, node: Node, bias: Node | None, partials: str | None, columns: int, lengths: tuple[int, int]
) -> tuple[Helper, tuple[Operand, ...]]:
    """The functions that store the gradients of the weight and of the bias, if it has one.
    They store to the gradients themselves, or side by side to each split's stretch of ``partials``. ``lengths``: of the
    weight's gradient, of both together."""
    total, everything = lengths
    dw, db, begin, behind = "dw", "db", "", ""
    if partials:
        dw = db = "partial"
        begin, behind = f"split * {everything} + ", f"split * {everything} + {total} + "

    def store(suffix: str, parameters: str, layer: str, variable: str, element: str) -> Helper:
        line, buffer = f"tl.store({variable} + {element}, acc, mask=mask)", partials or layer
        head = f"{parameters}, mask, split, args"
        return helper(f"{name}_store_{suffix}", head, {buffer: variable}, [line], (buffer,), layer)

    store_dw = store("dw", "acc, row, column", node.name, dw, f"{begin}row * {columns} + column")
    if bias is None:
        return store_dw, NOTHING
    return store_dw, (store("db", "acc, channel", bias.name, db, f"{behind}channel"),)
