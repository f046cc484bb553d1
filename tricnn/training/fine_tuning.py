"""Weights of a network with other classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.graph import Graph
from ..ir.table import Kind, Source


def without_head(graph: Graph, state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``state`` without the last layers that have another number of classes, and the names of their parameters.
    The parameters of each output's last layer are taken from ``own`` where they are of another number of classes.
    Everything else that does not fit is left for ``load_state_dict`` to refuse."""
    mixed, left = dict(state), []
    for output in graph.outputs:
        node = graph.by_name[output.value]
        while node.kind is not Kind.CONTRACTION and node.inputs:
            node = graph.by_name[node.inputs[0]]
        for name in node.inputs[1:]:
            if graph.by_name[name].row.source is not Source.PARAMETER or name not in state or name in left:
                continue
            there, here = tuple(state[name].shape), tuple(own[name].shape)
            if there[:1] != here[:1] and there[1:] == here[1:]:
                mixed[name] = own[name]
                left.append(name)
    return mixed, left
