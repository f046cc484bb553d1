"""Fusion: the nodes of a graph grouped into kernels.

A kernel is one anchor (contraction, window, reduction or a chain of pointwise operations) with prologues on what it
loads, an epilogue on what it stores, and side reductions. The rules, each an equation (a policy chooses among them,
policies.py):

    epilogue     f(anchor(x), y)               = anchor[epilogue f](x, y)               f pointwise
    pooling      pool(conv2d(x))               = conv2d[windows](x)                     windows that do not overlap
    prologue     anchor(f(z))                  = anchor[prologue f](z)                  f recomputed as it is loaded
    side_sums    (wgrad(dy, x), channel_sum(dy)) = wgrad[side sum](dy, x)               dy is loaded once
                 (conv2d(x), batch_stats(conv2d(x))) = conv2d[side sum](x)              of what is stored, as it is
    siblings     (f(x), g(x))                  = [f, g](x)                              same loop, two results
    hosting      (f(z), conv2d(f(z)))          = conv2d[prologue f, stored](z)          1x1: each element loaded once
    placement    concat(f(x), g(y))            = [f, g](x, y)                           each writes its channels
    merging      conv2d(x, w1), conv2d(x, w2)  = slices of conv2d(x, [w1; w2])          before this pass: siblings.py
    at_hand      f(z), g(z) loaded             = f[recomputed](z), g(z) loaded          z is loaded there anyway

A node joins the kernel of the last of its inputs to be computed, so the order of the anchors is an order of the
kernels and no fusion can make a cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..ir.graph import Graph, Node
from ..ir.table import Kind
from .cost import Cost
from .decisions import explain
from .fold import prepared_nodes
from .legality import several_windows, whole_windows, why_not_inlined, why_not_pooled
from .place import Within, place
from .plan import Kernel, Plan
from .policies import rules_of
from .roles import (
    ALONE,
    COLLAPSING,
    ELEMENTWISE,
    GATHERS,
    HOST_FILTERS,
    POOLS,
    SIBLINGS,
    SIDE_SUMS,
    TAKE_ALONG,
    WGRADS,
    chainable,
)
from .views import free_views


def fuse(graph: Graph, mode: str, policy: str = "all", cost: Cost | None = None) -> Plan:
    """Group the graph's nodes into kernels, by the rules of a policy (policies.py). By none of them each layer is a
    kernel of its own; views are free as ever. ``auto`` goes by ``cost`` wherever fewer bytes take more arithmetic."""
    return Fuser(graph, mode, policy, cost).plan()


@dataclass
class Group:
    """A kernel in the making."""

    anchor: Node
    members: list[Node] = field(default_factory=list)


class Fuser:
    """The state of one fusion: which nodes are in which group, and which are recomputed wherever they are read."""

    def __init__(self, graph: Graph, mode: str, policy: str, cost: Cost | None):
        self.graph, self.mode, self.policy, self.cost = graph, mode, policy, cost
        self.rules = rules_of(policy)
        self.prepared = prepared_nodes(graph) if mode == "infer" else ()  # training changes parameters every step
        self.place = {node.name: i for i, node in enumerate(graph.nodes)}
        self.views = free_views(graph)
        skip = {n.name for n in self.prepared} | set(self.views)
        self.nodes = [n for n in graph.nodes if n.kind is not Kind.SOURCE and n.name not in skip]
        #: what may join a group because it wants the same loop (take_siblings)
        self.companions = [n for n in self.nodes if n.op in (*SIBLINGS, "channel_sum", "running_mean", "running_var")]
        self.readers: dict[str, list[Node]] = {n.name: [] for n in graph.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(self.base(v) for v in node.inputs):
                self.readers[value].append(node)
        self.results = {self.base(v) for v in graph.results}
        self.group: dict[str, Group] = {}
        self.inlined: set[str] = set()
        self.hosted: set[str] = set()
        self.priced: dict[str, tuple[float, float]] = {}  # what may be recomputed -> seconds if so, and if stored
        self.groups: list[Group] = []

    def base(self, value: str) -> str:
        while value in self.views:
            value = self.views[value]
        return value

    # --- grouping ------------------------------------------------------------

    def plan(self) -> Plan:
        for node in self.nodes:
            gathered = node.op in GATHERS and not several_windows(node)
            if not chainable(node) and not gathered and node.name not in self.group:
                self.start(node)
        if "prologue" in self.rules:
            self.inline()
        for node in self.nodes:
            if node.name in self.group or node.name in self.inlined:
                continue
            host = self.host(node)
            if host is not None:
                self.join(host, node)
                self.hosted.add(node.name)
            else:
                self.start(node)
        kernels = self.kernels()
        within: Within = {}
        if "placement" in self.rules:
            kernels, within = place(self.graph, kernels, self.views, self.results)
        kernels = tuple(replace(k, name=_kernel_name(i, k.anchor)) for i, k in enumerate(kernels))
        decisions = explain(self, kernels, within)
        prices = dict(self.priced)
        return Plan(self.graph, self.mode, self.policy, kernels, self.views, within, self.prepared, decisions, prices)

    def start(self, node: Node) -> None:
        group = Group(node)
        self.groups.append(group)
        self.join(group, node)
        self.take_siblings(group, node)
        if node.op not in ALONE:
            self.grow(group, node)

    def join(self, group: Group, node: Node) -> None:
        group.members.append(node)
        self.group[node.name] = group

    def take_siblings(self, group: Group, node: Node) -> None:
        """Nodes that want the same loop over the same operands: index beside maximum, dloss beside loss, bias sum
        beside wgrad, running statistics beside the batch's."""
        for other in self.companions:
            if other.name in self.group:
                continue
            if self.wants_the_loop_of(node, other):
                takes = self.ready(other, group)
            elif other.op == "channel_sum" and "side_sums" in self.rules:
                takes = node.op in WGRADS and self.base(other.inputs[0]) == self.base(node.inputs[0])
                takes = takes and self.graph.types[other.name].channels == self.graph.types[node.inputs[0]].channels
                takes = takes and all(n.op != "channel_sum" for n in group.members)  # a kernel leaves one
            elif other.op in ("running_mean", "running_var") and "siblings" in self.rules:
                takes = node.op == "batch_stats" and self.base(other.inputs[1]) == node.name
            else:
                takes = False
            if takes:
                self.join(group, other)

    def wants_the_loop_of(self, node: Node, other: Node) -> bool:
        """Is ``other`` a second result of the loop of ``node``: over the same operands, by the same attributes?"""
        if SIBLINGS.get(other.op) != node.op or "siblings" not in self.rules:
            return False
        same = other.inputs[-len(node.inputs) :] == node.inputs
        return same and all(other.attrs[key] == value for key, value in node.attrs.items())

    def ready(self, node: Node, group: Group) -> bool:
        """Every input is computed before the group's anchor, or within the group for this very pixel (a sum over pixels
        is not there before the kernel ends)."""
        anchor = self.place[group.anchor.name]

        def there(value: str) -> bool:
            source = self.graph.by_name[value]
            if self.group.get(value) is group:
                return source.op not in COLLAPSING
            return self.place[value] < anchor or source.kind is Kind.SOURCE

        return all(there(self.base(v)) for v in node.inputs)

    def grow(self, group: Group, tail: Node) -> None:
        """Take pointwise readers of ``tail`` into the epilogue, then pooling, and go on from what they give before the
        next reader."""

        def readers(tail: Node) -> tuple[Node, Iterator[Node]]:
            last = tail.op in WGRADS or tail.op in COLLAPSING or tail.kind is Kind.VIEW
            return tail, iter(() if last else self.readers[tail.name])

        open_ = [readers(tail)]
        while open_:
            tail, rest = open_[-1]
            node = next(rest, None)
            if node is None:
                open_.pop()
                continue
            if self.sums_by_itself(node) and chainable(group.anchor) and self.can_take_along(group, tail, node):
                for member in self.group[node.name].members:
                    del self.group[member.name]
                self.groups = [g for g in self.groups if g.anchor is not node]
            if node.name in self.group or not self.ready(node, group):
                continue
            same_size = self.graph.types[node.name].elements(1) == self.graph.types[tail.name].elements(1)
            fits = chainable(node) and same_size and self.alike(node, group.anchor.name)
            if fits and "epilogue" in self.rules:
                self.join(group, node)
                open_.append(readers(node))
            elif self.can_pool(group, tail, node):
                self.join(group, node)
                self.take_siblings(group, node)
                if node.op != "max_pool2d_index":
                    open_.append(readers(node))
            elif self.can_take_along(group, tail, node):
                self.join(group, node)
                self.take_siblings(group, node)

    def sums_by_itself(self, node: Node) -> bool:
        """Is it a sum over pixels that has a pass of its own, so far?"""
        return node.op in SIDE_SUMS and node.name in self.group and self.group[node.name].anchor is node

    def alike(self, node: Node, place: str) -> bool:
        """Can the node, and what is recomputed for it, be computed at (pixel, channel) of ``place``? The channels must
        be the same, or not matter."""
        waiting, seen = [(node, place)], {(node.name, place)}
        while waiting:
            node, place = waiting.pop()
            a, b = self.graph.types[node.name], self.graph.types[place]
            same = a.shape == b.shape or (a.batched and b.batched and a.channels == b.channels)
            if not same and (node.op == "slice_channels" or node.op not in ELEMENTWISE):
                return False
            where = node.inputs[0] if node.op == "slice_channels" else place  # a slice's operand: at its own channels
            for value in map(self.base, node.inputs):
                if value in self.inlined and (value, where) not in seen:
                    seen.add((value, where))
                    waiting.append((self.graph.by_name[value], where))
        return True

    def can_take_along(self, group: Group, tail: Node, node: Node) -> bool:
        """A sum over the pixels of what is being stored: batch statistics, or batch norm's two gradient sums. Each tile
        leaves a partial result."""
        takes = group.anchor.op in TAKE_ALONG or chainable(group.anchor)
        if "side_sums" not in self.rules or node.op not in SIDE_SUMS or not takes:
            return False
        pooled = any(n.op in POOLS for n in group.members)
        same = self.graph.types[tail.name].shape == self.graph.types[group.anchor.name].shape
        return node.inputs[0] == tail.name and same and not pooled

    def can_pool(self, group: Group, tail: Node, pool: Node) -> bool:
        if "pooling" not in self.rules or group.anchor.op != "conv2d" or pool.op not in POOLS:
            return False
        return why_not_pooled(self, group, tail, pool) is None

    # --- prologues ------------------------------------------------------------

    def inline(self) -> None:
        """Recompute a node wherever it is read, if that moves fewer bytes than storing it once.

        stored: its operands once, its result written once and read by each reader
        recomputed: its operands by each reader
        """
        for node in self.nodes:
            if node.name in self.group or node.name in self.results or not self.can_inline(node):
                continue
            times = self.times_read(node.name)
            operands = sum(self.bytes(v) for v in self.leaves(node))
            result = self.bytes(node.name)
            if times * operands < operands + result * (1 + times) and self.pays(node):
                self.inlined.add(node.name)

    def pays(self, node: Node) -> bool:
        """Do the kernels that read a value take less time if they recompute it? A reader that has no kernel yet counts
        as one of its own."""
        if self.cost is None:
            return True
        groups = {id(g): g for g in (self.group.get(r.name, Group(r, [r])) for r in self.readers[node.name])}
        apart = self.seconds(Group(node, [node])) + sum(map(self.seconds, groups.values()))
        self.inlined.add(node.name)
        together = sum(map(self.seconds, groups.values()))
        self.inlined.remove(node.name)
        self.priced[node.name] = together, apart
        return self.cheaper(node)

    def cheaper(self, node: Node) -> bool:
        """Is a value with a price to be recomputed? Only ``auto`` goes by the price."""
        assert self.cost is not None
        return self.policy != "auto" or self.cost.recompute(*self.priced[node.name], self.graph.types[node.name])

    def seconds(self, group: Group, stored: str | None = None) -> float:
        """The predicted time of a group as it is now, if it also stores a value that it forms on load."""
        assert self.cost is not None
        body, reads = self.body(group)
        own = {n.name for n in group.members}
        written = [v for v in own if v in self.results or any(r.name not in own for r in self.readers[v])]
        writes = (*written, *([stored] if stored else []))
        kernel = Kernel(group.anchor.name, group.anchor, tuple(body.values()), tuple(reads), writes)
        return self.cost.of_kernel(kernel, self.graph, self.base)

    def times_read(self, value: str) -> float:
        """How many times over all of a value is loaded: once by each kernel that reads it, and a slice of it for its
        share wherever the slice is read."""
        times, parts = 0.0, [(value, 1.0)]
        while parts:
            value, share = parts.pop()
            kernels = set()
            for reader in self.readers[value]:
                group = self.group.get(reader.name)
                if reader.op == "slice_channels":
                    parts.append((reader.name, share * self.bytes(reader.name) / max(self.bytes(value), 1)))
                elif group is None or group.anchor.name not in kernels:
                    times += share
                    kernels |= set() if group is None else {group.anchor.name}
        return times

    def can_inline(self, node: Node) -> bool:
        return why_not_inlined(self, node) is None

    def host(self, node: Node) -> Group | None:
        """The 1x1 convolution that may compute a value as it loads it, and store it for its other readers: one that
        loads each element once (or a few times, for many filters), before anybody else needs it."""
        if "hosting" not in self.rules or not chainable(node):
            return None
        for reader in self.readers[node.name]:
            group = self.group.get(reader.name)
            if group is None or group.anchor is not reader or not self.loads_once(reader, group):
                continue
            only_image = [i for i, v in enumerate(reader.inputs) if self.base(v) == node.name] == [0]
            first = all(self.first_use(other) >= self.place[reader.name] for other in self.readers[node.name])
            if only_image and first and self.alike(node, reader.inputs[0]) and self.hosting_pays(group, node):
                return group
        return None

    def hosting_pays(self, group: Group, node: Node) -> bool:
        if self.cost is None:
            return True
        apart = self.seconds(Group(node, [node])) + self.seconds(group)
        self.inlined.add(node.name)
        together = self.seconds(group, node.name)
        self.inlined.remove(node.name)
        self.priced[node.name] = together, apart
        return self.cheaper(node)

    def loads_once(self, conv: Node, group: Group) -> bool:
        """Does the kernel of a convolution load every element of its image once?"""
        if conv.op != "conv2d" or not all(whole_windows(self, n) for n in group.members if n.op in POOLS):
            return False
        filters, _, r, s = self.graph.types[conv.inputs[1]].per_image
        plain = conv.attrs["stride"] == (1, 1) and not any(conv.attrs["padding"]) and conv.attrs["groups"] == 1
        return plain and r == s == 1 and filters <= HOST_FILTERS

    def first_use(self, reader: Node) -> int:
        """When the first kernel runs that needs what ``reader`` reads."""
        if reader.name in self.inlined:
            return min(self.first_use(r) for r in self.readers[reader.name])
        group = self.group.get(reader.name)
        return self.place[reader.name if group is None else group.anchor.name]

    def leaves(self, node: Node) -> list[str]:
        """The values that must be loaded to compute a node whose inlined inputs are recomputed too; of a slice's
        operand only the slice."""
        found: dict[str, None] = {}
        waiting, seen = [node.name], set()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            computed = self.graph.by_name[value]
            if computed.op == "slice_channels" or (computed is not node and value not in self.inlined):
                found[value] = None
            else:
                waiting += reversed([self.base(v) for v in computed.inputs])
        return list(found)

    def bytes(self, value: str) -> int:
        """Bytes per image, as if floats were stored in two bytes; what has no batch counts nothing."""
        type_ = self.graph.types[value]
        return type_.elements(1) * (2 if type_.dtype == "float" else 1) if type_.batched else 0

    # --- the result ------------------------------------------------------------

    def kernels(self) -> tuple[Kernel, ...]:
        read_later: set[str] = set(self.results)
        bodies = []
        for group in self.groups:
            own = {n.name for n in group.members}
            body, reads = self.body(group)
            for value in self.at_hand(group, reads):
                del reads[value]
                again = [self.graph.by_name[value]]
                while again:
                    node = again.pop()
                    body[node.name] = node
                    operands = {self.base(v) for v in node.inputs}
                    again += [self.graph.by_name[v] for v in operands if v in self.inlined and v not in body]
                    reads.update(dict.fromkeys(v for v in operands - self.inlined if v not in body))
            ordered = tuple(sorted(body.values(), key=lambda n: self.place[n.name]))
            reads_sorted = sorted(reads, key=lambda v: self.place[v])
            read_later.update(reads)
            bodies.append((group, own, ordered, reads_sorted))
        bodies.sort(key=lambda item: self.place[item[0].anchor.name])
        kernels = []
        for group, own, ordered, reads_sorted in bodies:
            writes = tuple(n.name for n in ordered if n.name in own and n.name in read_later)
            kernels.append(Kernel(group.anchor.name, group.anchor, ordered, tuple(reads_sorted), writes))
        return tuple(kernels)

    def body(self, group: Group) -> tuple[dict[str, Node], dict[str, None]]:
        """What a group computes, with all it recomputes, and the values that it reads."""
        own = {n.name for n in group.members}
        body: dict[str, Node] = {n.name: n for n in group.members}
        reads: dict[str, None] = {}
        stack = list(group.members)
        while stack:
            for raw in stack.pop().inputs:
                value = self.base(raw)
                if value in self.inlined:
                    if value not in body:
                        body[value] = self.graph.by_name[value]
                        stack.append(body[value])
                elif value not in own and self.graph.by_name[value].op != "fill":
                    reads[value] = None
        return body, reads

    def at_hand(self, group: Group, reads: Iterable[str]) -> list[str]:
        """What the epilogue would load although it could compute it from images that it loads at that place anyway:
        the sign of relu(bn(z) + bn(s)), where both batch norms' gradients need z and s."""
        anchor = group.anchor
        if "at_hand" not in self.rules:
            return []
        behind = [n for n in group.members if n is not anchor and n.name not in self.hosted]
        operands = {v for n in behind for v in map(self.base, n.inputs)}
        loaded = operands - self.inlined
        for value in operands & self.inlined:
            loaded.update(self.leaves(self.graph.by_name[value]))
        found = []
        for value in reads:
            node = self.graph.by_name[value]
            here = [n for n in self.readers[value] if self.group.get(n.name) is group]
            elsewhere = [n for n in self.readers[value] if self.group.get(n.name) is not group]
            if not chainable(node) or not elsewhere or not here or not all(n in behind and chainable(n) for n in here):
                continue
            images = [v for v in self.leaves(node) if self.bytes(v)]
            if images and set(images) <= loaded - {value} and self.alike(node, anchor.name):
                found.append(value)
        return found


def _kernel_name(number: int, anchor: Node) -> str:
    return f"k{number:02d}_{anchor.name}".replace(".", "_").replace("-", "_")
