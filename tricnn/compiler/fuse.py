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
from ..ir.wording import size
from .cost import Cost
from .decisions import explain
from .fold import prepared_nodes
from .legality import (
    several_windows,
    whole_windows,
    why_ended,
    why_late,
    why_not_along,
    why_not_inlined,
    why_not_pointwise,
    why_not_pooled,
)
from .place import Within, place
from .plan import Kernel, Plan
from .policies import rules_of
from .views import free_views
from .why import Why, why

#: a 1x1 convolution of more filters than this computes what it loads too many times over
HOST_FILTERS = 512


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
        self.companions: dict[str, list[Node]] = {}  # by the value that it wants the loop over
        for node in self.nodes:
            if (over := self.wanted_loop(node)) is not None:
                self.companions.setdefault(over, []).append(node)
        self.readers: dict[str, list[Node]] = {n.name: [] for n in graph.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(self.base(v) for v in node.inputs):
                self.readers[value].append(node)
        self.results = {self.base(v) for v in graph.results}
        self.group: dict[str, Group] = {}
        self.inlined: set[str] = set()
        self.length: dict[str, int] = {}  # of what is inlined: how many operations compute it at one place
        self.hosted: set[str] = set()
        self.priced: dict[str, tuple[float, float]] = {}  # what may be recomputed -> seconds if so, and if stored
        self.groups: list[Group] = []
        #: (value, reader) -> by rule, why it did not put the two into one kernel
        self.refused: dict[tuple[str, str], dict[str, Why]] = {}

    def refuse(self, rule: str, value: str, readers: Iterable[Node], reason: Why) -> None:
        """Remember why a rule was not used: what ``explain`` says of an edge is what was checked."""
        for reader in readers:
            self.refused.setdefault((value, reader.name), {})[rule] = reason

    def without(self, rule: str) -> Why | None:
        """Why a rule is not used anywhere; None if it may be."""
        return None if rule in self.rules else why("not a rule of the policy {policy}", policy=self.policy)

    def base(self, value: str) -> str:
        while value in self.views:
            value = self.views[value]
        return value

    # --- grouping ------------------------------------------------------------

    def plan(self) -> Plan:
        for node in self.nodes:
            gathered = node.row.gathers and not several_windows(node)
            if not node.row.chains and not gathered and node.name not in self.group:
                self.start(node)
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
            kernels, within, copied = place(self.graph, kernels, self.views, self.results)
            for (part, whole), reason in copied.items():
                self.refuse("placement", self.base(part), [self.graph.by_name[whole]], reason)
        kernels = tuple(replace(k, name=_kernel_name(i, k.anchor)) for i, k in enumerate(kernels))
        decisions = explain(self, kernels, within)
        prices = dict(self.priced)
        return Plan(self.graph, self.mode, self.policy, kernels, self.views, within, self.prepared, decisions, prices)

    def start(self, node: Node) -> None:
        group = Group(node)
        self.groups.append(group)
        self.join(group, node)
        self.take_siblings(group, node)
        self.grow(group, node)

    def join(self, group: Group, node: Node) -> None:
        group.members.append(node)
        self.group[node.name] = group

    def take_siblings(self, group: Group, node: Node) -> None:
        """Nodes that want the same loop over the same operands: index beside maximum, dloss beside loss, bias sum
        beside wgrad, running statistics beside the batch's."""
        for other in self.near(node):
            if other.name in self.group:
                continue
            if self.wants_the_loop_of(node, other):
                takes = self.ready(other, group)
            elif other.row.side_sum == "loaded" and "side_sums" in self.rules:
                takes = node.row.weight_gradient and self.base(other.inputs[0]) == self.base(node.inputs[0])
                takes = takes and self.graph.types[other.name].channels == self.graph.types[node.inputs[0]].channels
                takes = takes and all(n.row.side_sum != "loaded" for n in group.members)  # a kernel leaves one
            elif other.row.updates and "siblings" in self.rules:
                takes = self.wanted_loop(other) == node.name
            else:
                takes = False
            if takes:
                self.join(group, other)

    def wanted_loop(self, node: Node) -> str | None:
        """The value over which a node would share a loop with another kernel; None if there is none."""
        return None if node.row.loop_over is None else self.base(node.inputs[node.row.loop_over])

    def near(self, node: Node) -> list[Node]:
        """What may want the loop of a node, in the graph's order: it wants one over an operand, or over the result."""
        values = dict.fromkeys((*map(self.base, node.inputs[:1] + node.inputs[-1:]), node.name))
        return sorted((n for v in values for n in self.companions.get(v, ())), key=lambda n: self.place[n.name])

    def wants_the_loop_of(self, node: Node, other: Node) -> bool:
        """Is ``other`` a second result of the loop of ``node``: over the same operands, by the same attributes?"""
        if other.row.sibling_of != node.op or "siblings" not in self.rules:
            return False
        same = other.inputs[-len(node.inputs) :] == node.inputs
        return same and all(other.attrs[key] == value for key, value in node.attrs.items())

    def ready(self, node: Node, group: Group) -> bool:
        return why_late(self, group, node) is None

    def grow(self, group: Group, tail: Node) -> None:
        """Take pointwise readers of ``tail`` into the epilogue, then pooling, and go on from what they give before the
        next reader."""

        def readers(tail: Node) -> tuple[Node, Iterator[Node]]:
            ended = why_ended(tail)
            if ended is not None:
                self.refuse("epilogue", tail.name, self.readers[tail.name], ended)
            return tail, iter(() if ended is not None else self.readers[tail.name])

        open_ = [readers(tail)]
        while open_:
            tail, rest = open_[-1]
            node = next(rest, None)
            if node is None:
                open_.pop()
                continue
            if self.sums_by_itself(node) and group.anchor.row.chains and self.can_take_along(group, tail, node):
                for member in self.group[node.name].members:
                    del self.group[member.name]
                self.groups = [g for g in self.groups if g.anchor is not node]
            home = self.group.get(node.name)
            if home is group:
                continue
            rule, reason = self.joins(group, tail, node)
            if home is not None and reason is None:
                reason = why("{reader} is in the kernel of {anchor} already", reader=node.name, anchor=home.anchor.name)
            if reason is not None:
                self.refuse(rule, tail.name, [node], reason)
                continue
            self.join(group, node)
            if rule != "epilogue":
                self.take_siblings(group, node)
            if rule != "side_sums":
                open_.append(readers(node))

    def joins(self, group: Group, tail: Node, node: Node) -> tuple[str, Why | None]:
        """The rule that would put a reader of ``tail``, a value of the group, into its kernel; and why it does not."""
        if node.row.side_sum == "stored":
            rule, reason = "side_sums", why_not_along(self, group, tail, node)
        elif node.row.pools:
            rule, reason = "pooling", why_not_pooled(self, group, tail, node)
        else:
            rule, reason = "epilogue", why_not_pointwise(self, group, tail, node)
        return rule, self.without(rule) or reason or why_late(self, group, node)

    def sums_by_itself(self, node: Node) -> bool:
        """Is it a sum over pixels that has a pass of its own, so far?"""
        return node.row.side_sum == "stored" and node.name in self.group and self.group[node.name].anchor is node

    def alike(self, node: Node, place: str) -> bool:
        """Can the node, and what is recomputed for it, be computed at (pixel, channel) of ``place``? The channels must
        be the same, or not matter."""
        waiting, seen = [(node, place)], {(node.name, place)}
        while waiting:
            node, place = waiting.pop()
            a, b = self.graph.types[node.name], self.graph.types[place]
            same = a.shape == b.shape or (a.batched and b.batched and a.channels == b.channels)
            if not same and not node.elementwise:
                return False
            where = node.inputs[0] if node.row.cuts else place  # a slice's operand: at its own channels
            for value in map(self.base, node.inputs):
                if value in self.inlined and (value, where) not in seen:
                    seen.add((value, where))
                    waiting.append((self.graph.by_name[value], where))
        return True

    def can_take_along(self, group: Group, tail: Node, node: Node) -> bool:
        return (
            "side_sums" in self.rules
            and node.row.side_sum == "stored"
            and why_not_along(self, group, tail, node) is None
        )

    # --- prologues ------------------------------------------------------------

    def inline(self) -> None:
        """Recompute a node wherever it is read, if that moves fewer bytes than storing it once.

        stored: its operands once, its result written once and read by each reader
        recomputed: its operands by each reader
        """
        for node in self.nodes:
            if not node.row.chains and not node.row.gathers:
                continue
            reason = self.without("prologue") or self.why_stored(node)
            if reason is None:
                self.inlined.add(node.name)
                self.length[node.name] = self.operations(node)
            else:
                self.refuse("prologue", node.name, self.readers[node.name], reason)

    def why_stored(self, node: Node) -> Why | None:
        """Why a value is not recomputed wherever it is read; None if it is."""
        home = self.group.get(node.name)
        if home is not None:
            return why("the kernel of {anchor} computes and stores {value}", anchor=home.anchor.name, value=node.name)
        if node.name in self.results:
            return why("{value} is a result of the network", value=node.name)
        if (reason := why_not_inlined(self, node)) is not None:
            return reason
        times = self.times_read(node.name)
        operands, result = sum(self.bytes(v) for v in self.leaves(node)), self.bytes(node.name)
        recomputed, stored = times * operands, operands + result * (1 + times)
        if recomputed >= stored:
            return why("recomputed {times} times it moves {recomputed} an image (in 16 bits), stored once {stored}",
                       times=f"{times:g}", recomputed=size(recomputed), stored=size(stored))  # fmt: skip
        if not self.pays(node):
            return self.dearer(node)
        return None

    def dearer(self, node: Node) -> Why:
        """What decided that a value is stored although recomputing it moves fewer bytes."""
        assert self.cost is not None
        together, apart = self.priced[node.name]
        gain = self.cost.gain(self.graph.types[node.name])
        return why(
            "storing {value} is predicted to be faster by more than {gain}: its kernels take {stored}, {recomputed} if "
            "they recompute it", value=node.name, gain=f"{gain:.0%}", stored=f"{apart * 1e6:.2f} us",
            recomputed=f"{together * 1e6:.2f} us",
        )  # fmt: skip

    def operations(self, node: Node) -> int:
        """How many operations compute a value at one place, operands that are recomputed for it among them."""
        return 1 + sum(self.length.get(self.base(v), 0) for v in node.inputs)

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
                if reader.row.cuts:
                    parts.append((reader.name, share * self.bytes(reader.name) / max(self.bytes(value), 1)))
                elif group is None or group.anchor.name not in kernels:
                    times += share
                    kernels |= set() if group is None else {group.anchor.name}
        return times

    def host(self, node: Node) -> Group | None:
        """The 1x1 convolution that may compute a value as it loads it, and store it for its other readers: one that
        loads each element once (or a few times, for many filters), before anybody else needs it."""
        if not node.row.chains:
            return None
        for reader in self.readers[node.name]:
            group = self.group.get(reader.name)
            if group is None or group.anchor is not reader or reader.op != "conv2d":
                continue
            reason = self.without("hosting") or self.why_not_hosted(group, node)
            if reason is None:
                return group
            self.refuse("hosting", node.name, [reader], reason)
        return None

    def why_not_hosted(self, group: Group, node: Node) -> Why | None:
        """Why the convolution of a group does not compute a value as it loads it, and store it; None if it does."""
        reader = group.anchor
        if not self.loads_once(reader, group):
            return why("{reader} loads elements several times, or leaves some out", reader=reader.name)
        if [i for i, v in enumerate(reader.inputs) if self.base(v) == node.name] != [0]:
            return why("{value} is not only the image of {reader}", value=node.name, reader=reader.name)
        for other in self.readers[node.name]:
            if self.first_use(other) < self.place[reader.name]:
                return why("{other} needs {value} before {reader} runs", other=other.name, value=node.name,
                           reader=reader.name)  # fmt: skip
        if not self.alike(node, reader.inputs[0]):
            return why("{reader} sees {value} under another shape", reader=reader.name, value=node.name)
        return None if self.hosting_pays(group, node) else self.dearer(node)

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
        if conv.op != "conv2d" or not all(whole_windows(self, n) for n in group.members if n.row.pools):
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
            if computed.row.cuts or (computed is not node and value not in self.inlined):
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
            if not node.row.chains or not elsewhere or not here or not all(n in behind and n.row.chains for n in here):
                continue
            images = [v for v in self.leaves(node) if self.bytes(v)]
            if images and set(images) <= loaded - {value} and self.alike(node, anchor.name):
                found.append(value)
        return found


def _kernel_name(number: int, anchor: Node) -> str:
    return f"k{number:02d}_{anchor.name}".replace(".", "_").replace("-", "_")
