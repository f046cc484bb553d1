"""Lowering of convolutions, dense layers and their gradients: implicit matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ..compiler.plan import Kernel, Place, Plan
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import At, Body
from .boxes import ALIGNED, Boxes, as_it_lies, in_boxes, pixel_by_pixel, weight_boxes
from .lowering import Lowering, Parameter, as_tuple, call_text, epilogue, everything_of, plain_function
from .size import N, Size, cdiv
from .sums import finish_sides, lower_split_sum, side_buffers


def conv_sizes(plan: Plan, node: Node) -> dict[str, int]:
    """C H W K R S P Q of a contraction, from the types of its operands and result."""
    t = plan.type
    if node.op.startswith("linear"):
        if node.op == "linear_grad_weight":
            k, c = t(node.name).per_image
        else:
            k, c = t(node.inputs[1]).per_image
        return {"C": c, "H": 1, "W": 1, "K": k, "R": 1, "S": 1, "P": 1, "Q": 1}
    x, w, y = {
        "conv2d": lambda: (t(node.inputs[0]), t(node.inputs[1]), t(node.name)),
        "conv2d_grad_input": lambda: (t(node.name), t(node.inputs[1]), t(node.inputs[0])),
        "conv2d_grad_weight": lambda: (t(node.inputs[1]), t(node.name), t(node.inputs[0])),
    }[node.op]()
    (h, wd), (p, q), (r, s) = x.spatial, y.spatial, w.per_image[2:]
    return {"C": x.channels, "H": h, "W": wd, "K": y.channels, "R": r, "S": s, "P": p, "Q": q}


def geometry(node: Node) -> dict[str, int]:
    """Stride, dilation, padding and groups where they differ from the template's defaults."""
    if node.op.startswith("linear"):
        return {}
    a = node.attrs
    (sh, sw), (dh, dw), pad = a["stride"], a["dilation"], a["padding"]
    every = {"SH": (sh, 1), "SW": (sw, 1), "DH": (dh, 1), "DW": (dw, 1), "PT": (pad[0], 0), "PL": (pad[2], 0)}
    every["GROUPS"] = (a["groups"], 1)
    return {key: value for key, (value, default) in every.items() if value != default}


def _blocks(tile: tiles.Tile) -> dict[str, int]:
    return {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}


def operand(load: str, args: Mapping[str, str], descriptor: str | None, p: Parameter) -> list[str]:
    """How a template is told of an operand: the function that loads it and its arguments, or a descriptor."""
    return ["None", p(descriptor)] if descriptor else [load, as_tuple([p(b) for b in args])]


def by_boxes(descriptor: str | None) -> dict[str, bool]:
    """Weights come by a descriptor."""
    return {"W_BOXES": True} if descriptor else {}


def each_row_apart(c: Mapping[str, int], options: Mapping[str, int], depth: int, tile: tiles.Tile) -> bool:
    """Does a row of the result depend on one row of the image only, all of whose channels are there? Then it does not
    matter what lies in rows beyond the last one: they are not stored."""
    return pixel_by_pixel(c, options) and depth % tile.k == 0


def result_at(state: Lowering, store: Body, channels: int, boxes: Boxes | None) -> At:
    """The place of a product's result. Where its tiles have a corner, they are stored by descriptors."""
    if boxes and boxes.corner:
        m, n = boxes.tile.m, boxes.tile.n

        def described(place: Place) -> str | None:
            """Amid other channels only whole tiles may be stored so."""
            fits = place.pitch == channels or (channels % n == 0 and place.offset % ALIGNED == 0)
            return state.descriptor(place.buffer, (place.pitch,), (m, n)) if fits else None

        store.described = described
        store.names |= set(boxes.corner)
    return At("pixel", "channel", "mask", channels, corner=boxes.corner if boxes else None)


def lower_fprop(state: Lowering, kernel: Kernel) -> None:
    """conv2d and linear: rows are output pixels, columns filters."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c = conv_sizes(plan, node)
    g = geometry(node)
    groups = g.get("GROUPS", 1)
    window, pooled = kernel.window, prod(kernel.window) > 1
    pixels = prod(plan.covered(kernel)) if pooled else c["P"] * c["Q"]
    windows = {"WINDOW_H": window[0], "WINDOW_W": window[1]} if pooled else {}
    tile = state.tile(name, kernel, node.op, {**c, **g, **windows}, lambda attempt: tiles.contraction(
        pixels * state.batch, c["K"] // groups, c["R"] * c["S"] * c["C"] // groups, state.dtype, state.target,
        attempt,
    ))  # fmt: skip
    load, store = state.body(kernel), state.body(kernel)
    rows_apart = each_row_apart(c, {**g, **windows}, c["C"], tile)
    load_text = load.load_function(
        f"{name}_load_x", node.inputs[0], c["C"], "x", multiplied=True, zeros=not rows_apart
    )  # fmt: skip
    weight = state.multiplied(node.inputs[1])
    boxes = in_boxes(state, kernel, weight, c, {**g, **windows}, tile)
    at = result_at(state, store, c["K"], boxes)
    result = "acc"
    if len(node.inputs) > 2:
        result = store.let("conv" if node.op == "conv2d" else "y", f"acc + {store.value(node.inputs[2], at, 'bias')}")
    epilogue(store, kernel, at, node.name, result)
    head = boxes.head if boxes else f"acc, pixel, channel, mask, {'window, ' if pooled else ''}part, args"
    store_text = store.function(f"{name}_store_y", head, store.lines)
    helpers = [load_text, store_text]
    keep = state.body(kernel)
    if plan.storage(node.inputs[0]) in kernel.writes:
        keep.names.add("tile")
        keep.store(plan.storage(node.inputs[0]), "tile", At("pixel", "channel", "mask", c["C"]), as_it_is=True)
        helpers.append(keep.function(f"{name}_keep_x", "tile, pixel, channel, mask, args", keep.lines))
    x_boxes, w_boxes = (boxes.image, boxes.weight) if boxes else (None, None)
    if not boxes:
        gathers = not pixel_by_pixel(c, {**g, **windows}) or c["C"] < 16
        x_boxes = None if gathers else as_it_lies(state, kernel, 0, (c["C"],), (tile.m, tile.k))
        w_boxes = weight_boxes(state, weight, c, g, (tile.n, tile.k)) if c["C"] >= 16 else None
    w_args, x_args = {w_boxes or weight: "weight"}, {x_boxes: "x"} if x_boxes else load.args
    helpers = helpers[1:] if x_boxes else helpers

    def call(p: Parameter) -> str:
        if boxes:
            return boxes.call(f"{name}_store_y", p, store, c, g)
        return call_text(
            "conv2d_fprop",
            [*operand(f"{name}_load_x", x_args, x_boxes, p), *map(p, w_args), f"{name}_store_y",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**c, **g, **windows, **_blocks(tile), "PRECISION": state.precision, **by_boxes(w_boxes)},
            [f"keep_x={name}_keep_x", f"keep_args={as_tuple([p(b) for b in keep.written])}"] if keep.written else [],
        )  # fmt: skip

    parts = boxes.parts if boxes else cdiv(N * pixels, tile.m)
    grid = (boxes.grid,) if boxes else (parts * cdiv(c["K"] // groups, tile.n), groups)
    side_buffers(state, store, parts, c["K"])
    state.add(
        name, kernel, helpers, call, [x_args, w_args, everything_of(store), keep.written], grid, tile,
        writes=(*store.written, *keep.written), kind=node.op, flops=2 * plan.graph.node_macs(node),
        traffic=[*traffic.fprop(load, store, weight, {**c, **g}, tile, window, boxes.cover if boxes else None),
                 traffic.stored(keep)],
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c["K"])


def lower_dgrad(state: Lowering, kernel: Kernel) -> None:
    """conv2d_grad_input and linear_grad_input: rows are input pixels, columns channels."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c, g = conv_sizes(plan, node), geometry(node)
    groups, sh, sw = g.get("GROUPS", 1), g.get("SH", 1), g.get("SW", 1)
    rows = cdiv(c["H"], sh) * cdiv(c["W"], sw)
    tile = state.tile(name, kernel, node.op, {**c, **g}, lambda attempt: tiles.contraction(
        rows * state.batch, c["C"] // groups, c["R"] * c["S"] * c["K"] // groups, state.dtype, state.target, attempt,
    ))  # fmt: skip
    if tile.k > max(tiles.power_of_two(c["K"] // groups), 16):
        tile = replace(tile, k=max(tiles.power_of_two(c["K"] // groups), 16))
    load, store = state.body(kernel), state.body(kernel)
    load_text = load.load_function(
        f"{name}_load_dy", node.inputs[0], c["K"], "dy", multiplied=True, zeros=not each_row_apart(c, g, c["K"], tile)
    )
    weight = state.multiplied(node.inputs[1])
    boxes = in_boxes(state, kernel, weight, c, g, tile)
    at = result_at(state, store, c["C"], boxes)
    result = "acc"
    if len(node.inputs) > 2:
        result = store.let("conv", f"acc + {store.value(node.inputs[2], at, 'bias')}")
    epilogue(store, kernel, at, node.name, result)
    head = boxes.head if boxes else "acc, pixel, channel, mask, part, args"
    store_text = store.function(f"{name}_store_dx", head, store.lines)
    dy_boxes, w_boxes = (boxes.image, boxes.weight) if boxes else (None, None)
    if not boxes:
        dy_boxes = as_it_lies(state, kernel, 0, (c["K"],), (tile.m, tile.k)) if pixel_by_pixel(c, g) else None
        w_boxes = weight_boxes(state, weight, c, g, (tile.k, tile.n))
    w_args, dy_args = {w_boxes or weight: "weight"}, {dy_boxes: "dy"} if dy_boxes else load.args
    helpers = [store_text] if dy_boxes else [load_text, store_text]

    def call(p: Parameter) -> str:
        if boxes:
            return boxes.call(f"{name}_store_dx", p, store, c, g)
        return call_text(
            "conv2d_dgrad",
            [*operand(f"{name}_load_dy", dy_args, dy_boxes, p), *map(p, w_args), f"{name}_store_dx",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**c, **g, **_blocks(tile), "PRECISION": state.precision, **by_boxes(w_boxes)},
        )  # fmt: skip

    parts = boxes.parts if boxes else cdiv(N * rows, tile.m)
    grid = (boxes.grid,) if boxes else (parts * cdiv(c["C"] // groups, tile.n), groups, sh * sw)
    parts = parts * (sh * sw)
    side_buffers(state, store, parts, c["C"])
    state.add(
        name, kernel, helpers, call, [dy_args, w_args, everything_of(store)], grid, tile,
        writes=tuple(store.written), kind=node.op, flops=2 * plan.graph.node_macs(node),
        traffic=traffic.dgrad(load, store, weight, {**c, **g}, tile, boxes.cover if boxes else None),
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c["C"])


def lower_wgrad(state: Lowering, kernel: Kernel) -> None:
    """conv2d_grad_weight and linear_grad_weight, with the bias gradient as a side sum. Where the sum over pixels is
    split, partial sums of both lie side by side and one more launch adds them in order."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c, g = conv_sizes(plan, node), geometry(node)
    groups = g.get("GROUPS", 1)
    columns = c["R"] * c["S"] * c["C"] // groups
    pixels = c["P"] * c["Q"] * state.batch
    tile = state.tile(name, kernel, node.op, {**c, **g}, lambda attempt: tiles.contraction(
        c["K"] // groups, columns, pixels, state.dtype, state.target, attempt, dealt_out=True,
        tap=c["C"] // groups if c["R"] * c["S"] > 1 else 0,
    ))  # fmt: skip
    count = cdiv(c["K"] // groups, tile.m) * cdiv(columns, tile.n)
    split = tiles.split_of(state.target, count * groups, pixels, tile.k, tile.warps)
    bias = next((n for n in kernel.nodes if n.op == "channel_sum"), None)
    load_dy, load_x = state.body(kernel), state.body(kernel)
    # Tensor cores take tf32 with the summed axis innermost only, and here it is outermost. A tile that went straight to
    # shared memory would go there number by number; one that is rounded on the way is loaded 16 bytes at a time.
    tf32 = state.precision == "tf32"
    # A product is 0 where one of its operands is; but the gradient of the bias adds up dy.
    dy_text = load_dy.load_function(
        f"{name}_load_dy", node.inputs[0], c["K"], "dy", multiplied=True, tf32=tf32, zeros=bias is not None
    )
    x_text = load_x.load_function(f"{name}_load_x", node.inputs[1], c["C"], "x", multiplied=True, tf32=tf32)
    total = c["K"] * columns
    everything = total + (c["K"] if bias else 0)
    if split > 1:
        partial = state.workspace(f"{name}:partial", split * everything)
        dw_args = bias_args = {partial: "partial"}
        dw_store = f"tl.store(partial + split * {everything} + row * {columns} + column, acc, mask=mask)"
        bias_store = f"tl.store(partial + split * {everything} + {total} + channel, acc, mask=mask)"
    else:
        dw_args, bias_args = {node.name: "dw"}, {bias.name: "db"} if bias else {}
        dw_store = f"tl.store(dw + row * {columns} + column, acc, mask=mask)"
        bias_store = "tl.store(db + channel, acc, mask=mask)"
    dy_boxes = as_it_lies(state, kernel, 0, (c["K"],), (tile.k, tile.m)) if groups == 1 else None
    x_boxes = as_it_lies(state, kernel, 1, (c["C"],), (tile.k, tile.n)) if pixel_by_pixel(c, g) else None
    dy_args, x_args = {dy_boxes: "dy"} if dy_boxes else load_dy.args, {x_boxes: "x"} if x_boxes else load_x.args
    helpers = ([] if dy_boxes else [dy_text]) + ([] if x_boxes else [x_text])
    helpers.append(
        plain_function(f"{name}_store_dw", "acc, row, column, mask, split, args", list(dw_args.values()), [dw_store])
    )
    if bias:
        helpers.append(
            plain_function(
                f"{name}_store_db", "acc, channel, mask, split, args", list(bias_args.values()), [bias_store]
            )
        )

    def call(p: Parameter) -> str:
        return call_text(
            "conv2d_wgrad",
            [*operand(f"{name}_load_dy", dy_args, dy_boxes, p), *operand(f"{name}_load_x", x_args, x_boxes, p),
             f"{name}_store_dw", as_tuple([p(b) for b in dw_args]),
             f"{name}_store_db" if bias else "None", as_tuple([p(b) for b in bias_args]) if bias else "()", "N"],
            {**c, **g, "SPLIT": split, "BIAS": bias is not None, **_blocks(tile), "PRECISION": state.precision},
        )  # fmt: skip

    grid = (count, groups, split)
    written = tuple(dict.fromkeys([*dw_args, *(bias_args if bias else {})]))
    state.add(
        name, kernel, helpers, call, [dy_args, x_args, dw_args, bias_args if bias else {}], grid, tile,
        writes=written, kind=node.op, flops=2 * plan.graph.node_macs(node),
        traffic=traffic.wgrad(load_dy, load_x, {**c, **g}, tile),
    )  # fmt: skip
    if split > 1:
        db = bias.name if bias else None
        lower_split_sum(state, kernel, partial, Size.of(split), total, everything, node.name, db)
