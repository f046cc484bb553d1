"""Lowering of everything that is neither a contraction nor a sum over pixels: pooling, pointwise, loss, copies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..compiler.roles import SIDE_SUMS
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import At
from .lowering import Lowering, Parameter, as_tuple, call_text, epilogue, everything_of, plain_function, tile_grid
from .program import element
from .sums import finish_sides, side_buffers


def _window(state: Lowering, node: Node, image: str, pooled: str) -> dict[str, int]:
    """Constants of the pooling templates."""
    x, y = state.plan.type(image), state.plan.type(pooled)
    (h, w), (p, q) = x.spatial, y.spatial
    a = node.attrs
    r, s = a.get("kernel_size", (h, w))
    sh, sw = a.get("stride", (r, s))
    top, bottom, left, right = a.get("padding", (0, 0, 0, 0))
    c = {"C": x.channels, "H": h, "W": w, "R": r, "S": s, "P": p, "Q": q, "SH": sh, "SW": sw}
    if node.op.startswith("max"):
        return {**c, "PT": top, "PL": left}
    include = a.get("count_include_pad", True)
    return {**c, "PT": top, "PB": bottom, "PL": left, "PR": right, "INCLUDE_PAD": include}


def lower_pool(state: Lowering, kernel: Kernel) -> None:
    """max_pool2d (and its index), avg_pool2d, global_avg_pool."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    constants = _window(state, node, node.inputs[0], node.name)
    c, rows = constants["C"], constants["P"] * constants["Q"]
    tile = state.tile(name, kernel, node.op, constants, partial(tiles.elementwise, c))
    load, store = state.body(kernel), state.body(kernel)
    load_text = load.load_function(f"{name}_load_x", node.inputs[0], c, "x")
    at = At("pixel", "channel", "mask", c)
    index = next((n for n in kernel.nodes if n.op == "max_pool2d_index"), None)
    if index is not None:
        store.known[index.name, at] = "index"
        if index.name in kernel.writes:
            store.store(index.name, "index", at)
    store.names |= {"value", "index"}
    if node.op != "max_pool2d_index":
        epilogue(store, kernel, at, node.name, "value")
    is_max = node.op.startswith("max")
    head = "value, index, pixel, channel, mask, part, args" if is_max else "value, pixel, channel, mask, part, args"
    store_text = store.function(f"{name}_store_y", head, store.lines)

    def call(p: Parameter) -> str:
        return call_text(
            "max_pool2d" if is_max else "avg_pool2d",
            [f"{name}_load_x", as_tuple([p(b) for b in load.args]), f"{name}_store_y",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**constants, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    flops = constants["R"] * constants["S"] * prod(plan.type(node.name).per_image)
    state.add(
        name, kernel, [load_text, store_text], call, [load.args, everything_of(store)], tile_grid(rows, c, tile), tile,
        writes=tuple(store.written), kind=node.op, flops=flops, traffic=traffic.pool(load, store, constants, tile),
    )  # fmt: skip


def lower_pool_grad(state: Lowering, kernel: Kernel) -> None:
    """max_pool2d_grad and avg_pool2d_grad, in gather form; global_avg_pool_grad is one pass."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    if node.op == "global_avg_pool_grad":
        lower_pointwise(state, kernel)
        return
    constants = _window(state, node, node.name, node.inputs[0])
    c, rows = constants["C"], constants["H"] * constants["W"]
    sums = any(n.op in SIDE_SUMS for n in kernel.nodes)
    kind, rule = (f"{node.op}_with_sums", tiles.with_sums) if sums else (node.op, tiles.elementwise)
    tile = state.tile(name, kernel, kind, constants, partial(rule, c))
    load, store = state.body(kernel), state.body(kernel)
    load_text = load.load_function(f"{name}_load_dy", node.inputs[0], c, "dy")
    epilogue(store, kernel, At("pixel", "channel", "mask", c), node.name, "acc")
    store_text = store.function(f"{name}_store_dx", "acc, pixel, channel, mask, part, args", store.lines)
    index = {plan.storage(node.inputs[1]): "index"} if node.op == "max_pool2d_grad" else {}

    def call(p: Parameter) -> str:
        return call_text(
            node.op,
            [f"{name}_load_dy", as_tuple([p(b) for b in load.args]), *[p(b) for b in index], f"{name}_store_dx",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**constants, "BLOCK_M": tile.m, "BLOCK_N": tile.n, **({"WIDE": True} if index and state.wide else {})},
        )  # fmt: skip

    parts = f"cdiv(N * {rows}, {tile.m})"
    side_buffers(state, store, parts, c)
    state.add(
        name, kernel, [load_text, store_text], call, [load.args, index, everything_of(store)],
        tile_grid(rows, c, tile), tile, writes=tuple(store.written), kind=node.op,
        flops=prod(plan.type(node.name).per_image), traffic=traffic.pool_grad(load, store, index, constants, tile),
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c)


def lower_loss(state: Lowering, kernel: Kernel) -> None:
    """cross_entropy, its gradient, or both in one pass over the logits; then the mean of the rows' losses."""
    plan, name = state.plan, kernel.name
    loss = next((n for n in kernel.nodes if n.op == "cross_entropy"), None)
    grad = next((n for n in kernel.nodes if n.op == "cross_entropy_grad"), None)
    node = loss or grad
    assert node is not None
    logits, labels = node.inputs[-2:]
    c = plan.type(logits).channels
    width = tiles.power_of_two(c)
    rows = max(1, min(16, 2048 // width))
    load = state.body(kernel)
    load_text = load.load_function(f"{name}_load_x", logits, c, "logits")
    losses = state.workspace(f"{name}:losses", "N") if loss else None
    upstream = plan.graph.by_name[grad.inputs[0]].attrs["value"] if grad else 1.0
    scale = node.attrs["weight"] * upstream
    outputs = ([losses] if losses else []) + ([grad.name] if grad else [])
    out = ({losses: "losses"} if losses else {}) | ({grad.name: "dlogits"} if grad else {})

    def call(p: Parameter) -> str:
        return call_text(
            "cross_entropy",
            [f"{name}_load_x", as_tuple([p(b) for b in load.args]), p(labels), p(losses) if losses else "None",
             p(grad.name) if grad else "None", "N"],
            {"C": c, "BLOCK_M": rows, "BLOCK_N": width, "SMOOTHING": node.attrs["label_smoothing"], "SCALE": scale,
             "LOSSES": loss is not None, "GRAD": grad is not None},
        )  # fmt: skip

    state.add(
        name, kernel, [load_text], call, [load.args, {labels: "labels"}, out], (f"cdiv(N, {rows})",),
        tiles.Tile(rows, width, 1, 4, 1), writes=tuple(outputs), kind="cross_entropy", flops=5 * c,
        traffic=[traffic.once((1, 1), f"cdiv(N, {rows})", c, tiles.Tile(rows, width, 1, 4, 1)).of(load),
                 traffic.loads(labels, "N")],
    )  # fmt: skip
    if loss is None or losses is None:
        return

    def mean(p: Parameter) -> str:
        return call_text(
            "mean_rows", [p(losses), p(loss.name), "N"], {"BLOCK": 1024, "SCALE": loss.attrs["weight"]}
        )  # fmt: skip

    state.add(
        f"{name}_mean", kernel, [], mean, [{losses: "losses", loss.name: "loss"}], ("1",),
        tiles.Tile(1, 1024, 1, 4, 1), writes=(loss.name,), kind="mean_rows", traffic=[traffic.loads(losses, "N")],
    )  # fmt: skip


def lower_rows(state: Lowering, kernel: Kernel) -> None:
    """softmax, local_response_norm and their gradients: sums along the channels of each pixel."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    type_ = plan.type(node.name)
    c, a = type_.channels, node.attrs
    constants: dict[str, object] = {"C": c}
    if node.op.startswith("softmax"):
        width = tiles.power_of_two(c)
        tile = tiles.Tile(max(1, min(16, 2048 // width)), width, 1, 4, 1)
        grid: tuple[str, ...] = (f"cdiv(N, {tile.m})",)
    else:
        shape = {"PIXELS": type_.pixels, "C": c, "SIZE": a["size"]}
        tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, c))
        grid = tile_grid(type_.pixels, c, tile)
        constants |= {"PIXELS": type_.pixels, "SIZE": a["size"], "ALPHA": a["alpha"], "BETA": a["beta"], "BIAS": a["k"]}
    at = At("pixel", "channel", "mask", c)
    store = state.body(kernel)
    store.names.add("tile")
    epilogue(store, kernel, at, node.name, "tile")
    store_text = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    loads, texts = [], [store_text]
    for i, role in enumerate({"softmax_grad": ("dy", "y"), "local_response_norm_grad": ("dy", "x")}.get(node.op, "x")):
        load = state.body(kernel)
        texts.append(load.load_function(f"{name}_load_{role}", node.inputs[i], c, role))
        loads.append((role, load))

    each = traffic.once(type_.spatial, grid[0], c, tile)
    again = traffic.normalised_channels(node.op, c, a["size"]) if "size" in a else {}

    def call(p: Parameter) -> str:
        positional = [t for role, b in loads for t in (f"{name}_load_{role}", as_tuple([p(v) for v in b.args]))]
        return call_text(
            node.op, [*positional, f"{name}_store", as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**constants, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, texts, call, [*[b.args for _, b in loads], everything_of(store)], grid, tile,
        writes=tuple(store.written), kind=node.op, flops=5 * prod(type_.per_image),
        traffic=[each.of(store), *(replace(each, channels=again.get(role)).of(load) for role, load in loads)],
    )  # fmt: skip


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
        traffic=[traffic.once(y.spatial, f"cdiv(N * {y.pixels}, {tile.m})", y.channels, tile).of(body)],
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

    parts = f"cdiv({'N * ' if y.batched else ''}{pixels}, {tile.m})"
    state.add(
        name, kernel, [text], call, [everything_of(body)], (parts, f"{-(-count // tile.n)}"), tile,
        writes=tuple(body.written), kind=node.op,
        traffic=[traffic.once(y.spatial if y.batched else (pixels, 1), parts, count, tile,
                              "N" if y.batched else "1").of(body)],
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
        traffic=[traffic.once(x.spatial, f"cdiv(N * {pixels}, {tile.m})", c, tile).of(load), traffic.stored(store)],
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
        name, kernel, [text], call, [args], ("1", f"{-(-count // tile.n)}"), tile, writes=(kernel.anchor.name,),
        kind=kernel.anchor.op,
        traffic=[traffic.loads(place.buffer, f"{count}"), traffic.channels_stored(kernel.anchor.name, count, whole)],
    )  # fmt: skip


COPIES = {"flatten": _reshape, "unflatten": _reshape, "concat_filters": _copy_filters}


def lower_pointwise(state: Lowering, kernel: Kernel) -> None:
    """A chain of pointwise operations in one pass."""
    name, plan = kernel.name, state.plan
    type_ = plan.type(kernel.anchor.name)
    channels = type_.per_image[-1] if not type_.batched and type_.per_image else (type_.channels if type_.shape else 1)
    pixels = type_.pixels if type_.batched else type_.elements(1) // channels
    rows = f"N * {pixels}" if type_.batched else f"{pixels}"
    sums = any(n.op in SIDE_SUMS for n in kernel.nodes)
    shape = {"PIXELS": pixels, "C": channels}
    rule = partial(tiles.with_sums if sums else tiles.elementwise, channels)
    tile = state.tile(name, kernel, "pointwise_with_sums" if sums else "pointwise", shape, rule)
    body = state.body(kernel)
    at = At("pixel", "channel", "mask", channels)
    body.known[kernel.anchor.name, at] = body.compute(kernel.anchor, at)
    epilogue(body, kernel, at, kernel.anchor.name)
    text = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)

    def call(p: Parameter) -> str:
        count = "N" if type_.batched else "1"
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in everything_of(body)]), count],
            {"PIXELS": pixels, "C": channels, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    parts = f"cdiv({rows}, {tile.m})"
    side_buffers(state, body, parts, channels)
    grid = (parts, f"{-(-channels // tile.n)}")
    state.add(
        name, kernel, [text], call, [everything_of(body)], grid, tile, writes=tuple(body.written), kind="pointwise",
        flops=prod(type_.per_image) * len(kernel.nodes),
        traffic=[traffic.once(type_.spatial if type_.batched else (pixels, 1), grid[0], channels, tile,
                              "N" if type_.batched else "1").of(body)],
    )  # fmt: skip
    finish_sides(state, kernel, body, parts, channels)
