"""Training: the input gradient of a 1x1 convolution with stride s is dense only at one pixel in s*s.

    conv2d_grad_input(dy, w; stride s) = avg_pool2d_grad[1x1 windows, stride s](conv2d_grad_input(dy, w; stride 1))

The product on the right is as small as dy; spreading it out, with zeros between, happens as its reader loads it.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, derived_name
from ..ir.table import check_attrs


def compact_strided_gradients(graph: Graph) -> Graph:
    """Rewrite every such gradient that is read by another layer."""
    nodes: list[Node] = []
    taken = set(graph.by_name)
    for node in graph.nodes:
        if _strided(graph, node):
            dense = derived_name(node.name, "dense", taken)
            size = {"input_size": graph.types[node.inputs[0]].spatial, "stride": (1, 1)}
            nodes.append(replace(node, name=dense, attrs={**node.attrs, **size}))
            window = {"kernel_size": (1, 1), "stride": node.attrs["stride"], "input_size": node.attrs["input_size"]}
            node = Node(node.name, "avg_pool2d_grad", (dense,), window)
            node = replace(node, attrs=check_attrs(node))
            taken.add(dense)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _strided(graph: Graph, node: Node) -> bool:
    if node.row.product != "by_input" or not node.row.over_images or len(node.inputs) > 2 or node.name in graph.results:
        return False  # a bias lies between the pixels, too
    one_by_one = graph.types[node.inputs[1]].per_image[2:] == (1, 1) and not any(node.attrs["padding"])
    return one_by_one and node.attrs["stride"] != (1, 1)
