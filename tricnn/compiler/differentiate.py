"""Reverse-mode differentiation, graph to graph.

The gradient of every operation is a row of the table, so the result is an ordinary graph: the forward layers, then
the backward ones in reverse, with ``gradients`` naming the gradient of each parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, derived_name
from ..ir.table import OPS
from ..ir.types import TensorType
from ..system.errors import GraphError


class _Gradients(GraphBuilder):
    """What a gradient rule sees: it adds nodes, asks for types, and asks whose gradient is wanted."""

    def __init__(self, graph: Graph, wanted: frozenset[str]):
        super().__init__(graph.name, graph)
        self._wanted = wanted
        self.layer = ""
        self._made: dict[tuple[Any, ...], str] = {}
        self.amid_zeros: dict[str, tuple[int, str]] = {}  # pad_channels(x): the first of x's channels, and x

    def wanted(self, value: str) -> bool:
        return value in self._wanted

    def type(self, value: str) -> TensorType:
        return self.types[value]

    def add(self, op: str, *inputs: str, name: str | None = None, **attrs: Any) -> str:
        key = (op, inputs, tuple(sorted(attrs.items(), key=lambda item: item[0])))
        if key not in self._made:
            suffix = op.split("_", 1)[1] if op.startswith(("conv2d_", "linear_", "normalize_")) else op
            name = name or derived_name(self.layer, suffix, self.types)
            made = self._made[key] = super().add(op, *inputs, name=name, **attrs)
            if OPS[op].pads:
                self.amid_zeros[made] = (attrs["before"], inputs[0])
        return self._made[key]


def differentiate(graph: Graph, loss: str | None = None, wrt: list[str] | None = None, scaled: bool = False) -> Graph:
    """The graph with the gradient of its scalar output with respect to ``wrt``.

    These are parameters or inputs; all parameters, unless said. With ``scaled`` it is the gradient of the loss times a
    number that every step is given: the loss's tangent, an input of the shape [].

    Where a value has several readers its gradient is their sum, added in the order of the readers, so the bits do not
    depend on anything else. Raises GraphError if the loss is not a scalar or a layer in between has no gradient.
    """
    loss = loss or graph.outputs[0].value
    if loss not in graph.types:
        raise GraphError(f"the loss: there is no layer {loss!r}")
    if graph.types[loss].shape != ():
        raise GraphError(f"layer {loss}: only a scalar can be differentiated, this is {graph.types[loss]}")
    targets = [n.name for n in graph.parameters] if wrt is None else list(wrt)
    g = _Gradients(graph, _dependent(graph, targets))
    incoming: dict[str, list[str]] = {}
    if g.wanted(loss):
        g.layer = loss
        if scaled:
            name, of = derived_name(loss, "scale", g.types), graph.outputs[0].name
            upstream = g.add("input", name=name, shape=(), dtype="float32", tangent=of)
            # behind the other inputs: it is there before the loss, whose kernel then computes the gradient, too
            g.nodes.insert(1 + g.nodes.index(graph.inputs[-1]), g.nodes.pop())
        else:
            upstream = g.add("fill", value=1.0, name=derived_name(loss, "grad", g.types))
        incoming[loss] = [upstream]
    _backward(g, graph, incoming)
    useless = next((target for target in targets if target not in incoming), None)
    if useless is not None:
        raise GraphError(
            f"parameter {useless}: the loss does not depend on it (none passes a detach); freeze it, or remove it"
        )
    return _with_gradients(g, graph, targets, incoming)


def differentiate_open(graph: Graph, wrt: Sequence[str]) -> Graph:
    """The graph with the gradients of ``wrt`` (parameters or inputs), given those of its outputs.

    Each output that depends on one of them has a tangent, an input of its shape that is its gradient.

        gradient of p = sum over outputs y of (dy/dp)^T tangent_y

    What no output depends on has no gradient; where nothing is wanted the graph is as it was. The result is a graph as
    any other: with a layer upon a gradient it can be trained, which differentiates the gradients' rows (what penalties
    on gradients need: Drucker & LeCun, 1992). Raises GraphError if a layer in between has no gradient.
    """
    g = _Gradients(graph, _dependent(graph, wrt))
    incoming: dict[str, list[str]] = {}
    for output in graph.outputs:
        if g.wanted(output.value):
            type_ = g.type(output.value)
            name = derived_name(output.value, "tangent", g.types)
            tangent = g.add("input", name=name, shape=type_.shape, dtype=type_.dtype, tangent=output.name)
            incoming.setdefault(output.value, []).append(tangent)
    _backward(g, graph, incoming)
    return _with_gradients(g, graph, [target for target in wrt if target in incoming], incoming)


def _dependent(graph: Graph, targets: Sequence[str]) -> frozenset[str]:
    """The values that depend on one of the targets, these among them."""
    depends = set(targets)
    for node in graph.nodes:
        if not node.row.detaches and any(v in depends for v in node.inputs):
            depends.add(node.name)
    return frozenset(depends)


def _with_gradients(g: _Gradients, graph: Graph, targets: Sequence[str], incoming: dict[str, list[str]]) -> Graph:
    """The graph with the sums of the gradients that have come to the targets."""
    gradients = []
    for target in targets:
        g.layer = target
        gradients.append((target, _total(g, incoming[target])))
    return Graph(graph.name, tuple(g.nodes), graph.outputs, graph.updates, tuple(gradients)).pruned()


def _backward(g: _Gradients, graph: Graph, incoming: dict[str, list[str]]) -> None:
    """Add to the gradients that have come in, layer by layer from the last, those of what each layer reads."""
    for node in reversed(graph.nodes):
        if node.name not in incoming or not node.inputs:
            continue
        rule = OPS[node.op].gradient
        if isinstance(rule, str):
            raise GraphError(f"layer {node.name}: {node.op} cannot be differentiated: {rule}")
        g.layer = node.name
        dy = _total(g, incoming[node.name])
        for value, gradient in zip(node.inputs, rule(g, node, dy), strict=True):
            if gradient is not None and g.wanted(value):
                incoming.setdefault(value, []).insert(0, gradient)


def _total(g: _Gradients, parts: list[str]) -> str:
    """The sum of a value's gradients.
    Where each is that of some channels, and between them they are all of them once, they are put side by side:
    add(pad_channels(a), pad_channels(b)) = concat(a, b)."""
    pieces = sorted(g.amid_zeros[p] for p in parts if p in g.amid_zeros)
    if 1 < len(parts) == len(pieces):
        ends = [0, *(start + g.types[x].channels for start, x in pieces)]
        if [start for start, _ in pieces] == ends[:-1] and ends[-1] == g.types[parts[0]].channels:
            return g.add("concat", *(x for _, x in pieces))
    total = parts[0]
    for part in parts[1:]:
        total = g.add("add", total, part)
    return total
