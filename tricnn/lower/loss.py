"""Lowering of losses and their gradients: one pass over the outputs does both, where both are wanted."""

from __future__ import annotations

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .call import BATCH, NONE, Call, Operand, Pointer, blocks
from .lowering import Lowering
from .size import N, cdiv


def lower_loss(state: Lowering, kernel: Kernel) -> None:
    """Lower a loss, its gradient, or both in one pass over the outputs; then the mean of the rows' losses. The template
    has the name of the loss."""
    plan, name = state.plan, kernel.name
    loss = next((n for n in kernel.nodes if n.row.collapses and not n.row.begins_backward), None)
    grad = next((n for n in kernel.nodes if n.row.begins_backward), None)
    node = loss or grad
    assert node is not None
    template = node.row.sibling_of or node.op
    logits, labels = node.inputs[-2:]  # or targets, a number for each class
    c = plan.type(logits).channels
    per_row = N if plan.type(labels).dtype == "int64" else N * c
    width = tiles.power_of_two(c)
    tile = tiles.Tile(max(1, min(16, 2048 // width)), width, 1, 4, 1)
    load = state.body(kernel)
    load_x = load.load_function(f"{name}_load_x", logits, c, "logits")
    losses = state.workspace(name, "losses", N) if loss else None
    upstream = plan.graph.by_name[grad.inputs[0]].attrs["value"] if grad else 1.0
    constants = {
        "C": c,
        **blocks(tile),
        **({"SMOOTHING": node.attrs["label_smoothing"]} if "label_smoothing" in node.attrs else {}),
        "SCALE": node.attrs["weight"] * upstream,
        "LOSSES": loss is not None,
        "GRAD": grad is not None,
    }
    results: list[Operand] = [
        Pointer(losses, "losses", stored=True) if losses else NONE,
        Pointer(grad.name, "dlogits", stored=True) if grad else NONE,
    ]
    state.add(
        name,
        kernel,
        Call(template, [load_x, Pointer(labels, node.row.inputs[-1]), *results, BATCH], constants),
        (cdiv(N, tile.m),),
        tile,
        kind=template,
        flops=5 * c,
        traffic=[traffic.once((1, 1), cdiv(N, tile.m), c, tile).of(load), traffic.loads(labels, per_row)],
    )
    if loss is not None and losses is not None:
        _mean(state, kernel, loss, losses)


def _mean(state: Lowering, kernel: Kernel, loss: Node, losses: str) -> None:
    """Launch one program that computes the mean of the rows' losses."""
    operands = [Pointer(losses, "losses"), Pointer(loss.name, "loss", stored=True), BATCH]
    state.add(
        f"{kernel.name}_mean",
        kernel,
        Call("mean_rows", operands, {"BLOCK": 1024, "SCALE": loss.attrs["weight"]}),
        (1,),
        tiles.Tile(1, 1024, 1, 4, 1),
        kind="mean_rows",
        traffic=[traffic.loads(losses, N)],
    )
