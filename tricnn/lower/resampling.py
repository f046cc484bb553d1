"""Lowering of what resamples an image by fixed weights along each axis: upsampling, adaptive pooling, and gradients."""

from __future__ import annotations

from math import prod

from ..compiler.plan import Kernel
from ..ir.ops.resample import axes_taps, axis_kind
from . import traffic
from .call import BATCH, Call, blocks
from .epilogue import epilogue
from .lowering import Lowering, tile_grid
from .partial_sums import finish_sides, side_buffers
from .positions import At
from .size import N, cdiv


def lower_resample(state: Lowering, kernel: Kernel) -> None:
    """Lower a resampling to one pass over the result, in which each element loads what it is made of."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    x, y = plan.type(node.inputs[0]), plan.type(node.name)
    kind, transposed = axis_kind(node.op, node.attrs)
    axes = axes_taps(node.op, node.attrs, x, y)
    (h, w), (p, q), (r, s), c = x.spatial, y.spatial, (axis.most for axis in axes), x.channels
    constants = {"C": c, "H": h, "W": w, "R": r, "S": s, "P": p, "Q": q}
    tile = state.pass_tile(name, kernel, node.op, constants, c)
    load, store = state.body(kernel), state.body(kernel)
    load_x = load.load_function(f"{name}_load_x", node.inputs[0], c, "x")
    epilogue(store, kernel, At("pixel", "channel", "mask", c), node.name, "acc")
    store_y = store.function(f"{name}_store_y", "acc, pixel, channel, mask, part, args", store.lines)
    parts = cdiv(N * (p * q), tile.m)
    side_buffers(state, store, parts, c)
    state.add(
        name,
        kernel,
        Call("resample", [load_x, store_y, BATCH], {**constants, "KIND": kind, "GRAD": transposed, **blocks(tile)}),
        tile_grid(p * q, c, tile),
        tile,
        kind=node.op,
        flops=2 * r * s * prod(y.per_image),
        traffic=traffic.resampled(load, store, axes, x.spatial, c, tile),
    )
    finish_sides(state, kernel, store, parts, c)
