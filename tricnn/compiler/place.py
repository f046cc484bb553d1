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
from .plan import Kernel
from .roles import LOADED

Within = dict[str, tuple[str, int]]

#: operations that find a vector of parameters wherever it lies
VECTOR_READERS = ("concat", "normalize", "normalize_grad_input")


def place(
    graph: Graph, kernels: Sequence[Kernel], views: Mapping[str, str], results: Collection[str]
) -> tuple[tuple[Kernel, ...], Within]:
    """The kernels without the copies that are not needed, and where values lie: value -> (whole, first channel)."""
    within: Within = {}
    gone: set[str] = set()
    readers: dict[str, list[Node]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            readers[value].append(node)
    written = {value for kernel in kernels for value in kernel.writes}
    viewed = set(views.values())

    def by_itself(value: str) -> bool:
        """Is the value a kernel's result (or a parameter of this concatenation only), read in its own shape? Rows of
        numbers may be results, or seen as single rows too."""
        node, type_ = graph.by_name[value], graph.types[value]
        free = value not in within and value not in views
        if type_.batched:
            free = free and value not in results and value not in viewed
        if node.op == "parameter":
            allowed = ("concat_filters",) if type_.is_weight else VECTOR_READERS if len(type_.shape) == 1 else ()
            return free and all(n.op in allowed for n in readers[value])
        return free and value in written and not any(_from_memory_only(n.op, n.inputs, value) for n in readers[value])

    for kernel in reversed(kernels):
        whole = kernel.anchor
        parts = whole.inputs
        joins = whole.op == ("concat_filters" if graph.types[whole.name].is_weight else "concat")
        joins = joins and len(set(parts)) == len(parts)
        if not joins or not all(map(by_itself, parts)):
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
    return tuple(kept), within


def _from_memory_only(op: str, inputs: Sequence[str], value: str) -> bool:
    """Does the operation read the value by addresses of its own: as a weight?"""
    return OPS[op].kind is Kind.CONTRACTION and any(
        v == value and i not in LOADED[op] for i, v in enumerate(inputs)
    )  # fmt: skip
