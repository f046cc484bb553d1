"""Lowering of what looks along the channels of each pixel: softmax, normalisations, plain sums and maxima."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import Body
from .call import BATCH, Call, Helper, Line, Operand, blocks
from .epilogue import epilogue
from .kept_sums import kept_sums
from .lowering import Grid, Lowering, tile_grid
from .names import workspace_name
from .positions import At
from .size import N, Size, cdiv


def lower_softmax(state: Lowering, kernel: Kernel) -> None:
    """Lower softmax or its gradient: a program has whole rows."""
    c = _channels(state, kernel)
    width = tiles.power_of_two(c)
    tile = tiles.Tile(max(1, min(16, 2048 // width)), width, 1, 4, 1)
    _lower(state, kernel, tile, (cdiv(N, tile.m),), {"C": c}, {})


def lower_of_all_channels(state: Lowering, kernel: Kernel) -> None:
    """Lower a sum or maximum along the channels of each pixel, or a gradient of these."""
    node, c, pixels = kernel.anchor, _channels(state, kernel), state.plan.type(kernel.anchor.name).pixels
    width, constants = min(tiles.power_of_two(c), 256), {"C": c, "PIXELS": pixels}
    if len(node.inputs) > 1:  # a gradient, which has all channels of a pixel at once
        width, constants = tiles.power_of_two(c), {**constants, "SHARED": node.attrs["ties"] == "shared"}
    tile = tiles.Tile(max(1, 2048 // width), width, 1, 4, 1)
    _lower(state, kernel, tile, (cdiv(N * pixels, tile.m),), constants, {})


def lower_of_near_channels(state: Lowering, kernel: Kernel) -> None:
    """Lower local response normalisation or its gradient: tiles of pixels and channels, which load those near by."""
    node, c, pixels = kernel.anchor, _channels(state, kernel), state.plan.type(kernel.anchor.name).pixels
    a = node.attrs
    shape = {"PIXELS": pixels, "C": c, "SIZE": a["size"]}
    tile = state.tile(kernel.name, kernel, node.op, shape, partial(tiles.elementwise, c))
    constants = {"C": c, "PIXELS": pixels, "SIZE": a["size"], "ALPHA": a["alpha"], "BETA": a["beta"], "BIAS": a["k"]}
    near = traffic.normalised_channels(c, a["size"], gradient=len(node.inputs) > 1)
    _lower(state, kernel, tile, tile_grid(pixels, c, tile), constants, near)


def _channels(state: Lowering, kernel: Kernel) -> int:
    """How many channels the widest of the anchor's operands has."""
    return max(state.plan.type(raw).channels for raw in kernel.anchor.inputs)


def _lower(
    state: Lowering, kernel: Kernel, tile: tiles.Tile, grid: Grid, constants: dict[str, Any],
    near: Mapping[str, int],
) -> None:  # fmt: skip
    """Add the launch of the template that is called as the anchor's operation is.
    ``near`` says how many elements of a pixel it loads of an operand, if not each once."""
    node, name = kernel.anchor, kernel.name
    type_, widths = state.plan.type(node.name), [state.plan.type(raw).channels for raw in node.inputs]
    loads = {role: state.body(kernel) for role in node.row.operand_names(len(node.inputs))}
    operands = [
        load.load_function(f"{name}_load_{role}", raw, width, role)
        for (role, load), raw, width in zip(loads.items(), node.inputs, widths, strict=True)
    ]
    store = state.body(kernel)
    store.scope.reserve("tile")
    epilogue(store, kernel, At("pixel", "channel", "mask", type_.channels), node.name, "tile")
    stored = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    each = traffic.once(type_.spatial, Size.of(grid[0]), max(widths), tile)
    state.add(
        name,
        kernel,
        Call(node.op, [*operands, stored, BATCH], {**constants, **blocks(tile)}),
        grid,
        tile,
        kind=node.op,
        flops=5 * prod(type_.per_image),
        traffic=[each.of(store), *(replace(each, channels=near.get(role)).of(load) for role, load in loads.items())],
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
    """Lower layer_normalize_grad_input: of all channels of a pixel, a number for each; and sums over the pixels."""
    node, name = kernel.anchor, kernel.name
    c = state.plan.type(node.name).channels
    load, store, at = state.body(kernel), state.body(kernel), At("pixel", "channel", "mask", c)
    dy = load.let("kept", f"tl.where(mask, {load.operand(node, 0, at)}, 0.0)")
    x = load.operand(node, 1, at)
    load.scope.reserve("inside")
    mean, var = (
        load.value(node.inputs[2], At("pixel", str(row), "inside", 2, row, 1), stem)
        for row, stem in enumerate(("mean", "var"))
    )
    g = load.let("g", f"{dy} * {load.operand(node, 3, at)}")
    rstd = load.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
    xhat = load.let("xhat", f"({x} - {mean}) * {rstd}")
    load.sides += [
        (sums, workspace_name(name, f"{sums.name}:partial")) for sums in kernel.nodes if sums.row.side_sum == "stored"
    ]
    load.terms = [dy, f"{dy} * {xhat}"] if load.sides else []
    ahead = state.body(kernel)
    lines = load.split(ahead, [Line(f"return {', '.join([g, xhat, rstd, *load.terms])}")])
    loaded = load.function(f"{name}_load", "pixel, channel, mask, inside, given, args", lines)
    given = ahead.function(f"{name}_given", "channel, args", ahead.lines)
    store.scope.reserve("tile")
    epilogue(store, kernel, at, node.name, "tile")
    stored = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    _whole_pixels(state, kernel, "layer_norm_grad", loaded, stored, (load, store), c, 16, (given, ahead))


def _whole_pixels(
    state: Lowering, kernel: Kernel, template: str, loaded: Helper, stored: Helper, bodies: tuple[Body, Body],
    width: int, operations: int, given: tuple[Helper, Body] | None = None,
) -> None:  # fmt: skip
    """Add a launch whose programs have all channels of some pixels at once, and store ``width`` numbers for each.
    They are ``given`` what depends on nothing but the channel, once.
    Where they sum up what they load, there are as many programs as run at once, and each leaves one part."""
    node = kernel.anchor
    x = state.plan.type(node.inputs[0])
    c, wide = x.channels, tiles.power_of_two(x.channels)
    tile = tiles.Tile(max(1, 2048 // wide), wide, 1, 4, 1)
    pixels = cdiv(N * x.pixels, tile.m)
    each = partial(traffic.once, x.spatial, pixels)
    load, store = bodies
    programs = Size.of(min(pixels.at(state.batch), tiles.passing(state.target))) if load.sides else pixels
    sums = kept_sums(state, kernel, load, programs, c, tile, 1)
    moved = [each(width, replace(tile, n=1) if width == 1 else tile).of(store), each(c, tile).of(load)]
    operands: list[Operand] = [loaded, stored, BATCH]
    if given is not None:
        operands.insert(0, given[0])
        moved.append(traffic.left(given[1], c, programs, tile))
    constants = {"C": c, "PIXELS": x.pixels, **blocks(tile), **sums.constants}
    state.add(
        kernel.name,
        kernel,
        Call(template, operands, constants, sums.keywords),
        (programs,),
        tile,
        kind=node.op,
        flops=operations * prod(x.per_image),
        traffic=[*moved, *sums.moved],
        handed_on=sums.handed_on,
    )
    sums.launch(state, kernel)
