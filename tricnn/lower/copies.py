"""Lowering of what only moves data: concat, channel slices, padding and stacking of channels, flatten, unflatten."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import Body
from .call import BATCH, Call, Text, blocks, helper
from .lowering import Lowering, tile_grid
from .names import Argument
from .positions import At, Channels
from .program import element
from .size import N, cdiv, images

#: what the function is given that a copy, or a chain of pointwise operations, consists of
PIXELS = "pixel, channel, mask, part, args"


def lower_copy(state: Lowering, kernel: Kernel) -> None:
    """Lower concat, slice_channels, pad_channels, stack, flatten or unflatten where they move data."""
    node, plan = kernel.anchor, state.plan
    if node.row.joins == "channels" and plan.type(node.name).batched:
        _concat(state, kernel)
        return
    start = 0
    for number, raw in enumerate(node.inputs):
        name = kernel.name if len(node.inputs) == 1 else f"{kernel.name}_{number}"
        copy = COPIES.get(node.op, _copy_channels)
        copy(state, kernel, name, raw, start)
        start += prod(plan.type(raw).per_image) if node.row.joins == "filters" else plan.type(raw).channel_count


def _concat(state: Lowering, kernel: Kernel) -> None:
    """Lower concat in one pass over the result.
    Each element is looked for in all operands, and loaded from the one that has it."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    y = plan.type(node.name)
    body, start, chosen = state.body(kernel), 0, ""
    for raw in node.inputs:
        count = plan.type(raw).channel_count
        own = body.let("own", f"mask & (channel >= {start}) & (channel < {start + count})")
        channel = body.let("from_channel", f"channel - {start}") if start else "channel"
        tile_ = body.value(raw, At("pixel", channel, own, count), "x", wide=False)
        if body.computed(plan.storage(raw)):
            tile_ = body.let("rounded", body.rounded(tile_, element(y, state.storage)))
        chosen = body.let("y_tile", f"tl.where({own}, {tile_}, {chosen})") if chosen else tile_
        start += count
    body.store(node.name, chosen, At("pixel", "channel", "mask", y.channels), as_it_is=True)
    shape = {"PIXELS": y.pixels, "C": y.channels}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, y.channels))
    state.add(
        name,
        kernel,
        Call("pointwise", [body.function(f"{name}_body", PIXELS, body.lines), BATCH], {**shape, **blocks(tile)}),
        tile_grid(y.pixels, y.channels, tile),
        tile,
        kind=node.op,
        traffic=[traffic.once(y.spatial, cdiv(N * y.pixels, tile.m), y.channels, tile).of(body)],
    )


def _copy_channels(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """Copy the channels of one operand, or a slice of them, to those of the result from ``start`` on, or amid zeros.
    The operand is an image, a vector, rows of numbers or a weight."""
    node = kernel.anchor
    x, y = state.plan.type(raw), state.plan.type(node.name)
    body = state.body(kernel)
    count = y.channel_count if node.row.cuts or node.row.pads else x.channel_count
    pixels = y.pixels if y.batched else x.elements(1) // x.channel_count
    _store_channels(body, node.name, _loaded_channels(body, node, raw, count), start, count, pixels)
    shape = {"PIXELS": pixels, "C": count}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, count))
    each = images(y.batched)
    rows = cdiv(each * pixels, tile.m)
    spatial = y.spatial if y.batched else (pixels, 1)
    function = body.function(f"{name}_body", PIXELS, body.lines)
    state.add(
        name,
        kernel,
        Call("pointwise", [function, Text(str(each))], {**shape, **blocks(tile)}),
        (rows, cdiv(count, tile.n)),
        tile,
        kind=node.op,
        traffic=[traffic.once(spatial, rows, count, tile, each).of(body)],
    )


def _loaded_channels(body: Body, node: Node, raw: str, count: int) -> str:
    """The text of a tile of an operand: ``count`` of its channels, those that ``node`` cuts or puts amid zeros."""
    x, y = body.plan.type(raw), body.plan.type(node.name)
    first, inside = 0, "mask"
    if node.row.cuts:
        first = node.attrs["start"]
    elif node.row.pads:
        before, inside = node.attrs["before"], "inside"
        first = -before
        body.write(f"inside = mask & (channel >= {before}) & (channel < {before + x.channel_count})")
    channel = f"channel + {first}" if first > 0 else f"channel - {-first}" if first else "channel"
    source = At("pixel", channel, inside, x.channel_count)
    if not y.batched:
        return body.row_of(raw, replace(source, first=max(first, 0), count=count))
    cut = replace(source, first=first, count=count) if node.row.cuts else source
    loaded = body.value(raw, cut, "x", wide=False)
    return body.rounded(loaded, element(y, body.storage)) if body.computed(body.plan.storage(raw)) else loaded


def _store_channels(body: Body, value: str, loaded: str, start: int, count: int, pixels: int) -> None:
    """Store a tile to ``count`` channels of a value from ``start`` on, as it is."""
    place, type_ = body.plan.place(value), body.plan.type(value)
    target = place.offset + start
    row = f"{body.result(place.buffer, 'y')} + {body.row('pixel', place.pitch)} + channel"
    body.write(f"tl.store({row}{f' + {target}' if target else ''}, {loaded}, mask=mask)")
    in_rows = type_.batched or pixels > 1
    total = place.pitch if in_rows else body.plan.type(place.buffer).elements(1)
    body.stores.setdefault(place.buffer, set()).add(Channels(target, target + count, total))


def _reshape(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """Copy between channels-last pixels and PyTorch's order: flatten, or unflatten."""
    node, plan = kernel.anchor, state.plan
    x, y = plan.type(raw), plan.type(node.name)
    image, template = (x, "to_nchw") if node.row.dense_view == "flat" else (y, "from_nchw")
    pixels, c = image.pixels, image.channels
    load, store = state.body(kernel), state.body(kernel)
    wide = At("pixel", "channel", "mask", c * pixels)
    narrow = At("pixel", "channel", "mask", c)
    source, target = (narrow, wide) if node.row.dense_view == "flat" else (wide, narrow)
    load_x = load.load_function(f"{name}_load_x", raw, source.width, "x")
    store.scope.reserve("tile")
    store.store(node.name, "tile", target)
    store_y = store.function(f"{name}_store_y", "tile, pixel, channel, mask, part, args", store.lines)
    shape = {"PIXELS": pixels, "C": c}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, c))
    state.add(
        name,
        kernel,
        Call(template, [load_x, store_y, BATCH], {**shape, **blocks(tile)}),
        tile_grid(pixels, c, tile),
        tile,
        kind=node.op,
        traffic=[traffic.once(x.spatial, cdiv(N * pixels, tile.m), c, tile).of(load), traffic.stored(store)],
    )


def _copy_filters(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """Copy all filters of one weight, as they lie, to the elements of the result from ``start`` on."""
    count = prod(state.plan.type(raw).per_image)
    _copy_numbers(state, kernel, name, raw, count, "pixel + channel", start)


def _repeat(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """Store one number to all elements of the result."""
    channels = state.plan.type(kernel.anchor.name).channels
    _copy_numbers(state, kernel, name, raw, channels, "0 * (pixel + channel)", start)


def _copy_numbers(state: Lowering, kernel: Kernel, name: str, raw: str, count: int, source: str, start: int) -> None:
    """Launch a copy of ``count`` numbers to the result from ``start`` on; ``source`` is where each comes from.
    They are the channels of one pixel, 0; a tile may have more rows, which are masked."""
    place, result = state.plan.place(raw), state.plan.place(kernel.anchor.name)
    whole = state.plan.type(result.buffer).elements(1)
    needs: dict[Argument, str] = {place.buffer: "w", result.buffer: "out"}
    first = result.offset + start
    line = f"tl.store(out + {first} + pixel + channel, tl.load(w + {place.offset} + {source}, mask=mask), mask=mask)"
    function = helper(f"{name}_body", PIXELS, needs, [line], (result.buffer,), kernel.anchor.name)
    tile = tiles.elementwise(count, state.form(name).smaller)
    state.add(
        name,
        kernel,
        Call("pointwise", [function, Text("1")], {"PIXELS": 1, "C": count, **blocks(tile)}),
        (1, cdiv(count, tile.n)),
        tile,
        kind=kernel.anchor.op,
        traffic=[traffic.loads(place.buffer, count), traffic.channels_stored(result.buffer, count, whole)],
    )


COPIES = {
    "flatten": _reshape, "unflatten": _reshape, "concat_filters": _copy_filters, "repeat_number": _repeat,
}  # fmt: skip
