"""Concatenation without copies: each operand is written where it will lie, in its channels of the whole.

    y = concat(a, b)    a and b are channels 0 to A and A to A+B of y's buffer

Holds for images, for statistics (one row of numbers per channel), and for parameters, which then live in the whole
for good. Nests: a concatenation can itself lie in another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...ir.graph import Graph, Node
from ...ir.table import OPS, Kind, Source
from ...ir.types import TensorType
from ..plan import Kernel
from .answers import Why, why
from .grouping import Grouping
from .rule import Rule, Site


class Placement(Rule):
    """Where values lie that are parts of others: ``within`` says value -> (whole, first channel)."""

    name = "placement"
    equation = "concat(f(x), g(y)) = [f, g](x, y)    each writes its channels"

    def __init__(self, graph: Graph, kernels: Sequence[Kernel], views: Mapping[str, str]):
        self.within: dict[str, tuple[str, int]] = {}
        self.written = {value for kernel in kernels for value in kernel.writes}
        self.viewed = set(views.values())
        self.reshaped = {v for k in kernels if _computes_a_view(graph, k, views) for v in (*k.reads, *k.writes)}

    def about(self, node: Node) -> bool:
        """Whether a node is a concatenation."""
        return bool(node.row.joins)

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this concatenation."""
        return f"{site.reader.op}(x, ...) where x is written into its channels of the whole"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why a whole is a copy of its parts; None if they are written into it."""
        whole = site.reader
        if whole.row.joins != ("filters" if kernels.graph.types[whole.name].is_weight else "channels"):
            return why("the weights of {whole} are not put together by filters", whole=whole.name)
        if len(set(whole.inputs)) < len(whole.inputs):
            return why("{whole} has a part twice", whole=whole.name)
        return next(filter(None, (self._why_not_part(kernels, part) for part in whole.inputs)), None)

    def put(self, graph: Graph, whole: Node) -> None:
        """Let the parts of a whole lie within it."""
        start = 0
        for part in whole.inputs:
            self.within[part] = (whole.name, start)
            type_ = graph.types[part]
            start += type_.per_image[0] if type_.is_weight else type_.channel_count

    def moved(self, kernel: Kernel) -> Kernel:
        """A kernel that reads wholes where it read parts."""

        def root(value: str) -> str:
            while value in self.within:
                value = self.within[value][0]
            return value

        return replace(kernel, reads=tuple(dict.fromkeys(map(root, kernel.reads))))

    def _why_not_part(self, kernels: Grouping, value: str) -> Why | None:
        """Why a value cannot be written into its place within another one; None if it can.
        It must be one kernel's result (or a parameter of this concatenation only), read in its own shape. Rows of
        numbers may be results, or seen as single rows too."""
        graph, views = kernels.graph, kernels.views
        node, type_ = graph.by_name[value], graph.types[value]
        if value in self.within:
            return why("{part} lies within {other} already", part=value, other=self.within[value][0])
        if value in views:
            return why("{part} is {other} under another shape", part=value, other=views[value])
        if type_.batched and value in kernels.results:
            return why("{part} is a result of the network", part=value)
        if type_.batched and value in self.viewed:
            return why("{part} is also seen under another shape", part=value)
        if type_.batched and value in self.reshaped:
            return why("a kernel that uses {part} computes under another shape", part=value)
        if node.row.source is Source.PARAMETER:
            other = next((n for n in graph.consumers[value] if not _finds(n, type_)), None)
            return why("{reader} reads the parameter {part} too", reader=other.name, part=value) if other else None
        if value not in self.written:
            return why("no kernel stores {part} ({op})", part=value, op=node.op)
        other = next((n for n in graph.consumers[value] if _from_memory_only(n.op, n.inputs, value)), None)
        return why("{reader} reads {part} by addresses of its own", reader=other.name, part=value) if other else None


def _computes_a_view(graph: Graph, kernel: Kernel, views: Mapping[str, str]) -> bool:
    """Does the kernel read, under another shape, what it computes itself?
    Then it also loads the operands of that, or stores what follows, as if they lay in one piece."""

    def layout(value: str) -> tuple[int, int]:
        return graph.types[value].pixels, graph.types[value].channels

    for value in {v for node in kernel.nodes for v in node.inputs if v in views and graph.types[v].batched}:
        base = value
        while base in views:
            base = views[base]
        if base in kernel.by_name and layout(base) != layout(value):
            return True
    return False


def _finds(reader: Node, parameter: TensorType) -> bool:
    """Does a layer find a parameter wherever it lies within a longer one?"""
    if parameter.is_weight:
        return reader.row.joins == "filters"
    return len(parameter.shape) == 1 and reader.row.finds_vectors


def _from_memory_only(op: str, inputs: Sequence[str], value: str) -> bool:
    """Does the operation read the value by addresses of its own: as a weight?"""
    return OPS[op].kind is Kind.CONTRACTION and any(
        v == value and i not in OPS[op].on_load for i, v in enumerate(inputs)
    )  # fmt: skip
