"""Lowering of cross entropy and its gradient: one pass over the logits does both, where both are wanted."""

from __future__ import annotations

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .lowering import Lowering, Parameter, as_tuple, call_text
from .size import N, cdiv


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
    losses = state.workspace(f"{name}:losses", N) if loss else None
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
        name, kernel, [load_text], call, [load.args, {labels: "labels"}, out], (cdiv(N, rows),),
        tiles.Tile(rows, width, 1, 4, 1), writes=tuple(outputs), kind="cross_entropy", flops=5 * c,
        traffic=[traffic.once((1, 1), cdiv(N, rows), c, tiles.Tile(rows, width, 1, 4, 1)).of(load),
                 traffic.loads(labels, N)],
    )  # fmt: skip
    if loss is None or losses is None:
        return

    def mean(p: Parameter) -> str:
        return call_text(
            "mean_rows", [p(losses), p(loss.name), "N"], {"BLOCK": 1024, "SCALE": loss.attrs["weight"]}
        )  # fmt: skip

    state.add(
        f"{name}_mean", kernel, [], mean, [{losses: "losses", loss.name: "loss"}], (1,),
        tiles.Tile(1, 1024, 1, 4, 1), writes=(loss.name,), kind="mean_rows", traffic=[traffic.loads(losses, N)],
    )  # fmt: skip
