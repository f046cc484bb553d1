"""Lowering of depthwise convolutions and their gradients: strips of an image, with no matrix product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..compiler.cost import by_channel
from ..compiler.plan import Kernel, Plan
from ..machine.strips import Strips, strips
from . import traffic
from .body import Body
from .call import BATCH, NOTHING, Call, Helper, Pointer
from .contractions import stored_product, wgrad_results
from .convolution import Convolution, Counts
from .filters import finish_weight_gradient, found_by_filter
from .kept_sums import kept_sums
from .lowering import Lowering
from .partial_sums import PartialResults
from .positions import At
from .size import N, Size, at_most, cdiv

#: rounds in which the last program adds up the parts of sums that others left
ROUNDS = 4


def goes_by_strips(plan: Plan, kernel: Kernel, storage: str) -> bool:
    """Does a kernel filter each channel by itself, as programs do that go down an image's strips?
    It does if no pooling follows, and statistics are of 16-bit numbers, whose sums and squares threads keep.
    ``storage`` is the type of activations."""
    if not kernel.anchor.row.product or kernel.window != (1, 1) or not by_channel(kernel.anchor, plan.graph):
        return False
    return storage in ("fp16", "bf16") or not any(n.row.moments for n in kernel.nodes)


@dataclass(frozen=True)
class Along:
    """One axis of a source and of the result, as the programs go along it.
    ``visits``: how often each position of the source is loaded; ``loads`` and ``stores``: how many of them a tile
    asks for, those outside the image counted, too."""

    visits: Counts
    loads: int
    stores: int


def _visits(size: int, visited: Iterable[int]) -> Counts:
    """How often each of ``size`` positions of an axis is visited."""
    times = Counter(visited)
    return tuple(times[i] for i in range(size))


def _rows(conv: Convolution, rows: int, gradient: bool) -> Along:
    """The rows of a source that `depthwise` loads."""
    (source, result) = (conv.p, conv.h) if gradient else (conv.h, conv.p)
    r, sh, pt = conv.r, conv.sh, conv.pt
    visited, loads, stores = list[int](), 0, 0
    for begin in range(0, result, rows):
        end = min(begin + rows, result)
        if gradient:
            first, final = max(begin // sh - (r - 1 - pt) // sh, 0), (end - 1 + pt) // sh
            steps = range(first, min(final, source - 1) + 1)
            visited += steps
        else:
            first, final = max(begin, pt // sh), end + -(-r // sh) - 2
            steps = range(first, min(final, (source - 1 + pt) // sh) + 1)
            visited += [step * sh + new - pt for step in steps for new in range(sh)]
        # Functions are called for the step behind the last one, too, whose mask is not set.
        loads += (len(steps) + 1) * (1 if gradient else sh)
        stores += (final + 1 - first) * (sh if gradient else 1)
    return Along(_visits(source, visited), loads, stores)


def _columns(conv: Convolution, wide: int, gradient: bool) -> Along:
    """The columns of a source that `depthwise` loads."""
    (source, result) = (conv.q, conv.w) if gradient else (conv.w, conv.q)
    s, sw, pl = conv.s, conv.sw, conv.pl
    first = -((s - 1 - pl) // sw) if gradient else -pl
    count = (wide - 1 + pl) // sw - first + 1 if gradient else (wide - 1) * sw + s
    begins = [column // sw if gradient else column * sw for column in range(0, result, wide)]
    visited = [begin + first + e for begin in begins for e in range(count)]
    return Along(_visits(source, visited), count, wide)


@dataclass(frozen=True)
class Tiles:
    """The tiles of a result.
    These are the strips that they are made of, how many tiles each segment of all images has, how many there are in
    all, and how many of channels."""

    strips: Strips
    each: Size
    count: Size
    blocks: int

    @classmethod
    def of(cls, state: Lowering, kernel: Kernel, conv: Convolution, gradient: bool) -> Tiles:
        """The tiles of a kernel's result; a gradient by the weights has those of dy."""
        size, taps, stride = conv.image if gradient else conv.result, (conv.r, conv.s), (conv.sh, conv.sw)
        attempt = state.form(kernel.name).smaller
        found = strips(conv.c, state.batch, size, taps, stride, state.target, attempt, scattered=gradient)
        each = cdiv(N * -(-size[1] // found.wide), found.tile.m)
        return cls(found, each, each * -(-size[0] // found.rows), cdiv(conv.c, found.tile.n))

    @property
    def lanes(self) -> tuple[tuple[int, int], ...]:
        """The channels (first, how many) that the tiles of all blocks have, those beyond the last one among them."""
        return ((0, self.blocks * self.strips.tile.n),)


def _constants(conv: Convolution, found: Strips) -> dict[str, int]:
    """The constants of the templates."""
    options = {name: value for name, value in conv.options.items() if name != "GROUPS"}
    sizes = {name: value for name, value in conv.sizes.items() if name != "K"}
    return {**sizes, **options, **found.constants}


def lower_depthwise(state: Lowering, kernel: Kernel) -> None:
    """Lower a depthwise convolution, or its gradient by the input."""
    node, name = kernel.anchor, kernel.name
    conv, gradient = Convolution.of(state.plan, node), node.row.product == "by_input"
    tiles = Tiles.of(state, kernel, conv, gradient)
    found, blocks = tiles.strips, tiles.blocks
    load, store, of_source, of_result, beside = (state.body(kernel) for _ in range(5))
    weight, source, result = state.multiplied(node.inputs[1]), *(("dy", "dx") if gradient else ("x", "y"))
    load_x = load.load_function(f"{name}_load_{source}", node.inputs[0], conv.c, source, ahead=of_source)
    store.terms = []
    at, head = At("pixel", "channel", "mask", conv.c), "acc, pixel, channel, mask, given, beside, part, args"
    stores = stored_product(store, kernel, at, "conv", f"{name}_store_{result}", head, (of_result, beside))
    given = _given(name, {"source_given": (of_source, source), "result_given": (of_result, result)})
    if beside.lines:
        given["beside_result"] = beside.function(f"{name}_beside_{result}", "pixel, channel, mask, args", beside.lines)
    programs = at_most(tiles.count, found.programs)
    few = replace(found.tile, warps=1)  # so that adding parts up takes no more registers than the strips do
    sums = kept_sums(state, kernel, store, programs, conv.c, few, blocks, ROUNDS)
    rows, columns = _rows(conv, found.rows, gradient), _columns(conv, found.wide, gradient)
    height, width = conv.image if gradient else conv.result
    x = traffic.Calls(rows.visits, columns.visits, tiles.each * (rows.loads * columns.loads), tiles.lanes)
    y = traffic.Calls((1,) * height, (1,) * width, tiles.each * (rows.stores * columns.stores), tiles.lanes)
    once = traffic.Calls((), (), programs, tiles.lanes)
    constants = {**_constants(conv, found), **({"GRADIENT": True} if gradient else {}), **sums.constants}
    state.add(
        name,
        kernel,
        Call("depthwise", [load_x, Pointer(weight, "weight"), stores, BATCH], constants, {**given, **sums.keywords}),
        (programs, blocks),
        found.tile,
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[
            *(x.of(load), y.of(store), y.of(beside), once.of(of_source), once.of(of_result), *sums.moved),
            traffic.loads(weight, programs * (conv.taps * conv.c)),
        ],
        handed_on=sums.handed_on,
    )
    sums.launch(state, kernel)


def lower_depthwise_wgrad(state: Lowering, kernel: Kernel) -> None:
    """Lower a depthwise convolution's gradient by the weights, with that by the bias as a side sum."""
    node, name = kernel.anchor, kernel.name
    conv = Convolution.of(state.plan, node)
    tiles = Tiles.of(state, kernel, conv, False)
    bias = next((n for n in kernel.nodes if n.row.side_sum == "loaded"), None)
    load_dy, load_x, of_dy, of_x = (state.body(kernel) for _ in range(4))
    dy = load_dy.load_function(f"{name}_load_dy", node.inputs[0], conv.c, "dy", ahead=of_dy)
    x = load_x.load_function(f"{name}_load_x", node.inputs[1], conv.c, "x", ahead=of_x)
    given = _given(name, {"left_given": (of_dy, "dy"), "right_given": (of_x, "x")})
    split = min(tiles.count.at(state.batch), tiles.strips.programs)
    total = conv.c * conv.taps
    everything = total + (conv.c if bias else 0)
    apart = split > 1 or found_by_filter(kernel)
    partials = state.workspace(name, "partial", split * everything) if apart else None
    store_dw, store_db = wgrad_results(name, node, bias, partials, conv.taps, (total, everything))
    once = traffic.Calls((), (), Size.of(split), tiles.lanes)
    constants = {**_constants(conv, tiles.strips), **({"BIAS": True} if bias else {})}
    state.add(
        name,
        kernel,
        Call("depthwise_wgrad", [dy, x, store_dw, *(store_db or NOTHING), BATCH], constants, given),
        (split, tiles.blocks),
        tiles.strips.tile,
        kind=node.op,
        flops=2 * state.plan.graph.node_macs(node),
        traffic=[*_wgrad_traffic(conv, tiles, load_dy, load_x), *(once.of(body) for body in (of_dy, of_x))],
    )
    if partials:
        results = PartialResults(partials, Size.of(split), total, everything)
        finish_weight_gradient(state, kernel, results, node.name, bias.name if bias else None)


def _given(name: str, functions: Mapping[str, tuple[Body, str]]) -> dict[str, Helper]:
    """The helpers, by the template's keyword for each, that compute what depends on the channel only."""
    return {
        keyword: body.function(f"{name}_given_{of}", "channel, args", body.lines)
        for keyword, (body, of) in functions.items()
        if body.lines
    }


def _wgrad_traffic(conv: Convolution, tiles: Tiles, load_dy: Body, load_x: Body) -> list[traffic.Traffic]:
    """What `depthwise_wgrad` loads."""
    rows, wide, ring = tiles.strips.rows, tiles.strips.wide, -(-conv.r // conv.sh)
    before, lowest = conv.pt // conv.sh, (conv.h - 1 + conv.pt) // conv.sh
    dy_rows, x_rows, steps_called = list[int](), list[int](), 0
    begins = range(0, conv.p, rows)
    for begin in begins:
        end = min(begin + rows, conv.p)
        steps = range(max(begin, before), max(min(end + ring - 2, lowest), end - 1) + 1)
        dy_rows += range(begin, min(end, steps.stop))
        x_rows += [step * conv.sh + new - conv.pt for step in steps for new in range(conv.sh)]
        steps_called += len(steps) + 1  # of the step behind the last one no mask is set
    columns = _columns(conv, wide, False)
    dy_calls = (steps_called + len(begins) * before) * wide
    x_calls = steps_called * conv.sh * columns.loads
    dy = traffic.Calls(_visits(conv.p, dy_rows), (1,) * conv.q, tiles.each * dy_calls, tiles.lanes)
    x = traffic.Calls(_visits(conv.h, x_rows), columns.visits, tiles.each * x_calls, tiles.lanes)
    return [dy.of(load_dy), x.of(load_x)]
