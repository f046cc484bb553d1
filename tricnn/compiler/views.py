"""Values that are another value's memory under another shape, and the orders that this takes."""

from __future__ import annotations

from ..ir.graph import Graph, Node
from ..ir.table import Source
from .modes import OPEN


def free_views(graph: Graph, mode: str) -> dict[str, str]:
    """Views that cost nothing in channels-last memory: view -> what it is a view of.

    A slice of numbers is free where it is read as it lies: that of a vector is in one piece, and layers that read rows
    of statistics know how far these lie apart. A slice of a weight's channels is neither.

    ``flatten`` of more than one pixel and channel is free if only dense layers read it: they keep their weights in
    the order (h, w, c), as the pixels lie in memory. Its gradient, ``unflatten``, is then free as well. Parameters of
    an open plan lie as their owner has them: there the image is copied, which is smaller than they are.
    """
    views: dict[str, str] = {}
    ordered = pixel_ordered(graph, mode)
    for node in graph.nodes:
        cut = node.row.cuts == "channels" and not graph.types[node.name].batched and _read_in_place(graph, node)
        if cut or node.row.row_of or node.row.cuts == "filters" or node.row.dense_view == "weight":
            views[node.name] = node.inputs[0]
        elif node.row.dense_view == "flat":
            x = graph.types[node.inputs[0]]
            if x.pixels == 1 or x.channels == 1 or weights_in_pixel_order(graph, node, mode):
                views[node.name] = node.inputs[0]
        elif node.row.dense_view == "image":
            y = graph.types[node.name]
            if y.pixels == 1 or y.channels == 1 or node.inputs[0] in ordered:
                views[node.name] = node.inputs[0]
    return views


def _read_in_place(graph: Graph, cut: Node) -> bool:
    rank = len(graph.types[cut.name].shape)
    rows = rank == 2 and cut.name not in graph.results
    return rank == 1 or (rows and all(r.row.finds_rows for r in graph.consumers[cut.name]))


def weights_in_pixel_order(graph: Graph, flatten: Node, mode: str) -> bool:
    """Whether the dense layers behind ``flatten`` may have their weights in the order (h, w, c), in which pixels lie.

    They may if nothing else reads the flattened image, nothing else reads these weights, and no layer of the step
    computes them. In an open plan they may not: there the caller has the parameters, in PyTorch's order (c, h, w)."""

    def dense(reader: Node) -> bool:
        weight = graph.by_name[reader.inputs[1]] if reader.row.product == "forward" else None
        stored = weight is not None and (weight.row.source is Source.PARAMETER or weight.row.prepared)
        return stored and reader.inputs[0] == flatten.name

    return (
        mode != OPEN
        and flatten.name not in graph.results
        and all(
            (dense(r) and all(dense(o) or o.row.product == "by_input" for o in graph.consumers[r.inputs[1]]))
            or (r.row.product == "by_weight" and r.inputs[1] == flatten.name)
            for r in graph.consumers[flatten.name]
        )
    )


def pixel_ordered(graph: Graph, mode: str) -> dict[str, tuple[int, int, int]]:
    """Every value ``[*, C*H*W]`` that lies in memory as ``[*, H, W, C]``, with its (C, H, W).
    These are dense weights that read a flattened image, their gradients, the gradient of the flattened image itself,
    and sums of those."""
    found: dict[str, tuple[int, int, int]] = {}
    for node in [n for n in graph.nodes if n.row.dense_view == "flat"]:
        x = graph.types[node.inputs[0]]
        if x.pixels > 1 and x.channels > 1 and weights_in_pixel_order(graph, node, mode):
            for reader in graph.consumers[node.name]:
                shape = (x.channels, *x.spatial)
                found[reader.inputs[1] if reader.row.product == "forward" else reader.name] = shape
    for node in graph.nodes:
        if node.row.product == "by_input" and node.inputs[1] in found:
            found[node.name] = found[node.inputs[1]]
        elif node.elementwise and node.inputs[0] in found and len({found.get(v) for v in node.inputs}) == 1:
            found[node.name] = found[node.inputs[0]]  # several dense layers read the image, or share a weight
    return found
