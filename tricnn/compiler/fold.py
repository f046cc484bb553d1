"""Inference: batch norm folded into the layer before it.

    batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)

The folded weights are values of the graph, computed once whenever parameters are loaded, so they never go stale.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, derived_name, topological
from ..ir.table import Source


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every batch_norm whose input is a convolution or dense layer that nobody else reads."""
    nodes = {node.name: node for node in graph.nodes}
    for norm in [n for n in graph.nodes if n.row.running]:
        x, gamma, beta, mean, var = norm.inputs
        layer = nodes[x]
        alone = len(graph.consumers[x]) == 1 and x not in graph.results
        weights = layer.inputs[1:]
        if layer.row.product != "forward" or not alone or nodes[weights[0]].row.source is not Source.PARAMETER:
            continue
        eps = {"eps": norm.attrs["eps"]}
        w = Node(derived_name(norm.name, "folded_weight", nodes), "fold_weight", (weights[0], gamma, var), eps)
        bias = (gamma, beta, mean, var, *weights[1:])
        b = Node(derived_name(norm.name, "folded_bias", nodes), "fold_bias", bias, eps)
        nodes[w.name], nodes[b.name] = w, b
        nodes[norm.name] = replace(layer, name=norm.name, inputs=(layer.inputs[0], w.name, b.name))
        del nodes[x]
    return replace(graph, nodes=topological(nodes.values())).pruned()


def prepared_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes that depend on parameters and buffers only: computed when those change, not at every step."""
    constant = {n.name for n in graph.nodes if n.row.source in (Source.PARAMETER, Source.BUFFER)}
    found = []
    for node in graph.nodes:
        if node.inputs and all(v in constant for v in node.inputs):
            constant.add(node.name)
            found.append(node)
    return tuple(found)
