"""Lowering of sums over all pixels in a pass of their own: statistics, gradients of biases and norms."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from ..machine.long_sums import FORMED, LongSum
from . import traffic
from .body import Body
from .call import BATCH, Call, Helper, Pointer, Text, blocks, helper
from .expressions import statistics
from .lowering import Lowering, tile_grid
from .names import Argument, StepNumber
from .partial_sums import PartialResults, lower_merge, lower_split_sum
from .positions import At
from .size import N, Size, cdiv


def _splits(state: Lowering, rows: int, channels: int, tile: tiles.Tile) -> int:
    """How many programs share a sum over so many rows of each image."""
    blocks, elements = cdiv(rows * state.batch, tile.m), tile.m * tile.n
    columns, formed = cdiv(channels, tile.n), FORMED * elements
    return LongSum(state.target, columns, blocks, Fraction(0), formed, 8 * tile.n, tiles.TOGETHER, tile.warps).split


def lower_channel_sum(state: Lowering, kernel: Kernel) -> None:
    """Lower a bias gradient that no wgrad could take along: the sum of dy over all pixels."""
    node, name = kernel.anchor, kernel.name
    dy = state.plan.type(node.inputs[0])
    shape = {"PIXELS": dy.pixels, "C": dy.channels}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, dy.channels))
    split = _splits(state, dy.pixels, dy.channels, tile)
    load = state.body(kernel)
    load_dy = load.load_function(f"{name}_load_dy", node.inputs[0], dy.channels, "dy")
    target = state.workspace(name, "partial", split * dy.channels) if split > 1 else node.name
    line = f"tl.store(db + split * {dy.channels} + channel, total, mask=mask)"
    store = helper(
        f"{name}_store_db", "total, channel, mask, split, args", {target: "db"}, [line], (target,), node.name
    )
    state.add(
        name,
        kernel,
        Call("channel_sum", [load_dy, store, BATCH], {**shape, "SPLIT": split, **blocks(tile)}),
        (cdiv(dy.channels, tile.n), split),
        tile,
        kind=node.op,
        flops=prod(dy.per_image),
        traffic=[traffic.once(dy.spatial, cdiv(N * dy.pixels, tile.m), dy.channels, tile).of(load)],
    )
    if split > 1:
        results = PartialResults(target, Size.of(split), dy.channels, dy.channels)
        lower_split_sum(state, kernel, results, node.name)


def lower_normalize_sums(state: Lowering, kernel: Kernel) -> None:
    """Lower normalize_grad_sums: the sums of dy and of dy * xhat in one pass."""
    node, name = kernel.anchor, kernel.name
    x = state.plan.type(node.inputs[1])
    c = x.channels
    shape = {"PIXELS": x.pixels, "C": c}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, c))
    split = _splits(state, x.pixels, c, tile)
    load = state.body(kernel)
    load_both = _both(load, kernel, c)
    place = state.plan.place(node.name)
    target = state.workspace(name, "partial", split * 2 * c) if split > 1 else place.buffer
    start = f"split * {2 * c} + " if split > 1 else f"{place.offset} + " if place.offset else ""
    lines = [
        f"tl.store(sums + {start}channel, first, mask=mask)",
        f"tl.store(sums + {start}{c if split > 1 else place.pitch} + channel, second, mask=mask)",
    ]
    parameters = "first, second, channel, mask, split, args"
    store = helper(f"{name}_store", parameters, {target: "sums"}, lines, (target,), node.name)
    written = [traffic.channels_stored(target, c, place.pitch)] if split == 1 else []
    state.add(
        name,
        kernel,
        Call("channel_sum_pair", [load_both, store, BATCH], {**shape, "SPLIT": split, **blocks(tile)}),
        (cdiv(c, tile.n), split),
        tile,
        kind=node.op,
        flops=4 * prod(x.per_image),
        traffic=[traffic.once(x.spatial, cdiv(N * x.pixels, tile.m), c, tile).of(load), *written],
    )
    if split > 1:
        lower_split_sum(state, kernel, PartialResults(target, Size.of(split), 2 * c, 2 * c), node.name)


def _both(load: Body, kernel: Kernel, c: int) -> Helper:
    """The function that loads dy and dy * xhat."""
    node, at = kernel.anchor, At("pixel", "channel", "mask", c)
    dy, z = load.operand(node, 0, at), load.operand(node, 1, at)
    mean, var = statistics(load, node, 2, at)
    load.write(f"dy = tl.where(mask, {dy}, 0.0)")
    load.write(f"return dy, dy * (({z} - {mean}) * tl.rsqrt({var} + {node.attrs['eps']}))")
    return load.function(f"{kernel.name}_load", "pixel, channel, mask, args", load.lines)


def lower_batch_stats(state: Lowering, kernel: Kernel) -> None:
    """Lower batch_stats: statistics of tiles, then their merge, which also updates the running statistics."""
    node, name = kernel.anchor, kernel.name
    x = state.plan.type(node.inputs[0])
    shape = {"PIXELS": x.pixels, "C": x.channels}
    tile = state.tile(name, kernel, node.op, shape, partial(tiles.with_sums, x.channels))
    load = state.body(kernel)
    load_x = load.load_function(f"{name}_load_x", node.inputs[0], x.channels, "x")
    parts = cdiv(N * x.pixels, tile.m)
    results = state.workspace(name, "partial", parts * (3 * x.channels))
    operands = [load_x, Pointer(results, "partial", stored=True), BATCH]
    state.add(
        name,
        kernel,
        Call("batch_stats", operands, {**shape, **blocks(tile)}),
        tile_grid(x.pixels, x.channels, tile),
        tile,
        kind=node.op,
        flops=4 * prod(x.per_image),
        traffic=[traffic.once(x.spatial, parts, x.channels, tile).of(load)],
    )
    lower_merge(state, kernel, node, results, x.channels, parts)


def lower_running(state: Lowering, kernel: Kernel) -> None:
    """Lower running_mean or running_var by itself, where no merge of statistics took it along."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c = plan.type(node.name).per_image[0]
    running, place = node.inputs[0], plan.place(node.inputs[1])
    stats, momentum, block = place.buffer, node.attrs["momentum"], 128
    first = place.offset + (place.pitch if node.op == "running_var" else 0)
    lines = [f"new = tl.load(stats + {first} + channel, mask=channel < {c}, other=0.0)"]
    if node.op == "running_var":
        lines.append(f"count = N * {plan.type(node.inputs[2]).pixels}.0")
        lines.append("new = new * (count / tl.maximum(count - 1.0, 1.0))")
    lines += [
        f"old = tl.load(running + channel, mask=channel < {c}, other=0.0)",
        f"tl.store(out + channel, {1 - momentum!r} * old + {momentum!r} * new, mask=channel < {c})",
    ]
    needs: dict[Argument, str] = {running: "running", stats: "stats", node.name: "out", StepNumber.BATCH: "N"}
    body = helper(f"{name}_body", "pixel, channel, mask, part, args", needs, lines, (node.name,), node.name)
    state.add(
        name,
        kernel,
        Call("pointwise", [body, Text("1")], {"PIXELS": 1, "C": c, "BLOCK_M": 1, "BLOCK_N": block}),
        (1, cdiv(c, block)),
        tiles.Tile(1, block, 1, 4, 1),
        kind="pointwise",
        traffic=[traffic.loads(running, c), traffic.loads(stats, c, c / plan.type(stats).elements(1))],
    )
