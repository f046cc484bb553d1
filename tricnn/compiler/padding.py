"""Zeros around an image that a convolution reads.

    conv2d(zero_pad2d(x; a), w; b) = conv2d(x, w; a + b)        a not negative

So the padding costs nothing in either direction, and kernels that read whole tiles still may. The rows say who makes
such zeros and who reads its image amid them (``Op.frames``).
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node
from ..system.limits import WIDEST


def absorb_padding(graph: Graph) -> Graph:
    """The graph with every convolution of a padded image reading the image itself, with more padding of its own."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.row.frames == "operand":
            padded = graph.by_name[node.inputs[0]]
            if padded.row.frames == "result" and min(padded.attrs["padding"]) >= 0:
                padding = tuple(a + b for a, b in zip(padded.attrs["padding"], node.attrs["padding"], strict=True))
                if max(padding) <= WIDEST:
                    inputs = (*padded.inputs, *node.inputs[1:])
                    node = replace(node, inputs=inputs, attrs={**node.attrs, "padding": padding})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)).pruned()
