"""Lowering of a chain of pointwise operations that no other kernel has taken in: one pass over its elements."""

from __future__ import annotations

from math import prod

from ..compiler.plan import Kernel
from . import traffic
from .call import Call, Text, blocks
from .epilogue import epilogue
from .lowering import Lowering
from .partial_sums import finish_sides, side_buffers
from .positions import At
from .size import cdiv, images


def lower_pointwise(state: Lowering, kernel: Kernel) -> None:
    """Lower a chain of pointwise operations, with its side sums, to one pass."""
    name, plan = kernel.name, state.plan
    type_ = plan.type(kernel.anchor.name)
    channels = type_.per_image[-1] if not type_.batched and type_.per_image else (type_.channels if type_.shape else 1)
    pixels = type_.pixels if type_.batched else type_.elements(1) // channels
    shape = {"PIXELS": pixels, "C": channels}
    tile = state.pass_tile(name, kernel, "pointwise", shape, channels)
    body = state.body(kernel)
    at = At("pixel", "channel", "mask", channels)
    body.known[kernel.anchor.name, at] = body.compute(kernel.anchor, at)
    epilogue(body, kernel, at, kernel.anchor.name)
    function = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)
    each = images(type_.batched)
    rows = cdiv(each * pixels, tile.m)
    side_buffers(state, body, rows, channels)
    spatial = type_.spatial if type_.batched else (pixels, 1)
    state.add(
        name,
        kernel,
        Call("pointwise", [function, Text(str(each))], {**shape, **blocks(tile)}),
        (rows, cdiv(channels, tile.n)),
        tile,
        kind="pointwise",
        flops=prod(type_.per_image) * len(kernel.nodes),
        traffic=[traffic.once(spatial, rows, channels, tile, each).of(body)],
    )
    finish_sides(state, kernel, body, rows, channels)
