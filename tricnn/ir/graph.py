"""The graph: immutable nodes in topological order, verified when it is made."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heappop, heappush
from math import prod
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..system.errors import GraphError, shown
from ..system.limits import MOST_NODES, MOST_OUTPUTS
from .table import OPS, Kind, Op, check_attrs, declared_operations, infer_type, no_macs
from .types import TensorType

if TYPE_CHECKING:
    import networkx as nx

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]*(\.[A-Za-z0-9_\-]+)*", re.ASCII)


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may name a layer; raise :class:`GraphError` otherwise."""
    if not isinstance(name, str) or len(name) > 128 or not NAME.fullmatch(name):
        raise GraphError(
            f"{what} {shown(name)} is not accepted: a name has at most 128 letters, digits, '_' and '-', "
            "starts with none of '-' and '.', and may have parts joined by single dots (layer1.0.conv1)"
        )
    return name


def check_size(nodes: int, outputs: int, line: int = 0) -> None:
    """Raise :class:`GraphError` for a declared network that is larger than tricnn takes on (system/limits.py).
    Passes may make more of what it declares."""
    for count, most, what in ((nodes, MOST_NODES, "layers and parameters"), (outputs, MOST_OUTPUTS, "outputs")):
        if count > most:
            where = f"line {line}: " if line else ""
            raise GraphError(f"{where}the network is too large: it has more than {most} {what}")


def derived_name(base: str, suffix: str, *taken: Container[str]) -> str:
    """A name for what a pass makes of the layer ``base``: ``base.suffix``, numbered if somebody has it already.

    Numbers are given without gaps, so the last one is found in few steps however many there are.

    A base too long to take the suffix is cut, with a checksum in place of what is lost.
    """
    if len(base) + len(suffix) > 120:
        base = f"{base[:60].rstrip('.')}_{crc32(base.encode()):08x}"

    def free(number: int) -> bool:
        return not any(name(number) in names for names in taken)

    def name(number: int) -> str:
        return f"{base}.{suffix}{number if number > 1 else ''}"

    least, most = 0, 1  # number ``least`` is taken (or is none), and ``most`` is free in the end
    while not free(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if free(middle) else (middle, most)
    return name(most)


@dataclass(frozen=True)
class Node:
    """One operation: ``name = op(inputs, attrs)``. All of the operation's attributes are present."""

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    #: what :func:`verified` found: the types of the inputs and of the result
    known: tuple[tuple[TensorType, ...], TensorType] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def row(self) -> Op:
        """The operation's row of the table, which says all there is to know about it."""
        return OPS[self.op]

    @property
    def elementwise(self) -> bool:
        """Does a result depend on nothing but that element of each operand, under whatever shape it is seen?"""
        assert self.known is not None
        operands, result = self.known
        return self.row.elementwise and all(t.shape == result.shape for t in operands)

    @property
    def kind(self) -> Kind:
        return OPS[self.op].kind

    def __hash__(self) -> int:
        return hash((self.name, self.op, self.inputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Node, (self.name, self.op, self.inputs, dict(self.attrs)))


def verified(node: Node, types: Mapping[str, TensorType]) -> Node:
    """The node with all attributes normalised, and what is ``known`` of it, given the types of what is before it.

    A node cannot change, so that what was found once holds wherever its inputs have the same types.

    Raises GraphError or ShapeError, naming the layer.
    """
    if node.name in types:
        raise GraphError(f"layer {node.name}: the name is used twice; every layer needs a name of its own")
    try:
        inputs = tuple([types[value] for value in node.inputs])
    except (KeyError, TypeError):  # of what has no hash, such as a list of layers
        value = next(v for v in node.inputs if not isinstance(v, str) or v not in types)
        raise GraphError(f"layer {node.name}: input {shown(value)} is not defined before it") from None
    if node.known is not None and node.known[0] == inputs:
        return node
    check_name(node.name, "layer name")
    if node.op not in OPS:
        raise GraphError(f"layer {node.name}: unknown operation {shown(node.op)}; {declared_operations(node.op)}")
    node = Node(node.name, node.op, node.inputs, check_attrs(node))
    object.__setattr__(node, "known", (inputs, infer_type(node, inputs)))
    return node


def known_type(node: Node) -> TensorType:
    """The type of a verified node's result."""
    assert node.known is not None
    return node.known[1]


@dataclass(frozen=True)
class Output:
    """A result of the graph.
    ``loss_weight`` is its share of the training loss; an output that only training wants (an auxiliary head) is left
    out of inference."""

    name: str
    value: str
    loss_weight: float = 1.0
    training_only: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.loss_weight, Real) and not isinstance(self.loss_weight, bool):
            object.__setattr__(self, "loss_weight", float(self.loss_weight))


@dataclass(frozen=True)
class Graph:
    """A network, declared or derived.

    ``nodes`` are in topological order and include the sources (input, parameter, buffer, fill). ``updates`` maps a
    buffer to the value it takes after a training step, ``gradients`` a parameter (or an input) to the value of its
    gradient; both are empty in a declared graph. Making a Graph verifies it: names, arities, attributes, order and
    shapes.

    Raises GraphError or ShapeError, naming the layer.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    updates: tuple[tuple[str, str], ...] = ()
    gradients: tuple[tuple[str, str], ...] = ()
    types: Mapping[str, TensorType] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "graph name")
        types: dict[str, TensorType] = {}
        nodes = []
        for node in self.nodes:
            node = verified(node, types)
            types[node.name] = known_type(node)
            nodes.append(node)
        object.__setattr__(self, "nodes", tuple(nodes))
        object.__setattr__(self, "types", MappingProxyType(types))
        self._check_references()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Graph, (self.name, self.nodes, self.outputs, self.updates, self.gradients))

    def _check_references(self) -> None:
        if not self.outputs:
            raise GraphError(f"graph {self.name}: it has no output")
        seen: set[str] = set()
        for output in self.outputs:
            check_name(output.name, "output name")
            if output.name in seen:
                raise GraphError(f"graph {self.name}: output {output.name} is named twice")
            seen.add(output.name)
            if not (isinstance(output.loss_weight, int | float) and 0 <= output.loss_weight < float("inf")):
                raise GraphError(
                    f"output {output.name}: loss_weight={shown(output.loss_weight)} is not accepted; a finite number "
                    "of at least 0"
                )
            if output.value not in self.types:
                raise GraphError(f"output {output.name}: there is no layer {output.value!r}")
        for what, ops, pairs in (
            ("update", ("buffer",), self.updates),
            ("gradient", ("parameter", "input"), self.gradients),
        ):
            given: set[str] = set()
            for target, value in pairs:
                if target in given:
                    raise GraphError(f"{what} of {target}: it is given twice")
                given.add(target)
                if value not in self.types:
                    raise GraphError(f"{what} of {target}: there is no layer {value!r}")
                if target not in self.by_name or self.by_name[target].op not in ops:
                    raise GraphError(f"{what} of {target}: there is no {' or '.join(ops)} of that name")
                if self.types[target].shape != self.types[value].shape:
                    raise GraphError(
                        f"{what} of {target}: {value} has shape {self.types[value]}, {target} {self.types[target]}"
                    )

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Value -> the nodes that read it (each once)."""
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                users[value].append(node)
        return {name: tuple(nodes) for name, nodes in users.items()}

    @cached_property
    def results(self) -> tuple[str, ...]:
        """Every value that must exist when the graph has run."""
        values = [o.value for o in self.outputs]
        values += [v for _, v in self.updates] + [v for _, v in self.gradients]
        return tuple(dict.fromkeys(values))

    def of(self, op: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.op == op)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.of("input")

    @property
    def tangents(self) -> Mapping[str, str]:
        """Of an open training graph, the inputs that are gradients of outputs, by the outputs' names."""
        return {node.attrs["tangent"]: node.name for node in self.inputs if node.attrs["tangent"]}

    @property
    def parameters(self) -> tuple[Node, ...]:
        return self.of("parameter")

    @property
    def buffers(self) -> tuple[Node, ...]:
        return self.of("buffer")

    @property
    def classes(self) -> int | None:
        """How many classes a label may be of; None if no output has classes.
        They are those that every output, ``[N, classes]`` or ``[N, classes, H, W]``, has."""
        types = [self.types[output.value] for output in self.outputs]
        return min((t.channels for t in types if len(t.shape) in (2, 4)), default=None)

    @property
    def rows(self) -> tuple[int, ...]:
        """What one image has a label for each of: ``()``, itself, or ``(H, W)``, the pixels of its first output."""
        type_ = self.types[self.outputs[0].value]
        return type_.spatial if len(type_.shape) == 4 else ()

    @property
    def num_parameters(self) -> int:
        """Trainable numbers (running statistics are buffers and do not count)."""
        return sum(prod(self.types[node.name].per_image) for node in self.parameters)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and dense layers, per image."""
        return sum(self.node_macs(node) for node in self.nodes)

    def node_macs(self, node: Node) -> int:
        macs = OPS[node.op].macs
        return 0 if macs is no_macs else macs(node.attrs, *[self.types[v] for v in (node.name, *node.inputs)])

    def networkx(self) -> nx.DiGraph:
        """The graph as a NetworkX DAG: one node per layer, with ``op``, ``kind`` and ``type``."""
        import networkx as nx

        dag = nx.DiGraph(name=self.name)
        for node in self.nodes:
            dag.add_node(node.name, op=node.op, kind=node.kind.value, type=str(self.types[node.name]))
            dag.add_edges_from((value, node.name) for value in node.inputs)
        return dag

    def resized(self, height: int, width: int) -> Graph:
        """The same layers on images of another height and width.

        Raises ShapeError, naming the layer, where one does not fit: a dense layer of an image's own size.
        """
        first = self.inputs[0]
        shape = (*first.attrs["shape"][:2], height, width)
        resized = replace(first, attrs={**first.attrs, "shape": shape})
        return replace(self, nodes=tuple(resized if node is first else node for node in self.nodes))

    def pruned(self) -> Graph:
        """Without the nodes that no result needs. Inputs stay."""
        needed = set(self.results)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        keep = tuple(n for n in self.nodes if n.name in needed or n.op == "input")
        return replace(self, nodes=keep)

    def __str__(self) -> str:
        from .text import to_text

        return to_text(self)


def topological(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes in topological order, as near to the given order as possible.

    Raises GraphError naming the layers of a cycle, or an input that nothing defines.
    """
    nodes = list(nodes)
    place = {node.name: i for i, node in enumerate(nodes)}
    if len(place) < len(nodes):
        twice = next(node.name for i, node in enumerate(nodes) if place[node.name] != i)
        raise GraphError(f"layer {twice}: the name is used twice; every layer needs a name of its own")
    waits: list[int] = []  # for how many operands each node waits
    readers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        operands = dict.fromkeys(node.inputs)
        waits.append(len(operands))
        for value in operands:
            if value not in place:
                raise GraphError(f"layer {node.name}: input {value!r} is not defined anywhere")
            readers[place[value]].append(i)
    ready = [i for i, count in enumerate(waits) if not count]  # a heap: the first of those that can come next is next
    order: list[Node] = []
    while ready:
        first = heappop(ready)
        order.append(nodes[first])
        for i in readers[first]:
            waits[i] -= 1
            if not waits[i]:
                heappush(ready, i)
    if len(order) < len(nodes):
        import networkx as nx

        left = [node for i, node in enumerate(nodes) if waits[i]]
        dag = nx.DiGraph()
        dag.add_nodes_from(node.name for node in left)  # the cycle is told from the first of them
        dag.add_edges_from((value, node.name) for node in left for value in node.inputs)
        cycle = [value for value, _ in nx.find_cycle(dag)]
        raise GraphError(f"the layers {' -> '.join([*cycle, cycle[0]])} form a cycle; a graph must be acyclic")
    return tuple(order)
