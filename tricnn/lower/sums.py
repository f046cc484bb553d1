"""Lowering of sums over pixels: statistics, gradients of biases and norms, and the partial results tiles leave behind.

A sum over all pixels is dealt out between programs. Each leaves a partial result, and one more launch (two, where there
are very many) adds them in a fixed order.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial as fixed
from math import prod

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import At, Body
from .expressions import statistics
from .lowering import Lowering, Parameter, as_tuple, call_text, identifier, plain_function, tile_grid
from .program import SUM_BLOCK, SUM_TABLE, Buffer, PartialSum
from .size import N, Size, cdiv

#: how many parts the one launch for many tensors adds at once
SUM_PARTS = 8

#: more partial results than MANY are first added in GROUPS groups, each by programs of its own
MANY, GROUPS = 8192, 32


def _block(parts: int, width: int) -> tuple[int, int]:
    """How many partial results, of how many numbers each, a program adds at once: few numbers where results are many,
    so that there are programs enough and a row is still a whole sector of memory."""
    return (128, 16) if parts > 512 else (min(tiles.power_of_two(parts), 16), width)


def lower_split_sum(
    state: Lowering, kernel: Kernel, partial: str, parts: Size, total: int, everything: int, dw: str, db: str | None,
    suffix: str = "",
) -> None:  # fmt: skip
    """dw (and db behind it) = the sum of the partial sums, in order.

    Gradients of parameters, which no kernel of the step reads, wait for one launch that finishes them all.
    """
    place = state.plan.place(dw)
    amid = place.buffer != dw  # rows of numbers amid longer ones
    if state.plan.fused and parts.fixed and not {place.buffer, db} & state.read:
        length = everything - total if db else 0
        state.sums.append(PartialSum(partial, 0, parts.fixed, everything, dw, total))
        if db:
            state.sums.append(PartialSum(partial, total, parts.fixed, everything, db, length))
        return
    name = identifier(f"{kernel.name}_sum{suffix and '_'}{suffix}")
    count = parts.at(state.batch)

    def launch(name: str, helper: str, outputs: dict[str, str], source: str, parts: Size, split: int) -> None:
        share = [traffic.channels_stored(place.buffer, state.plan.type(dw).channel_count, place.pitch)]
        rows, block = _block(cdiv(parts.at(state.batch), split), 128)

        def call(p: Parameter) -> str:
            return call_text(
                "sum_partials",
                [p(source), f"{name}_store", as_tuple([p(b) for b in outputs]), parts.text("tl.cdiv")],
                {"LENGTH": everything, "SPLIT": split, "BLOCK_P": rows, "BLOCK": block},
            )  # fmt: skip

        state.add(
            name, kernel, [helper], call, [{source: "partial"}, outputs], (cdiv(everything, block), split),
            tiles.Tile(rows, block, 1, 4, 1), writes=tuple(outputs), kind="split_sum", flops=0,
            traffic=[traffic.loads(source, parts * everything),
                     *(share if amid and place.buffer in outputs else ())],
        )  # fmt: skip

    parameters = "total, element, mask, split, args"
    if count > MANY:
        groups = state.workspace(f"{name}:groups", GROUPS * everything)
        lines = [f"tl.store(groups + split * {everything} + element, total, mask=mask)"]
        helper = plain_function(f"{name}_groups_store", parameters, ["groups"], lines)
        launch(f"{name}_groups", helper, {groups: "groups"}, partial, parts, GROUPS)
        partial, parts = groups, Size.of(GROUPS)
    outputs = {place.buffer: "dw"} | ({db: "db"} if db else {})
    if amid:
        c = state.plan.type(dw).channel_count
        row = f"dw + {place.offset} + element // {c} * {place.pitch} + element % {c}"
        lines = [f"tl.store({row}, total, mask=mask)"]
    elif db:
        lines = [
            f"tl.store(dw + element, total, mask=mask & (element < {total}))",
            f"tl.store(db + (element - {total}), total, mask=mask & (element >= {total}))",
        ]
    else:
        lines = ["tl.store(dw + element, total, mask=mask)"]
    launch(name, plain_function(f"{name}_store", parameters, list(outputs.values()), lines), outputs, partial, parts, 1)


def lower_many_sums(state: Lowering) -> None:
    """The last launch: the partial sums that have waited."""
    last = next(k for k in reversed(state.plan.kernels) if any(s.target in k.writes for s in state.sums))
    blocks = sum(cdiv(s.length, SUM_BLOCK) for s in state.sums)
    state.buffers[SUM_TABLE] = Buffer(SUM_TABLE, "i64", Size.of(5 * blocks), persistent=True)
    name = "sum_weight_gradients"

    def call(p: Parameter) -> str:
        return call_text("sum_partials_of_many", [p(SUM_TABLE)], {"BLOCK_P": SUM_PARTS, "BLOCK": SUM_BLOCK})

    tile = tiles.Tile(SUM_PARTS, SUM_BLOCK, 1, 4, 1)
    state.add(
        name, last, [], call, [{SUM_TABLE: "table"}], (blocks,), tile, writes=(), kind="sum_partials_of_many",
        traffic=[traffic.loads(SUM_TABLE, 5 * blocks)],
    )  # fmt: skip
    launch = state.launches.pop()
    layers = tuple(dict.fromkeys(s.target for s in state.sums))
    sources = tuple(dict.fromkeys(s.source for s in state.sums))
    loads = {**launch.loads, **{b: state.buffers[b].size for b in sources}}
    state.launches.append(replace(launch, layers=layers, reads=(*launch.reads, *sources), writes=layers, loads=loads))


def side_buffers(state: Lowering, body: Body, parts: Size, channels: int) -> None:
    """Room for what each tile leaves of its side sums."""
    for node, partial in body.sides:
        state.workspace(partial, parts * ((3 if node.op == "batch_stats" else 2) * channels))


def finish_sides(state: Lowering, kernel: Kernel, body: Body, parts: Size, channels: int) -> None:
    """Launch what adds the tiles' partial results."""
    for node, partial in body.sides:
        if node.op == "batch_stats":
            lower_merge(state, kernel, node, partial, channels, parts)
        else:
            lower_split_sum(state, kernel, partial, parts, 2 * channels, 2 * channels, node.name, None, node.name)


def lower_merge(state: Lowering, kernel: Kernel, node: Node, partial: str, c: int, parts: Size) -> None:
    """stats = [mean, M2/count], and with it the new running statistics."""
    alone = sum(n.op == "batch_stats" for n in kernel.nodes) == 1
    name = f"{kernel.name}_merge" if alone else identifier(f"{kernel.name}_{node.name}_merge")
    count = parts.at(state.batch)
    if count > MANY:
        block = 32
        groups = state.workspace(f"{name}:groups", GROUPS * 3 * c)
        row = f"groups + split * {3 * c} + channel"
        helper = plain_function(
            f"{name}_groups_store", "count, mean, m2, channel, mask, split, args", ["groups"],
            [f"tl.store({row}, count, mask=mask)", f"tl.store({row} + {c}, mean, mask=mask)",
             f"tl.store({row} + {2 * c}, m2, mask=mask)"],
        )  # fmt: skip
        source, many = partial, parts

        def first(p: Parameter) -> str:
            return call_text(
                "merge_stats", [p(source), f"{name}_groups_store", f"({p(groups)},)", many.text("tl.cdiv")],
                {"C": c, "SPLIT": GROUPS, "BLOCK_P": 16, "BLOCK": block},
            )  # fmt: skip

        state.add(
            f"{name}_groups", kernel, [helper], first, [{partial: "partial"}, {groups: "groups"}],
            (cdiv(c, block), GROUPS), tiles.Tile(16, block, 1, 4, 1), writes=(groups,), kind="merge_stats",
            traffic=[traffic.loads(partial, parts * (5 * c))],
        )  # fmt: skip
        partial, parts, count = groups, Size.of(GROUPS), GROUPS
    rows, block = max(_block(count, 32)[0], 16), _block(count, 32)[1]
    place = state.plan.place(node.name)
    outputs, inputs = {place.buffer: "stats"}, {}
    row = f"stats + {place.offset} + channel" if place.offset else "stats + channel"
    lines = [
        f"tl.store({row}, mean, mask=mask)",
        f"tl.store(stats + {place.offset + place.pitch} + channel, m2 / count, mask=mask)",
    ]
    for update in kernel.nodes:
        if update.op not in ("running_mean", "running_var") or state.plan.storage(update.inputs[1]) != node.name:
            continue
        now = "mean" if update.op == "running_mean" else "(m2 / tl.maximum(count - 1.0, 1.0))"
        which, own, at = update.op[8:], "mask", "channel"
        if (width := state.plan.type(update.name).per_image[0]) < c:  # of one of several layers
            start = state.plan.place(update.inputs[1]).offset - place.offset
            own = f"inside_{start}"
            if (said := f"{own} = (channel >= {start}) & (channel < {start + width})") not in lines:
                lines.append(said)
            which, at = f"{which}_{start}", f"channel - {start}" if start else at
        inputs[update.inputs[0]], outputs[update.name] = old, new = f"old_{which}", f"new_{which}"
        lines.append(f"old = tl.load({old} + {at}, mask={own}, other=0.0)")
        momentum = update.attrs["momentum"]
        lines.append(f"tl.store({new} + {at}, {1 - momentum!r} * old + {momentum!r} * {now}, mask={own})")
    args = {**inputs, **outputs}
    store = plain_function(f"{name}_store", "count, mean, m2, channel, mask, split, args", list(args.values()), lines)

    def call(p: Parameter) -> str:
        return call_text(
            "merge_stats",
            [p(partial), f"{name}_store", as_tuple([p(b) for b in args]), parts.text("tl.cdiv")],
            {"C": c, "SPLIT": 1, "BLOCK_P": rows, "BLOCK": block},
        )  # fmt: skip

    state.add(
        name, kernel, [store], call, [{partial: "partial"}, args], (cdiv(c, block),),
        tiles.Tile(rows, block, 1, 4, 1), writes=tuple(outputs), kind="merge_stats",
        traffic=[traffic.loads(partial, parts * (5 * c)),
                 *(traffic.loads(b, state.plan.type(b).per_image[0]) for b in inputs),
                 traffic.channels_stored(place.buffer, c, place.pitch)],
    )  # fmt: skip


def _splits(state: Lowering, rows: int, channels: int, tile: tiles.Tile) -> int:
    return tiles.split_of(state.target, cdiv(channels, tile.n), rows * state.batch, tile.m)


def lower_channel_sum(state: Lowering, kernel: Kernel) -> None:
    """A bias gradient that no wgrad could take along."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    dy = plan.type(node.inputs[0])
    tile = state.tile(
        name, kernel, node.op, {"PIXELS": dy.pixels, "C": dy.channels}, fixed(tiles.elementwise, dy.channels)
    )
    split = _splits(state, dy.pixels, dy.channels, tile)
    load = state.body(kernel)
    load_text = load.load_function(f"{name}_load_dy", node.inputs[0], dy.channels, "dy")
    target = state.workspace(f"{name}:partial", split * dy.channels) if split > 1 else node.name
    line = f"tl.store(db + split * {dy.channels} + channel, total, mask=mask)"
    store_text = plain_function(f"{name}_store_db", "total, channel, mask, split, args", ["db"], [line])

    def call(p: Parameter) -> str:
        return call_text(
            "channel_sum",
            [f"{name}_load_dy", as_tuple([p(b) for b in load.args]), f"{name}_store_db", f"({p(target)},)", "N"],
            {"PIXELS": dy.pixels, "C": dy.channels, "SPLIT": split, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, [load_text, store_text], call, [load.args, {target: "db"}],
        (cdiv(dy.channels, tile.n), split), tile, writes=(target,), kind=node.op, flops=prod(dy.per_image),
        traffic=[traffic.once(dy.spatial, cdiv(N * dy.pixels, tile.m), dy.channels, tile).of(load)],
    )  # fmt: skip
    if split > 1:
        lower_split_sum(state, kernel, target, Size.of(split), dy.channels, dy.channels, node.name, None)


def lower_normalize_sums(state: Lowering, kernel: Kernel) -> None:
    """normalize_grad_sums: sum dy and sum dy * xhat in one pass."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    x = plan.type(node.inputs[1])
    c = x.channels
    tile = state.tile(name, kernel, node.op, {"PIXELS": x.pixels, "C": c}, fixed(tiles.elementwise, c))
    split = _splits(state, x.pixels, c, tile)
    load = state.body(kernel)
    at = At("pixel", "channel", "mask", c)
    dy, z = load.operand(node, 0, at), load.operand(node, 1, at)
    mean, var = statistics(load, node, 2, at)
    load.lines.append(f"dy = tl.where(mask, {dy}, 0.0)" if dy != "dy" else "dy = tl.where(mask, dy, 0.0)")
    load.lines.append(f"return dy, dy * (({z} - {mean}) * tl.rsqrt({var} + {node.attrs['eps']}))")
    load_text = load.function(f"{name}_load", "pixel, channel, mask, args", load.lines)
    place = plan.place(node.name)
    target = state.workspace(f"{name}:partial", split * 2 * c) if split > 1 else place.buffer
    start = f"split * {2 * c} + " if split > 1 else f"{place.offset} + " if place.offset else ""
    lines = [
        f"tl.store(sums + {start}channel, first, mask=mask)",
        f"tl.store(sums + {start}{c if split > 1 else place.pitch} + channel, second, mask=mask)",
    ]
    store_text = plain_function(f"{name}_store", "first, second, channel, mask, split, args", ["sums"], lines)

    def call(p: Parameter) -> str:
        return call_text(
            "channel_sum_pair",
            [f"{name}_load", as_tuple([p(b) for b in load.args]), f"{name}_store", f"({p(target)},)", "N"],
            {"PIXELS": x.pixels, "C": c, "SPLIT": split, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, [load_text, store_text], call, [load.args, {target: "sums"}],
        (cdiv(c, tile.n), split), tile, writes=(target,), kind=node.op, flops=4 * prod(x.per_image),
        traffic=[traffic.once(x.spatial, cdiv(N * x.pixels, tile.m), c, tile).of(load),
                 *([traffic.channels_stored(target, c, place.pitch)] if split == 1 else [])],
    )  # fmt: skip
    if split > 1:
        lower_split_sum(state, kernel, target, Size.of(split), 2 * c, 2 * c, node.name, None)


def lower_batch_stats(state: Lowering, kernel: Kernel) -> None:
    """batch_stats by tiles, then merged; the merge also updates the running statistics."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    x = plan.type(node.inputs[0])
    tile = state.tile(name, kernel, node.op, {"PIXELS": x.pixels, "C": x.channels}, fixed(tiles.with_sums, x.channels))
    load = state.body(kernel)
    load_text = load.load_function(f"{name}_load_x", node.inputs[0], x.channels, "x")
    parts = cdiv(N * x.pixels, tile.m)
    partial = state.workspace(f"{name}:partial", parts * (3 * x.channels))

    def call(p: Parameter) -> str:
        return call_text(
            "batch_stats", [f"{name}_load_x", as_tuple([p(b) for b in load.args]), p(partial), "N"],
            {"PIXELS": x.pixels, "C": x.channels, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, [load_text], call, [load.args, {partial: "partial"}], tile_grid(x.pixels, x.channels, tile), tile,
        writes=(partial,), kind=node.op, flops=4 * prod(x.per_image),
        traffic=[traffic.once(x.spatial, parts, x.channels, tile).of(load)],
    )  # fmt: skip
    lower_merge(state, kernel, node, partial, x.channels, cdiv(N * x.pixels, tile.m))


def lower_running(state: Lowering, kernel: Kernel) -> None:
    """running_mean or running_var by itself (no sum over pixels took it along)."""
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
    args = {running: "running", stats: "stats", node.name: "out"}
    helper = plain_function(f"{name}_body", "pixel, channel, mask, part, args", [*args.values(), "N"], lines)

    def call(p: Parameter) -> str:
        return call_text("pointwise", [f"{name}_body", as_tuple([*[p(b) for b in args], "N"]), "1"],
                         {"PIXELS": 1, "C": c, "BLOCK_M": 1, "BLOCK_N": block})  # fmt: skip

    state.add(name, kernel, [helper], call, [args], (1, cdiv(c, block)), tiles.Tile(1, block, 1, 4, 1),
              writes=(node.name,), kind="pointwise",
              traffic=[traffic.loads(running, c),
                       traffic.loads(stats, c, c / plan.type(stats).elements(1))])  # fmt: skip
