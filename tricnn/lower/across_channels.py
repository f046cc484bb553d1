"""Lowering of what sums along the channels of each pixel: softmax, local response normalisation, plain sums."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import At
from .lowering import Lowering, Parameter, as_tuple, call_text, epilogue, everything_of, tile_grid
from .size import N, Size, cdiv


def lower_across_channels(state: Lowering, kernel: Kernel) -> None:
    """softmax, local_response_norm, their gradients, and plain sums along the channels of each pixel."""
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
    at = At("pixel", "channel", "mask", type_.channels)
    store = state.body(kernel)
    store.names.add("tile")
    epilogue(store, kernel, at, node.name, "tile")
    store_text = store.function(f"{name}_store", "tile, pixel, channel, mask, part, args", store.lines)
    loads, texts = [], [store_text]
    for i, role in enumerate({"softmax_grad": ("dy", "y"), "local_response_norm_grad": ("dy", "x")}.get(node.op, "x")):
        load = state.body(kernel)
        texts.append(load.load_function(f"{name}_load_{role}", node.inputs[i], c, role))
        loads.append((role, load))

    each = traffic.once(type_.spatial, Size.of(grid[0]), c, tile)
    again = traffic.normalised_channels(node.op, c, a["size"]) if "size" in a else {}

    def call(p: Parameter) -> str:
        positional = [t for role, b in loads for t in (f"{name}_load_{role}", as_tuple([p(v) for v in b.args]))]
        return call_text(
            node.op, [*positional, f"{name}_store", as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**constants, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    state.add(
        name, kernel, texts, call, [*[b.args for _, b in loads], everything_of(store)], grid, tile,
        writes=tuple(store.written), kind=node.op, flops=5 * prod(type_.per_image),
        traffic=[each.of(store), *(replace(each, channels=again.get(role)).of(load) for role, load in loads)],
    )  # fmt: skip
