"""The kernels in the making: which nodes are in which, and what the rules ask about them."""

from __future__ import annotations

from ...ir.graph import Graph, Node
from ...ir.table import Kind, Source
from ..cost import Cost
from ..fold import prepared_nodes
from ..policies import rules_of
from ..views import free_views
from .group import Group
from .prices import Prices


class Grouping:
    """The state of one fusion: which nodes are in which group, and which are recomputed wherever they are read."""

    def __init__(self, graph: Graph, mode: str, policy: str, cost: Cost | None):
        self.graph, self.policy = graph, policy
        self.rules = rules_of(policy)
        self.prepared = prepared_nodes(graph) if mode == "infer" else ()  # training changes parameters every step
        #: where each node stands among the graph's, which are in an order that computes them
        self.order = {node.name: i for i, node in enumerate(graph.nodes)}
        self.views = free_views(graph, mode)
        skip = {n.name for n in self.prepared} | set(self.views)
        self.nodes = [n for n in graph.nodes if n.kind is not Kind.SOURCE and n.name not in skip]
        #: who wants a loop over a value, besides whoever has one
        self._companions: dict[str, list[Node]] = {}
        self.readers: dict[str, list[Node]] = {n.name: [] for n in graph.nodes}
        for node in self.nodes:
            if (over := self.wanted_loop(node)) is not None:
                self._companions.setdefault(over, []).append(node)
            for value in self.operands(node):
                self.readers[value].append(node)
        self.results = {self.base(v) for v in graph.results}
        self.groups: dict[str, Group] = {}  # by the name of the anchor
        self._home: dict[str, Group] = {}
        self.inlined: set[str] = set()
        self._loaded: dict[str, int] = {}  # bytes of a value that kernels load, as long as these are as they are
        self._length: dict[str, int] = {}  # of what is inlined: how many operations compute it at one place
        self.prices = Prices(self, cost)

    # --- changing it ------------------------------------------------------------

    def start(self, anchor: Node) -> Group:
        """A new group of one node."""
        self._loaded.clear()
        group = self.groups[anchor.name] = self._home[anchor.name] = Group(anchor)
        return group

    def join(self, group: Group, node: Node) -> None:
        """Let a node be computed by the kernel of a group."""
        self._loaded.clear()
        group.add(node)
        self._home[node.name] = group

    def dissolve(self, group: Group) -> None:
        """Take a group apart: its nodes have no kernel again."""
        self._loaded.clear()
        del self.groups[group.anchor.name]
        for member in group.members:
            del self._home[member.name]

    def inline(self, node: Node) -> None:
        """Let a node be recomputed wherever it is read, and computed no longer by the kernel that may have it."""
        if (home := self._home.pop(node.name, None)) is not None:
            self._loaded.clear()
            home.release(node)
        self.inlined.add(node.name)
        self._length[node.name] = self.operations(node)

    # --- asking ------------------------------------------------------------

    def ends_with(self, group: Group, node: Node) -> bool:
        """Is a node at the end of its kernel's epilogue, computed there only to be stored?"""
        return (
            node.row.chains
            and node is not group.anchor
            and node.name not in group.hosted
            and not any(self._home.get(reader.name) is group for reader in self.readers[node.name])
        )

    def only_for(self, group: Group, value: str, node: Node) -> bool:
        """Is a kernel's value stored for ``node`` alone, and so not at all if ``node`` is recomputed?"""
        others = [r for r in self.readers[value] if r is not node and self._home.get(r.name) is not group]
        return self._home.get(value) is group and value not in self.results and not others

    def home(self, name: str) -> Group | None:
        """The group that a node is in."""
        return self._home.get(name)

    def base(self, value: str) -> str:
        """The value in whose memory another one lies."""
        while value in self.views:
            value = self.views[value]
        return value

    def operands(self, node: Node) -> list[str]:
        """The values that a node reads, each once, views as what they are views of."""
        return list(dict.fromkeys(map(self.base, node.inputs)))

    def within(self, group: Group, node: Node) -> list[str]:
        """The values of a group that a node reads."""
        return [value for value in self.operands(node) if self._home.get(value) is group]

    def bytes(self, value: str) -> int:
        """Bytes per image, as if floats were stored in two bytes; what has no batch counts nothing."""
        type_ = self.graph.types[value]
        return type_.elements(1) * (2 if type_.dtype == "float" else 1) if type_.batched else 0

    def wanted_loop(self, node: Node) -> str | None:
        """The value over which a node would share a loop with another kernel; None if there is none."""
        return None if node.row.loop_over is None else self.base(node.inputs[node.row.loop_over])

    def companions(self, node: Node) -> list[Node]:
        """Who may want the loop of a node, in the graph's order: a loop over an operand of it, or over its result."""
        values = dict.fromkeys((*map(self.base, node.inputs[:1] + node.inputs[-1:]), node.name))
        found = (n for v in values for n in self._companions.get(v, ()))
        return sorted(found, key=lambda n: self.order[n.name])

    def alike(self, node: Node, place: str) -> bool:
        """Can the node, and what is recomputed for it, be computed at (pixel, channel) of ``place``?
        The channels must be the same, or not matter."""
        waiting, seen = [(node, place)], {(node.name, place)}
        while waiting:
            node, place = waiting.pop()
            a, b = self.graph.types[node.name], self.graph.types[place]
            same = a.shape == b.shape or (a.batched and b.batched and a.channels == b.channels)
            if not same and not node.elementwise:
                return False
            elsewhere = node.row.cuts or node.row.gathers
            where = node.inputs[0] if elsewhere else place  # a slice's operand: at its own channels
            for value in map(self.base, node.inputs):
                if value in self.inlined and (value, where) not in seen:
                    seen.add((value, where))
                    waiting.append((self.graph.by_name[value], where))
        return True

    def operations(self, node: Node) -> int:
        """How many operations compute a value at one place, operands that are recomputed for it among them."""
        return 1 + sum(self._length.get(self.base(v), 0) for v in node.inputs)

    def times_read(self, value: str) -> float:
        """How many times over all of a value is loaded.
        Each kernel that reads it counts once; one that reads a slice of it counts for the slice's share."""
        waiting = [value]
        while waiting:
            slices = [r.name for r in self.readers[waiting[-1]] if r.row.cuts]
            unknown = [name for name in slices if name not in self._loaded]
            if unknown:
                waiting += unknown
                continue
            at = waiting.pop()
            self._loaded[at] = self._kernels(at) * self.bytes(at) + sum(self._loaded[name] for name in slices)
        return self._loaded[value] / self.bytes(value) if self.bytes(value) else float(self._kernels(value))

    def _kernels(self, value: str) -> int:
        """How many kernels read all of a value; a reader without a kernel will have one of its own."""
        return len({id(self._home.get(r.name, r)) for r in self.readers[value] if not r.row.cuts})

    def first_use(self, reader: Node) -> int:
        """When the first kernel runs that needs what ``reader`` reads."""
        if reader.name in self.inlined:
            return min(self.first_use(r) for r in self.readers[reader.name])
        group = self._home.get(reader.name)
        return self.order[reader.name if group is None else group.anchor.name]

    def leaves(self, node: Node) -> list[str]:
        """The values that must be loaded to compute a node whose inlined inputs are recomputed too.
        Of a slice's operand only the slice is."""
        found: dict[str, None] = {}
        waiting, seen = [node.name], set()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            computed = self.graph.by_name[value]
            if computed.row.cuts or (computed is not node and value not in self.inlined):
                found[value] = None
            else:
                waiting += reversed([self.base(v) for v in computed.inputs])
        return list(found)

    def body(self, group: Group) -> tuple[dict[str, Node], dict[str, None]]:
        """What a group computes, with all it recomputes, and the values that it reads."""
        own = {n.name for n in group.members}
        body: dict[str, Node] = {n.name: n for n in group.members if n.name not in self.inlined}
        reads: dict[str, None] = {}
        stack = list(body.values())
        while stack:
            for raw in stack.pop().inputs:
                value = self.base(raw)
                if value in self.inlined:
                    if value not in body:
                        body[value] = self.graph.by_name[value]
                        stack.append(body[value])
                elif value not in own and self.graph.by_name[value].row.source is not Source.CONSTANT:
                    reads[value] = None
        return body, reads

    def recompute(self, value: str, body: dict[str, Node], reads: dict[str, None]) -> None:
        """Let a kernel's body compute a value that it would read, of what it reads anyway."""
        del reads[value]
        again = [self.graph.by_name[value]]
        while again:
            node = again.pop()
            body[node.name] = node
            operands = {self.base(v) for v in node.inputs}
            again += [self.graph.by_name[v] for v in operands if v in self.inlined and v not in body]
            reads.update(dict.fromkeys(v for v in operands - self.inlined if v not in body))
