"""Lowering of what looks along the channels of each pixel: softmax, normalisations, plain sums and maxima."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import Body
from .call import BATCH, Call, Helper, blocks
from .epilogue import epilogue
from .expressions import statistics
from .lowering import Grid, Lowering, tile_grid
from .positions import At
from .size import N, Size, cdiv


def lower_across_channels(state: Lowering, kernel: Kernel) -> None:
    """Lower softmax, local_response_norm, a sum or maximum along the channels of each pixel, or a gradient of these."""
    node, name = kernel.anchor, kernel.name
    type_, widths = state.plan.type(node.name), [state.plan.type(raw).channels for raw in node.inputs]
    c = max(widths)
    tile, grid, constants = _tiling(state, kernel, c, type_.pixels)
    loads = {role: state.body(kernel) for role in node.row.operand_names(len(node.inputs))}
    operands = [
        load.load_function(f"{name}_load_{role}", raw, width, role)
        for (role, load), raw, width in zip(loads.items(), node.inputs, widths, strict=True)
    ]
    store = state.body(kernel)
    store.scope.reserve("tile")
    epilogue(store, kernel, At("pixel", "channel", "mask", type_.channels), node.name, "tile")
    stored = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    each = traffic.once(type_.spatial, Size.of(grid[0]), c, tile)
    again = traffic.normalised_channels(node.op, c, node.attrs["size"]) if "size" in node.attrs else {}
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


def lower_of_pixels(state: Lowering, kernel: Kernel) -> None:
    """Lower pixel_stats: two numbers for each pixel, of all its channels."""
    node, name = kernel.anchor, kernel.name
    load, store = state.body(kernel), state.body(kernel)
    loaded = load.load_function(f"{name}_load_x", node.inputs[0], state.plan.type(node.inputs[0]).channels, "x")
    store.scope.reserve("mean", "var")
    for number, variable in enumerate(("mean", "var")):
        store.store(node.name, variable, At("pixel", str(number), "mask", 2, number, 1))
    stored = store.function(f"{name}_store", "mean, var, pixel, mask, part, args", store.lines)
    _whole_pixels(state, kernel, "pixel_stats", loaded, stored, (load, store), 1, 5)


def lower_layer_norm_grad(state: Lowering, kernel: Kernel) -> None:
    """Lower layer_normalize_grad_input: of all channels of a pixel, a number for each."""
    node, name = kernel.anchor, kernel.name
    c = state.plan.type(node.name).channels
    load, store, at = state.body(kernel), state.body(kernel), At("pixel", "channel", "mask", c)
    dy, x = load.operand(node, 0, at), load.operand(node, 1, at)
    mean, var = statistics(load, node, 2, at)
    g = load.let("g", f"tl.where(mask, {dy} * {load.operand(node, 3, at)}, 0.0)")
    rstd = load.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
    load.write(f"return {g}, ({x} - {mean}) * {rstd}, {rstd}")
    loaded = load.function(f"{name}_load", "pixel, channel, mask, args", load.lines)
    store.scope.reserve("tile")
    epilogue(store, kernel, at, node.name, "tile")
    stored = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    _whole_pixels(state, kernel, "layer_norm_grad", loaded, stored, (load, store), c, 16)


def _whole_pixels(
    state: Lowering, kernel: Kernel, template: str, loaded: Helper, stored: Helper, bodies: tuple[Body, Body],
    width: int, operations: int,
) -> None:  # fmt: skip
    """Add a launch whose programs have all channels of some pixels at once, and store ``width`` numbers for each."""
    node = kernel.anchor
    x = state.plan.type(node.inputs[0])
    c, wide = x.channels, tiles.power_of_two(x.channels)
    tile = tiles.Tile(max(1, 2048 // wide), wide, 1, 4, 1)
    grid = (cdiv(N * x.pixels, tile.m),)
    each = partial(traffic.once, x.spatial, Size.of(grid[0]))
    load, store = bodies
    state.add(
        kernel.name,
        kernel,
        Call(template, [loaded, stored, BATCH], {"C": c, "PIXELS": x.pixels, **blocks(tile)}),
        grid,
        tile,
        kind=node.op,
        flops=operations * prod(x.per_image),
        traffic=[each(width, replace(tile, n=1) if width == 1 else tile).of(store), each(c, tile).of(load)],
    )


def _tiling(state: Lowering, kernel: Kernel, c: int, pixels: int) -> tuple[tiles.Tile, Grid, dict[str, Any]]:
    """The tile, grid and constants of a template: whole rows where all channels are summed, else tiles of both."""
    node, a = kernel.anchor, kernel.anchor.attrs
    if node.op.startswith("softmax"):
        width = tiles.power_of_two(c)
        tile = tiles.Tile(max(1, min(16, 2048 // width)), width, 1, 4, 1)
        return tile, (cdiv(N, tile.m),), {"C": c}
    if "size" not in a:
        width = tiles.power_of_two(c) if len(node.inputs) > 1 else min(tiles.power_of_two(c), 256)
        tile = tiles.Tile(max(1, 2048 // width), width, 1, 4, 1)
        ties = {"SHARED": a["ties"] == "shared"} if len(node.inputs) > 1 else {}
        return tile, (cdiv(N * pixels, tile.m),), {"C": c, "PIXELS": pixels, **ties}
    shape = {"PIXELS": pixels, "C": c, "SIZE": a["size"]}
    tile = state.tile(kernel.name, kernel, node.op, shape, partial(tiles.elementwise, c))
    numbers = {"ALPHA": a["alpha"], "BETA": a["beta"], "BIAS": a["k"]}
    return tile, tile_grid(pixels, c, tile), {"C": c, "PIXELS": pixels, "SIZE": a["size"], **numbers}
