"""Lowering of what only moves data: concat, channel slices, padding and stacking of channels, flatten, unflatten."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import At
from .lowering import Lowering, Parameter, as_tuple, call_text, everything_of, plain_function, tile_grid
from .program import element
from .size import N, Size, cdiv


def lower_copy(state: Lowering, kernel: Kernel) -> None:
    """concat, slice_channels, pad_channels, stack, flatten and unflatten that move data."""
    node, plan = kernel.anchor, state.plan
    if node.op == "concat" and plan.type(node.name).batched:
        _concat(state, kernel)
        return
    start = 0
    for number, raw in enumerate(node.inputs):
        name = kernel.name if len(node.inputs) == 1 else f"{kernel.name}_{number}"
        copy = COPIES.get(node.op, _copy_channels)
        copy(state, kernel, name, raw, start)
        start += prod(plan.type(raw).per_image) if node.op == "concat_filters" else plan.type(raw).channel_count


def _concat(state: Lowering, kernel: Kernel) -> None:
    """Every operand to its channels of the result, in one pass: each element is looked for in all operands, and loaded
    from the one that has it."""
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
    text = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)

    def call(p: Parameter) -> str:
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in everything_of(body)]), "N"],
            {"PIXELS": y.pixels, "C": y.channels, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, [text], call, [everything_of(body)], tile_grid(y.pixels, y.channels, tile), tile,
        writes=tuple(body.written), kind=node.op,
        traffic=[traffic.once(y.spatial, cdiv(N * y.pixels, tile.m), y.channels, tile).of(body)],
    )  # fmt: skip


def _copy_channels(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """All channels of one operand (an image, a vector, rows of numbers or a weight), or a slice of them, to ``start``
    in the result, or amid zeros."""
    node, plan = kernel.anchor, state.plan
    x, y = plan.type(raw), plan.type(node.name)
    body = state.body(kernel)
    first, count, inside = 0, x.channel_count, "mask"
    if node.op == "slice_channels":
        first, count = node.attrs["start"], y.channel_count
    elif node.op == "pad_channels":
        first, count, inside = -node.attrs["before"], y.channel_count, "inside"
        last = node.attrs["before"] + x.channel_count
        body.lines.append(f"inside = mask & (channel >= {node.attrs['before']}) & (channel < {last})")
    channel = f"channel + {first}" if first > 0 else f"channel - {-first}" if first else "channel"
    pixels = y.pixels if y.batched else x.elements(1) // x.channel_count
    if y.batched:
        source = At("pixel", channel, inside, x.channel_count)
        if node.op == "slice_channels":
            source = replace(source, first=first, count=count)
        loaded = body.value(raw, source, "x", wide=False)
        if body.computed(plan.storage(raw)):
            loaded = body.rounded(loaded, element(y, state.storage))
    else:
        loaded = body.row_of(raw, At("pixel", channel, inside, x.channel_count, max(first, 0), count))
    place = plan.place(node.name)
    target = place.offset + start
    out = body.result(place.buffer, "y")
    row = f"{out} + {body.row('pixel', place.pitch)} + channel"
    body.lines.append(f"tl.store({row}{f' + {target}' if target else ''}, {loaded}, mask=mask)")
    total = place.pitch if y.batched or pixels > 1 else plan.type(place.buffer).elements(1)
    body.stores.setdefault(place.buffer, set()).add((target, target + count, total))
    tile = state.tile(name, kernel, node.op, {"PIXELS": pixels, "C": count}, partial(tiles.elementwise, count))
    text = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)

    def call(p: Parameter) -> str:
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in everything_of(body)]), "N" if y.batched else "1"],
            {"PIXELS": pixels, "C": count, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    images = N if y.batched else Size.of(1)
    parts = cdiv(images * pixels, tile.m)
    state.add(
        name, kernel, [text], call, [everything_of(body)], (parts, cdiv(count, tile.n)), tile,
        writes=tuple(body.written), kind=node.op,
        traffic=[traffic.once(y.spatial if y.batched else (pixels, 1), parts, count, tile,
                              images).of(body)],
    )  # fmt: skip


def _reshape(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """flatten and unflatten between channels-last pixels and PyTorch's order."""
    node, plan = kernel.anchor, state.plan
    x, y = plan.type(raw), plan.type(node.name)
    image, template = (x, "to_nchw") if node.op == "flatten" else (y, "from_nchw")
    pixels, c = image.pixels, image.channels
    load, store = state.body(kernel), state.body(kernel)
    wide = At("pixel", "channel", "mask", c * pixels)
    narrow = At("pixel", "channel", "mask", c)
    source, target = (narrow, wide) if node.op == "flatten" else (wide, narrow)
    load_text = load.load_function(f"{name}_load_x", raw, source.width, "x")
    store.names.add("tile")
    store.store(node.name, "tile", target)
    store_text = store.function(f"{name}_store_y", "tile, pixel, channel, mask, part, args", store.lines)
    tile = state.tile(name, kernel, node.op, {"PIXELS": pixels, "C": c}, partial(tiles.elementwise, c))

    def call(p: Parameter) -> str:
        head = [f"{name}_load_x", as_tuple([p(b) for b in load.args]), f"{name}_store_y",
                as_tuple([p(b) for b in everything_of(store)]), "N"]  # fmt: skip
        return call_text(template, head, {"PIXELS": pixels, "C": c, "BLOCK_M": tile.m, "BLOCK_N": tile.n})

    state.add(
        name, kernel, [load_text, store_text], call, [load.args, everything_of(store)], tile_grid(pixels, c, tile),
        tile, writes=tuple(store.written), kind=node.op,
        traffic=[traffic.once(x.spatial, cdiv(N * pixels, tile.m), c, tile).of(load), traffic.stored(store)],
    )  # fmt: skip


def _copy_filters(state: Lowering, kernel: Kernel, name: str, raw: str, start: int) -> None:
    """All filters of one weight, as they lie, to element ``start`` of the result."""
    place, count = state.plan.place(raw), prod(state.plan.type(raw).per_image)
    whole = prod(state.plan.type(kernel.anchor.name).per_image)
    args = {place.buffer: "w", kernel.anchor.name: "out"}
    line = f"tl.store(out + {start} + channel, tl.load(w + {place.offset} + channel, mask=mask), mask=mask)"
    text = plain_function(f"{name}_body", "pixel, channel, mask, part, args", list(args.values()), [line])
    tile = tiles.elementwise(count, state.form(name).smaller)

    def call(p: Parameter) -> str:
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in args]), "1"],
            {"PIXELS": 1, "C": count, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, [text], call, [args], (1, cdiv(count, tile.n)), tile, writes=(kernel.anchor.name,),
        kind=kernel.anchor.op,
        traffic=[traffic.loads(place.buffer, count), traffic.channels_stored(kernel.anchor.name, count, whole)],
    )  # fmt: skip


COPIES = {"flatten": _reshape, "unflatten": _reshape, "concat_filters": _copy_filters}
