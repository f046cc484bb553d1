"""Lowering of losses and their gradients: one pass over the outputs does both, where both are wanted."""

from __future__ import annotations

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..ir.table import Source
from ..machine import tiles
from . import traffic
from .call import BATCH, NONE, NOTHING, Call, Operand, Pointer, blocks
from .lowering import Lowering
from .positions import At
from .size import N, cdiv


def lower_loss(state: Lowering, kernel: Kernel) -> None:
    """Lower a loss, its gradient, or both in one pass over the outputs; then the mean over the rows.
    A row is an image, or a pixel. The template has the name of the loss."""
    plan, name = state.plan, kernel.name
    loss = next((n for n in kernel.nodes if n.row.collapses and not n.row.begins_backward), None)
    grad = next((n for n in kernel.nodes if n.row.begins_backward), None)
    node = loss or grad
    assert node is not None
    template = node.row.sibling_of or node.op
    logits, *others = node.inputs[1:] if node.row.begins_backward else node.inputs
    x = plan.type(logits)
    c, rows = x.channels, N * x.pixels
    width = tiles.power_of_two(c)
    tile = tiles.Tile(max(1, min(16 if x.pixels == 1 else 128, 2048 // width)), width, 1, 4, 1)
    parts = cdiv(rows, tile.m)
    each = traffic.once(x.spatial, parts, c, tile)
    load, load_t, store = (state.body(kernel) for _ in range(3))
    load_x = load.load_function(f"{name}_load_x", logits, c, "logits")
    moved = [each.of(load)]
    read: list[Operand] = []  # labels and, if there are any, weights of classes; or targets
    if plan.type(others[0]).dtype == "int64":
        labels, *weights = others
        read += [Pointer(labels, "labels"), Pointer(weights[0], "weights") if weights else NONE]
        moved += [traffic.loads(labels, rows), *(traffic.loads(v, parts * c) for v in weights)]
    else:
        read.append(load_t.load_function(f"{name}_load_t", others[0], c, "targets"))
        moved.append(each.of(load_t))
    losses = state.workspace(name, "losses", parts) if loss else None
    result: list[Operand] = list(NOTHING)
    if grad is not None:
        store.scope.reserve("dx")
        store.store(grad.name, "dx", At("pixel", "channel", "mask", c))
        result = [store.function(f"{name}_store", "dx, pixel, channel, mask, part, args", store.lines)]
        moved.append(each.of(store))
    upstream: Operand = NONE
    factor = node.attrs["weight"]
    if grad is not None:
        of_loss = plan.graph.by_name[grad.inputs[0]]
        if of_loss.row.source is Source.CONSTANT:
            factor *= of_loss.attrs["value"]
        else:
            upstream = Pointer(of_loss.name, "upstream")
            moved.append(traffic.loads(of_loss.name, parts))
    constants = {
        "PIXELS": x.pixels,
        "C": c,
        **blocks(tile),
        **({"SMOOTHING": node.attrs["label_smoothing"]} if "label_smoothing" in node.attrs else {}),
        "SCALE": factor,
        "LOSSES": loss is not None,
        "GRAD": grad is not None,
    }
    sums = Pointer(losses, "losses", stored=True) if losses else NONE
    state.add(
        name,
        kernel,
        Call(template, [load_x, *read, sums, upstream, *result, BATCH], constants),
        (parts,),
        tile,
        kind=template,
        flops=5 * c * x.pixels,
        traffic=moved,
    )
    if loss is not None and losses is not None:
        _mean(state, kernel, loss, losses, x.pixels, tile.m)


def _mean(state: Lowering, kernel: Kernel, loss: Node, losses: str, pixels: int, rows: int) -> None:
    """Launch one program that computes the mean of the tiles' sums, each of so many rows."""
    operands = [Pointer(losses, "parts"), Pointer(loss.name, "loss", stored=True), BATCH]
    constants = {"PIXELS": pixels, "BLOCK_M": rows, "BLOCK": 1024, "SCALE": loss.attrs["weight"]}
    state.add(
        f"{kernel.name}_mean",
        kernel,
        Call("mean_rows", operands, constants),
        (1,),
        tiles.Tile(1, 1024, 1, 4, 1),
        kind="mean_rows",
        finishes=True,
        traffic=[traffic.loads(losses, cdiv(N * pixels, rows))],
    )
