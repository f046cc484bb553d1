"""Lowering of what sums along the channels of each pixel: softmax, local response normalisation, plain sums."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .call import BATCH, Call, blocks
from .epilogue import epilogue
from .lowering import Lowering, tile_grid
from .positions import At
from .size import N, Size, cdiv

#: what an operation's operands are called, if not x alone
OPERANDS = {"softmax_grad": ("dy", "y"), "local_response_norm_grad": ("dy", "x")}


def lower_across_channels(state: Lowering, kernel: Kernel) -> None:
    """Lower softmax, local_response_norm, a gradient of either, or a plain sum along the channels of each pixel."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    type_ = plan.type(node.name)
    c, a = plan.type(node.inputs[0]).channels, node.attrs
    constants: dict[str, object] = {"C": c}
    if node.op.startswith("softmax"):
        width = tiles.power_of_two(c)
        tile = tiles.Tile(max(1, min(16, 2048 // width)), width, 1, 4, 1)
        grid: tuple[int | Size, ...] = (cdiv(N, tile.m),)
    elif "size" not in a:
        width = min(tiles.power_of_two(c), 256)
        tile = tiles.Tile(max(1, 2048 // width), width, 1, 4, 1)
        grid = (cdiv(N * type_.pixels, tile.m),)
        constants["PIXELS"] = type_.pixels
    else:
        shape = {"PIXELS": type_.pixels, "C": c, "SIZE": a["size"]}
        tile = state.tile(name, kernel, node.op, shape, partial(tiles.elementwise, c))
        grid = tile_grid(type_.pixels, c, tile)
        constants |= {"PIXELS": type_.pixels, "SIZE": a["size"], "ALPHA": a["alpha"], "BETA": a["beta"], "BIAS": a["k"]}
    loads = {role: state.body(kernel) for role in OPERANDS.get(node.op, ("x",))}
    operands = [
        load.load_function(f"{name}_load_{role}", raw, c, role)
        for (role, load), raw in zip(loads.items(), node.inputs, strict=False)
    ]
    store = state.body(kernel)
    store.scope.reserve("tile")
    epilogue(store, kernel, At("pixel", "channel", "mask", type_.channels), node.name, "tile")
    stored = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    each = traffic.once(type_.spatial, Size.of(grid[0]), c, tile)
    again = traffic.normalised_channels(node.op, c, a["size"]) if "size" in a else {}
    state.add(
        name,
        kernel,
        Call(node.op, [*operands, stored, BATCH], {**constants, **blocks(tile)}),
        grid,
        tile,
        kind=node.op,
        flops=5 * prod(type_.per_image),
        traffic=[each.of(store), *(replace(each, channels=again.get(role)).of(load) for role, load in loads.items())],
    )
