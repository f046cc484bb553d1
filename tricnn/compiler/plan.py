"""The plan: a short program of kernels, each one a group of layers around an anchor."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from ..ir.graph import Graph, Node
from ..ir.table import OPS, Kind, Source
from ..ir.text import attr_text
from ..ir.types import TensorType
from ..ir.wording import pieces, plural
from .fusion.answers import Decision

WIDTH = 118  # columns of a plan as text


@dataclass(frozen=True)
class Kernel:
    """One kernel: its nodes run without touching memory in between.

    ``nodes`` in topological order: prologues (recomputed as operands load), the anchor (whose loop the template owns),
    epilogue and side results. ``reads`` and ``writes`` are the values that go through memory.
    """

    name: str
    anchor: Node
    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The anchor's operation; ``pointwise`` for a chain of those."""
        return "pointwise" if self.anchor.kind is Kind.POINTWISE else self.anchor.op

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the pooling that happens on a convolution's tiles; (1, 1) where there is none."""
        pools = [n for n in self.nodes if n.row.pools and n is not self.anchor]
        return pools[0].attrs["kernel_size"] if pools else (1, 1)


def _narrow(line: str) -> list[str]:
    """A line in parts that fit a page."""
    if len(line) <= WIDTH:
        return [line]
    rest = "# " * line.startswith("#") + " " * 8
    parts = textwrap.wrap(line, WIDTH, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
    return [f"{rest * (number > 0)}{piece}" for part in parts for number, piece in enumerate(_pieces(part, rest))]


def _pieces(part: str, rest: str) -> list[str]:
    """A part that no blank could make short enough, broken behind separators of its names."""
    return [part] if len(part) <= WIDTH else [piece.rstrip() for piece in pieces(part, WIDTH - len(rest))]


@dataclass(frozen=True)
class Place:
    """A value's memory: its buffer, the element it begins at, and the elements between two of its pixels (or rows)."""

    buffer: str
    offset: int
    pitch: int


@dataclass(frozen=True)
class Plan:
    """What runs, in order, fused by the rules of ``policy`` (policies.py).

    ``views`` are values that are another value's memory under another shape; ``within`` says of a value which other
    one's channels it is, and the first of them; ``prepared`` are computed once whenever the parameters change (folded
    weights). ``prices`` are the predicted seconds of the kernels that a value concerns, if they recompute it and if it
    is stored. Partial sums of weights' gradients are added in one launch at the end of the step, or, if there are
    ``bucket_bytes``, whenever so many bytes of gradients wait for it: who sends them elsewhere has them earlier.
    ``frozen`` names what training leaves as it is. ``left_out`` are parameters and buffers that the network was
    declared with, and that no node of this plan reads."""

    graph: Graph
    mode: str
    policy: str
    kernels: tuple[Kernel, ...]
    views: Mapping[str, str] = field(default_factory=dict)
    within: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    prepared: tuple[Node, ...] = ()
    decisions: tuple[Decision, ...] = ()
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bucket_bytes: int | None = None
    frozen: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def fused(self) -> bool:
        return self.policy != "none"

    def storage(self, value: str) -> str:
        """The value in whose memory ``value`` lies."""
        while value in self.views:
            value = self.views[value]
        return value

    def place(self, value: str) -> Place:
        """Where in memory a value begins."""
        if value in self.views:
            place, node = self.place(self.views[value]), self.graph.by_name[value]
            if node.row.row_of:
                return replace(place, offset=place.offset + node.attrs["index"] * place.pitch)
            start = node.attrs["start"] if node.row.cuts else 0
            return replace(place, offset=place.offset + start * self.step(value))
        if value in self.within:
            whole, start = self.within[value]
            place = self.place(whole)
            return replace(place, offset=place.offset + start * self.step(value))
        return Place(value, 0, self.type(value).channel_count)

    def covered(self, kernel: Kernel) -> tuple[int, int]:
        """How many rows and columns of its anchor's image a kernel computes.
        They are all of them or, if it pools them, as many as whole windows cover. A 1x1 convolution loads no others
        either."""
        (p, q), (r, s) = self.type(kernel.anchor.name).spatial, kernel.window
        return p // r * r, q // s * s

    def step(self, value: str) -> int:
        """How many elements lie between two channels of a value; of a weight, between two filters."""
        type_ = self.type(value)
        return prod(type_.per_image[1:]) if type_.is_weight else 1

    def sliced(self, value: str, whole: Any) -> Any:
        """A value that lies within another one, as a view of the array (logical shape) that holds the buffer."""
        type_, start = self.type(value), self.place(value).offset // self.step(value)
        if type_.is_weight:
            return whole[start : start + type_.per_image[0]]
        return whole[(slice(None),) * type_.channel_axis + (slice(start, start + type_.channel_count),)]

    @cached_property
    def forward_kernels(self) -> int:
        """How many of the kernels, from the first on, are the forward pass.
        They are those before the loss, or before the first that reads the gradient of an output; all of them where
        nothing is differentiated."""
        tangents = set(self.graph.tangents.values())

        def backward(kernel: Kernel) -> bool:
            read = {self.storage(v) for n in kernel.nodes for v in n.inputs}
            return any(n.row.begins_backward for n in kernel.nodes) or not tangents.isdisjoint(read)

        return next((i for i, kernel in enumerate(self.kernels) if backward(kernel)), len(self.kernels))

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """Values computed by the forward pass and read again by the backward pass (empty for inference)."""
        made = {self.place(v).buffer for k in self.kernels[: self.forward_kernels] for v in k.writes}
        later = {self.place(v).buffer for k in self.kernels[self.forward_kernels :] for v in k.reads}
        return tuple(sorted(made & later))

    def type(self, value: str) -> TensorType:
        return self.graph.types[value]

    def __str__(self) -> str:
        """The plan as a program: one kernel a line, what it computes below it.
        Of what is longer than WIDTH the rest stands below, indented."""
        fused = {"none": "unfused", "auto": "fused", "all": "fused"}.get(self.policy, f"fused by {self.policy}")
        lines = [f"# plan of {self.graph.name}: {self.mode}, {fused}, {plural(len(self.kernels), 'kernel')}"]
        for source in self.graph.nodes:
            if source.row.source in (Source.INPUT, Source.BUFFER):
                lines.append(f"{source.name}: {self.type(source.name)}  # {source.op}")
        for node in self.prepared:
            lines.append(f"prepare {node.name} = {node.op}({', '.join(node.inputs)})  # {self.type(node.name)}")
        for kernel in self.kernels:
            results = ", ".join(f"{v}: {self.type(v)}" for v in kernel.writes)
            lines.append(f"{kernel.name}({', '.join(kernel.reads)}) -> {results}")
            for node in kernel.nodes:
                attrs = attr_text(node.op, node.attrs)
                mark = "*" if node is kernel.anchor and OPS[node.op].kind is not Kind.POINTWISE else " "
                arguments = ", ".join([*node.inputs, *([attrs] if attrs else [])])
                lines.append(f"  {mark} {node.name} = {node.op}({arguments})")
        if self.bucket_bytes is not None:
            lines.append(f"finish gradients every {self.bucket_bytes:,} bytes")
        for name, value in self.views.items():
            lines.append(f"view {name} = {value}")
        for name, (whole, start) in self.within.items():
            type_ = self.type(name)
            count = type_.per_image[0] if type_.is_weight else type_.channel_count
            lines.append(f"place {name} = {whole}[{':, ' * (not type_.is_weight)}{start}:{start + count}]")
        if self.kept:
            lines.append(f"# kept for the backward pass: {', '.join(self.kept)}")
        for output in self.graph.outputs:
            lines.append(f"return {output.name} = {output.value}")
        return "\n".join(part for line in lines for part in _narrow(line)) + "\n"
