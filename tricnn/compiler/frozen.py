"""Training: layers that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir.graph import Graph
from ..ir.patterns import check_patterns, chosen_by_any
from ..system.errors import GraphError


def frozen_parameters(graph: Graph, patterns: Sequence[str]) -> frozenset[str]:
    """The parameters that patterns choose (:func:`tricnn.ir.patterns.chosen`), by themselves or with their layer.

    Raises GraphError for a pattern that chooses nothing, or if no parameter is left to train.
    """
    if not patterns:
        return frozenset()
    parameters = dict.fromkeys(p.name for p in graph.parameters)
    check_patterns("freeze", patterns, [*parameters, *(node.name for node in graph.nodes)])
    found = {name for name in parameters if chosen_by_any(name, patterns)}
    for node in graph.nodes:
        if node.row.source is None and chosen_by_any(node.name, patterns):
            found.update(v for v in node.inputs if v in parameters)
    if len(found) == len(parameters):
        raise GraphError(f"freeze: {', '.join(patterns)} leaves {graph.name} no parameter to train")
    return frozenset(found)


def freeze(graph: Graph, patterns: Sequence[str]) -> Graph:
    """The graph in which each frozen batch norm is an affine map by its running statistics, which stay.
    Frozen is one whose parameters all are, or a layer that a pattern chooses itself."""
    if not patterns:
        return graph
    still, parameters = frozen_parameters(graph, patterns), {p.name for p in graph.parameters}
    nodes = []
    for node in graph.nodes:
        if node.row.running:
            own = [v for v in node.inputs if v in parameters]
            if chosen_by_any(node.name, patterns) or (own and still.issuperset(own)):
                node = replace(node, attrs={**node.attrs, "frozen": True})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def trained(graph: Graph, patterns: Sequence[str]) -> list[str]:
    """The parameters that have a gradient, in the graph's order."""
    still = frozen_parameters(graph, patterns)
    return [p.name for p in graph.parameters if p.name not in still]
