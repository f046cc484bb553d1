"""A graph being rewritten: nodes replaced, added and dropped, with what each pass asks about memory.

``locate`` knows where a value would lie if every concatenation were made in place, so that a rewrite can say of slices
that they are, side by side, a value that exists already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..ir.graph import Graph, Node, derived_name, known_type, topological, verified


class Rewriter:
    """The nodes of a graph by name, who reads what, and which values are parts of which concatenation."""

    def __init__(self, graph: Graph):
        self.start = graph
        self.results = set(graph.results)
        self.nodes: dict[str, Node] = {}
        self.types = dict(graph.types)
        self._position = {node.name: float(i) for i, node in enumerate(graph.nodes)}
        self._readers: dict[str, dict[str, None]] = {}
        self._within: dict[str, tuple[str, int]] = {}
        for node in graph.nodes:
            self.put(node)

    def graph(self) -> Graph:
        """The rewritten graph, without what nothing reads any more."""
        nodes = sorted(self.nodes.values(), key=lambda node: self._position[node.name])
        return replace(self.start, nodes=topological(nodes)).pruned()

    # --- changing it ------------------------------------------------------------

    def put(self, node: Node, beside: str = "") -> None:
        """Add a node, or replace the one of its name; it moves to where ``beside`` stands, if that is given."""
        self.drop(node.name)
        if beside:
            self._position[node.name] = self._position[beside] + 0.1
        self.nodes[node.name] = node
        for value in node.inputs:
            self._readers.setdefault(value, {})[node.name] = None
        if node.row.joins == "channels":
            start = 0
            for value in node.inputs:
                if self.nodes[value].row.cuts != "channels":
                    self._within.setdefault(value, (node.name, start))
                start += self.channels(value)

    def drop(self, name: str) -> None:
        """Take a node away, if it is there; what reads it must be put anew."""
        node = self.nodes.pop(name, None)
        for value in node.inputs if node else ():
            self._readers[value].pop(name, None)
            if self._within.get(value, ("",))[0] == name:
                del self._within[value]

    def add(
        self, base: str, op: str, *inputs: str, attrs: Mapping[str, Any] | None = None, suffix: str = "",
        beside: str = "",
    ) -> str:  # fmt: skip
        """Add a node ``base.suffix``, and return its name.
        It stands about where ``beside`` does (its last input, unless said); its operation is ``suffix``, unless said.
        """
        name = derived_name(base, suffix or op, self.types)
        node = verified(Node(name, op, inputs, attrs or {}), self.types)
        self.types[name] = known_type(node)
        self._position[name] = self._position[beside] if beside else max(self._position[v] for v in inputs) + 0.5
        self.put(node)
        return name

    def rename(self, name: str, value: str) -> None:
        """Let everybody who reads ``name`` read ``value``."""
        for reader in self.readers(name):
            self.put(replace(reader, inputs=tuple(value if v == name else v for v in reader.inputs)))

    # --- asking ------------------------------------------------------------

    def readers(self, value: str) -> list[Node]:
        return [self.nodes[name] for name in self._readers.get(value, ())]

    def channels(self, value: str) -> int:
        return self.types[value].channel_count

    def uncut(self, value: str) -> str:
        """What ``value`` is a slice of (of a slice, perhaps), or itself."""
        return self.cut(value)[0]

    def cut(self, value: str) -> tuple[str, int]:
        """What ``value`` is a slice of, and its first channel there."""
        start = 0
        while self.nodes[value].row.cuts == "channels":
            start += self.nodes[value].attrs["start"]
            value = self.nodes[value].inputs[0]
        return value, start

    def locate(self, value: str) -> tuple[str, int]:
        """The buffer ``value`` would lie in, and its first channel there."""
        value, start = self.cut(value)
        while value in self._within:
            value, more = self._within[value]
            value, again = self.cut(value)
            start += more + again
        return value, start

    # --- slices and concatenations ------------------------------------------------------------

    def slice(self, value: str, start: int, stop: int) -> str:
        """Channels ``start`` to ``stop``, by the node that has them already if there is one."""
        if (start, stop) == (0, self.channels(value)):
            return value
        attrs = {"start": start, "stop": stop}
        for reader in self.readers(value):
            if reader.row.cuts == "channels" and reader.attrs == attrs:
                return reader.name
        return self.add(value, "slice_channels", value, attrs=attrs, suffix=f"channels_{start}_{stop}")

    def cut_like(self, value: str, like: str) -> str:
        """A slice of ``value`` with the same channels as ``like`` has of the value that it is a slice of."""
        start = self.cut(like)[1]
        return self.slice(value, start, start + self.channels(like)) if self.uncut(like) != like else value

    def pieces(self, parts: Sequence[str]) -> list[tuple[str, int, int]]:
        """The parts as (whole, first channel, end), neighbours in one whole taken together."""
        found: list[tuple[str, int, int]] = []
        for part in parts:
            whole, start = self.cut(part)
            stop = start + self.channels(part)
            if found and found[-1][0] == whole and found[-1][2] == start:
                whole, start, _ = found.pop()
            found.append((whole, start, stop))
        return found

    def absorb(self, concat: Node) -> None:
        """concat(slice(m), y) = slice(concat(m, y)) if the slice ends m; likewise where one begins m and comes last."""
        if not any(self.nodes[v].row.cuts == "channels" for v in concat.inputs):
            return
        pieces = self.pieces(concat.inputs)
        self.drop(concat.name)  # so that its operands are free
        whole = self._overlapping(pieces, concat.name)
        if whole is not None:
            first, count = pieces[0][1], self.channels(concat.name)
            concat = Node(concat.name, "slice_channels", (whole,), {"start": first, "stop": first + count})
        self.put(concat)

    def joined(self, parts: Sequence[str], base: str) -> str | None:
        """A value that is the parts side by side without a copy; None if there is none.
        It is one that is there already, or some channels of a concatenation of whole values."""
        count = sum(map(self.channels, parts))
        found = self._there(parts, count)
        if found is not None:
            return found
        pieces = self.pieces(parts)
        whole = self._overlapping(pieces, base)
        return whole and self.slice(whole, pieces[0][1], pieces[0][1] + count)

    def _overlapping(self, pieces: Sequence[tuple[str, int, int]], base: str) -> str | None:
        """The concatenation of whole values of which the pieces are successive channels; None if there is none.
        The first piece may be the end of its whole, the last one the beginning. There is none, too, if a whole already
        lies elsewhere."""
        wholes = [whole for whole, _, _ in pieces]
        for i, (whole, start, stop) in enumerate(pieces):
            from_start = start == 0 or i == 0
            to_end = stop == self.channels(whole) or i == len(pieces) - 1
            if not (from_start and to_end) or (len(pieces) > 1 and whole in self._within):
                return None
        if len(wholes) == 1:
            return wholes[0]
        return self.add(base, "concat", *wholes, suffix="whole", beside=base) if len(set(wholes)) > 1 else None

    def _there(self, parts: Sequence[str], count: int) -> str | None:
        """A value that is just these parts, if all concatenations are made in place."""
        places = [self.locate(part) for part in parts]
        buffer, first = places[0]
        expected = first
        for part, (other, start) in zip(parts, places, strict=True):
            if other != buffer or start != expected:
                return None
            expected += self.channels(part)
        for value in (buffer, *self._within):
            if self.channels(value) == count and self.locate(value) == (buffer, first):
                return value
        return None
