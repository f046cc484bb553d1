"""Rows that are other rows under another name.

    conv_transpose2d(x, w, b) = conv2d_grad_input(x, w, b)

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
        means = OPS[node.op].means
        if means is None:
            nodes.append(node)
            continue
        inputs = node.inputs
        *before, last = means(node.attrs, *(graph.types[v] for v in inputs))
        for op, attrs in before:
            name = derived_name(node.name, op, taken)
            taken.add(name)
            nodes.append(Node(name, op, inputs, attrs))
            inputs = (name,)
        nodes.append(Node(node.name, last[0], inputs, last[1]))
    return replace(graph, nodes=tuple(nodes))
