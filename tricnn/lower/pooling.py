"""Lowering of pooling and of its gradients: max (and the position of each maximum), average, global average."""

from __future__ import annotations

from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import At
from .lowering import Lowering, Parameter, as_tuple, call_text, epilogue, everything_of, tile_grid
from .pointwise import lower_pointwise
from .size import N, cdiv
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
    sums = any(n.row.side_sum == "stored" for n in kernel.nodes)
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

    parts = cdiv(N * rows, tile.m)
    side_buffers(state, store, parts, c)
    state.add(
        name, kernel, [load_text, store_text], call, [load.args, index, everything_of(store)],
        tile_grid(rows, c, tile), tile, writes=tuple(store.written), kind=node.op,
        flops=prod(plan.type(node.name).per_image), traffic=traffic.pool_grad(load, store, index, constants, tile),
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c)
