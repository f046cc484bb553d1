"""Concatenation without copies: each operand is written where it will lie, in its channels of the whole.

    y = concat(a, b)    a and b are channels 0 to A and A to A+B of y's buffer

Holds for images, for statistics (one row of numbers per channel), and for parameters, which then live in the whole
for good. Nests: a concatenation can itself lie in another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ..ir.graph import Graph, Node
from ..ir.table import OPS, Kind
from ..ir.types import TensorType
from .plan import Kernel
from .why import Why, why

Within = dict[str, tuple[str, int]]
#: (part, whole) -> why the whole is a copy
Copied = dict[tuple[str, str], Why]


def place(
    graph: Graph, kernels: Sequence[Kernel], views: Mapping[str, str], results: Collection[str]
) -> tuple[tuple[Kernel, ...], Within, Copied]:
    """The kernels without the copies that are not needed; where values lie: value -> (whole, first channel); and why
    others are still copied."""
    within: Within = {}
    copied: Copied = {}
    gone: set[str] = set()
    readers: dict[str, list[Node]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            readers[value].append(node)
    written = {value for kernel in kernels for value in kernel.writes}
    viewed = set(views.values())
    reshaped = {v for k in kernels if _computes_a_view(graph, k, views) for v in (*k.reads, *k.writes)}

    def why_not(value: str) -> Why | None:
        """Why a value cannot be written into its place: it is not one kernel's result (or a parameter of this
        concatenation only), read in its own shape. Rows of numbers may be results, or seen as single rows too."""
        node, type_ = graph.by_name[value], graph.types[value]
        if value in within:
            return why("{part} lies within {other} already", part=value, other=within[value][0])
        if value in views:
            return why("{part} is {other} under another shape", part=value, other=views[value])
        if type_.batched and value in results:
            return why("{part} is a result of the network", part=value)
        if type_.batched and value in viewed:
            return why("{part} is also seen under another shape", part=value)
        if type_.batched and value in reshaped:
            return why("a kernel that uses {part} computes under another shape", part=value)
        if node.op == "parameter":
            other = next((n for n in readers[value] if not _finds(n, type_)), None)
            return why("{reader} reads the parameter {part} too", reader=other.name, part=value) if other else None
        if value not in written:
            return why("no kernel stores {part} ({op})", part=value, op=node.op)
        other = next((n for n in readers[value] if _from_memory_only(n.op, n.inputs, value)), None)
        return why("{reader} reads {part} by addresses of its own", reader=other.name, part=value) if other else None

    for kernel in reversed(kernels):
        whole = kernel.anchor
        parts = whole.inputs
        if not whole.row.joins:
            continue
        reason: Why | None = None
        if whole.row.joins != ("filters" if graph.types[whole.name].is_weight else "channels"):
            reason = why("the weights of {whole} are not put together by filters", whole=whole.name)
        elif len(set(parts)) < len(parts):
            reason = why("{whole} has a part twice", whole=whole.name)
        reason = reason or next(filter(None, map(why_not, parts)), None)
        if reason is not None:
            copied.update({(part, whole.name): reason for part in parts})
            continue
        start = 0
        for part in parts:
            within[part] = (whole.name, start)
            type_ = graph.types[part]
            start += type_.per_image[0] if type_.is_weight else type_.channel_count
        gone.add(kernel.name)

    def root(value: str) -> str:
        while value in within:
            value = within[value][0]
        return value

    kept = [
        replace(kernel, reads=tuple(dict.fromkeys(map(root, kernel.reads))))
        for kernel in kernels
        if kernel.name not in gone
    ]
    return tuple(kept), within, copied


def _computes_a_view(graph: Graph, kernel: Kernel, views: Mapping[str, str]) -> bool:
    """Does it read, under another shape, what it computes itself? Then it also loads the operands of that, or stores
    what follows, as if they lay in one piece."""

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
