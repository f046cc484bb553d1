"""Weights that a step computes, in the type of activations: tensor cores take both operands of a product in one type.

    conv2d(x, f(w)) = conv2d(x, round_weight(f(w)))

A parameter is kept in fp32, and products read a copy of it that is rounded when it changes. What is computed of
parameters at every step (standardised weights, a function of a weight) is rounded by what computes it, or by a launch
of its own where that sums over filters.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, derived_name
from .fold import prepared_nodes


def round_weights(graph: Graph, mode: str) -> Graph:
    """The graph in which every product reads computed weights rounded; inference prepares its own beforehand."""
    ready = {n.name for n in prepared_nodes(graph)} if mode == "infer" else set()
    taken, made, nodes = set(graph.by_name), dict[str, str](), list[Node]()
    for node in graph.nodes:
        inputs = list(node.inputs)
        for i in _weights(node):
            weight = inputs[i]
            if _computed(graph, weight, ready):
                if weight not in made:
                    made[weight] = derived_name(weight, "rounded", taken)
                    taken.add(made[weight])
                    nodes.append(Node(made[weight], "round_weight", (weight,)))
                inputs[i] = made[weight]
        nodes.append(replace(node, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(nodes)) if made else graph


def _weights(node: Node) -> list[int]:
    """Which operands of a product are weights; none of another operation."""
    names = node.row.operand_names(len(node.inputs)) if node.row.product else ()
    return [i for i, name in enumerate(names) if name == "weight"]


def _computed(graph: Graph, value: str, ready: set[str]) -> bool:
    """Whether a weight is found anew at every step, and not the numbers of parameters seen or placed otherwise."""
    node = graph.by_name[value]
    if node.row.source is not None or node.name in ready:
        return False
    if node.row.dense_view or node.row.cuts or node.row.joins:
        return any(_computed(graph, v, ready) for v in node.inputs)
    return True
