"""Lowering of a chain of pointwise operations that no other kernel has taken in: one pass over its elements."""

from __future__ import annotations

from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import At
from .lowering import Lowering, Parameter, as_tuple, call_text, epilogue, everything_of
from .size import N, Size, cdiv
from .sums import finish_sides, side_buffers


def lower_pointwise(state: Lowering, kernel: Kernel) -> None:
    """A chain of pointwise operations in one pass."""
    name, plan = kernel.name, state.plan
    type_ = plan.type(kernel.anchor.name)
    channels = type_.per_image[-1] if not type_.batched and type_.per_image else (type_.channels if type_.shape else 1)
    pixels = type_.pixels if type_.batched else type_.elements(1) // channels
    images = N if type_.batched else Size.of(1)
    sums = any(n.row.side_sum == "stored" for n in kernel.nodes)
    shape = {"PIXELS": pixels, "C": channels}
    rule = partial(tiles.with_sums if sums else tiles.elementwise, channels)
    tile = state.tile(name, kernel, "pointwise_with_sums" if sums else "pointwise", shape, rule)
    body = state.body(kernel)
    at = At("pixel", "channel", "mask", channels)
    body.known[kernel.anchor.name, at] = body.compute(kernel.anchor, at)
    epilogue(body, kernel, at, kernel.anchor.name)
    text = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)

    def call(p: Parameter) -> str:
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in everything_of(body)]), str(images)],
            {"PIXELS": pixels, "C": channels, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    parts = cdiv(images * pixels, tile.m)
    side_buffers(state, body, parts, channels)
    grid = (parts, cdiv(channels, tile.n))
    state.add(
        name, kernel, [text], call, [everything_of(body)], grid, tile, writes=tuple(body.written), kind="pointwise",
        flops=prod(type_.per_image) * len(kernel.nodes),
        traffic=[traffic.once(type_.spatial if type_.batched else (pixels, 1), parts, channels, tile,
                              images).of(body)],
    )  # fmt: skip
    finish_sides(state, kernel, body, parts, channels)
