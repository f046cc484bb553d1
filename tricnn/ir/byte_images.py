"""A network on images of bytes, which it normalises itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..system.errors import GraphError, shown
from ..system.limits import MOST_AXES
from .builder import GraphBuilder
from .graph import Graph, derived_name

PerChannel = float | Sequence[float]


def takes_bytes(graph: Graph) -> bool:
    """Is a network's first input an image of bytes?"""
    return bool(graph.inputs) and graph.types[graph.inputs[0].name].dtype == "uint8"


def of_bytes(graph: Graph, mean: PerChannel = 0.0, std: PerChannel = 1.0) -> Graph:
    """The same network on images of bytes: ``x: uint8[N, C, H, W]`` in place of ``(x / 255 - mean) / std``.

    ``mean`` and ``std`` are numbers, or one for each channel, of pixels of 0 to 1, as torchvision's ``Normalize`` takes
    them. The layers, parameters and outputs are the graph's own. An input that the graph rescales (``scale`` and
    ``shift``) is rescaled after that, in the same multiply-add.

    Raises GraphError for a network whose input is no image of real numbers, and for a mean or std that is not finite,
    or a std that is not above 0.
    """
    source = graph.inputs[0] if graph.inputs else None
    type_ = graph.types[source.name] if source is not None else None
    if source is None or type_ is None or len(type_.shape) != 4 or type_.dtype != "float":
        raise GraphError(
            f"graph {graph.name}: only a network of images [N, C, H, W] of real numbers can take bytes in their place, "
            + (f"this one's input {source.name} is {type_}" if source is not None else "this one has no input")
        )
    means, stds = (_by_channel(graph, name, x, type_.channels) for name, x in (("mean", mean), ("std", std)))
    factor, term = (np.array(source.attrs[name] or default) for name, default in (("scale", 1.0), ("shift", 0.0)))
    scale, shift = factor / (255 * stds), term - factor * means / stds
    builder = GraphBuilder(graph.name)
    bytes_ = builder.add("input", name=source.name, shape=type_.shape, dtype="uint8")
    name = derived_name(source.name, "normalised", graph.by_name)
    image = builder.add("from_bytes", bytes_, name=name, scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))

    def there(value: str) -> str:
        return image if value == source.name else value

    rest = tuple(replace(n, inputs=tuple(map(there, n.inputs))) for n in graph.nodes if n is not source)
    outputs = tuple(replace(o, value=there(o.value)) for o in graph.outputs)
    return replace(graph, nodes=(*builder.nodes, *rest), outputs=outputs)


def _by_channel(graph: Graph, name: str, given: Any, channels: int) -> Any:
    """``mean`` or ``std`` as float64 [C]; raises GraphError."""
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full((), np.nan)
    fits = numbers.ndim <= MOST_AXES and numbers.size in (1, channels) and np.isfinite(numbers).all()
    if not fits or (name == "std" and (numbers <= 0).any()):
        above = ", above 0" if name == "std" else ""
        raise GraphError(
            f"graph {graph.name}: {name}={shown(given)} is not a number, or one for each of {channels} channels{above}"
        )
    return np.broadcast_to(numbers.reshape(-1), (channels,))
