"""Rows that are other rows under another name.

    conv_transpose2d(x, w, b) = conv2d_grad_input(x, w, b)
    adaptive_avg_pool2d(x)    = avg_pool2d(x), global_avg_pool(x)      where all windows are alike

A row says what it means (``Op.means``); no other pass, and nothing that lowers, knows it.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, derived_name
from ..ir.table import OPS


def expand(graph: Graph) -> Graph:
    """The graph with every node whose row means other rows replaced by these; the last of them has the node's name."""
    if all(OPS[node.op].means is None for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    taken = set(graph.by_name)
    for node in graph.nodes:
        means, inputs = OPS[node.op].means, node.inputs
        rows = means(node.attrs, *(graph.types[v] for v in inputs)) if means else ()
        if not rows:
            nodes.append(node)
            continue
        *before, last = rows
        for op, attrs in before:
            name = derived_name(node.name, op, taken)
            taken.add(name)
            nodes.append(Node(name, op, inputs, attrs))
            inputs = (name,)
        nodes.append(Node(node.name, last[0], inputs, last[1]))
    return replace(graph, nodes=tuple(nodes))
