"""Fusion: the nodes of a graph grouped into kernels.

A kernel is one anchor (contraction, window, reduction or a chain of pointwise operations) with prologues on what it
loads, an epilogue on what it stores, and side reductions. The rules, each an equation:

    epilogue     f(anchor(x), y)               = anchor[epilogue f](x, y)               f pointwise
    pooling      pool(conv2d(x))               = conv2d[windows](x)                     windows that do not overlap
    prologue     anchor(f(z))                  = anchor[prologue f](z)                  f recomputed as it is loaded
    side sum     (wgrad(dy, x), channel_sum(dy)) = wgrad[side sum](dy, x)               dy is loaded once
                 (conv2d(x), batch_stats(conv2d(x))) = conv2d[side sum](x)              of what is stored, as it is
    siblings     (f(x), g(x))                  = [f, g](x)                              same loop, two results
    hosting      (f(z), conv2d(f(z)))          = conv2d[prologue f, stored](z)          1x1: each element loaded once
    placement    concat(f(x), g(y))            = [f, g](x, y)                           each writes its channels

A node joins the kernel of the last of its inputs to be computed, so the order of the anchors is an order of the
kernels and no fusion can make a cycle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..ir.graph import Graph, Node
from ..ir.table import Kind
from .fold import prepared_nodes
from .place import Within, place
from .plan import LOADED, Decision, Kernel, Plan

#: operations a kernel can evaluate at (pixel, channel) as it loads, other than pointwise ones
GATHERS = ("max_pool2d_grad", "avg_pool2d_grad", "global_avg_pool_grad", "slice_channels")
#: pointwise operations that are copies with a shape of their own, or work on vectors; never part of a chain
ALONE = ("concat", "stack", "slice_channels", "pad_channels", "running_mean", "running_var")
#: pointwise operations that look at nothing but the element: they may be computed where it is seen under another shape
ELEMENTWISE = (
    "relu", "relu_grad", "sigmoid", "sigmoid_grad", "tanh", "tanh_grad", "add", "scale", "dropout",
)  # fmt: skip
#: a 1x1 convolution of more filters than this computes what it loads too many times over
HOST_FILTERS = 512
WGRADS = ("conv2d_grad_weight", "linear_grad_weight")
#: reductions whose result has no pixels left to have an epilogue at
COLLAPSING = ("channel_sum", "batch_stats", "normalize_grad_sums", "cross_entropy", "cross_entropy_grad")
#: sums over pixels, and the kernels that can take them along as they store
SIDE_SUMS = ("batch_stats", "normalize_grad_sums")
TAKE_ALONG = ("conv2d", "conv2d_grad_input", "max_pool2d_grad", "avg_pool2d_grad")
SIBLINGS = {"max_pool2d_index": "max_pool2d", "cross_entropy_grad": "cross_entropy"}


def fuse(graph: Graph, mode: str, *, enabled: bool = True) -> Plan:
    """Group the graph's nodes into kernels. ``enabled=False``: one kernel per layer, views free as ever."""
    return _Fuser(graph, mode, enabled).plan()


@dataclass
class _Group:
    anchor: Node
    members: list[Node] = field(default_factory=list)


class _Fuser:
    def __init__(self, graph: Graph, mode: str, enabled: bool):
        self.graph, self.mode, self.enabled = graph, mode, enabled
        self.prepared = prepared_nodes(graph) if mode == "infer" else ()  # training changes parameters every step
        self.place = {node.name: i for i, node in enumerate(graph.nodes)}
        self.views = free_views(graph)
        skip = {n.name for n in self.prepared} | set(self.views)
        self.nodes = [n for n in graph.nodes if n.kind is not Kind.SOURCE and n.name not in skip]
        self.readers: dict[str, list[Node]] = {n.name: [] for n in graph.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(self.base(v) for v in node.inputs):
                self.readers[value].append(node)
        self.results = {self.base(v) for v in graph.results}
        self.group: dict[str, _Group] = {}
        self.inlined: set[str] = set()
        self.hosted: set[str] = set()
        self.groups: list[_Group] = []

    def base(self, value: str) -> str:
        while value in self.views:
            value = self.views[value]
        return value

    # --- grouping ------------------------------------------------------------

    def plan(self) -> Plan:
        if self.enabled:
            for node in self.nodes:
                gathered = node.op in GATHERS and not self.several_windows(node)
                if not chainable(node) and not gathered and node.name not in self.group:
                    self.start(node)
            self.inline()
        for node in self.nodes:
            if node.name in self.group or node.name in self.inlined:
                continue
            host = self.host(node) if self.enabled else None
            if host is not None:
                self.join(host, node)
                self.hosted.add(node.name)
            else:
                self.start(node)
        kernels = self.kernels()
        within: Within = {}
        if self.enabled:
            kernels, within = place(self.graph, kernels, self.views, self.results)
        kernels = tuple(replace(k, name=_kernel_name(i, k.anchor)) for i, k in enumerate(kernels))
        decisions = self.explain(kernels, within)
        return Plan(self.graph, self.mode, self.enabled, kernels, self.views, within, self.prepared, decisions)

    def start(self, node: Node) -> None:
        group = _Group(node)
        self.groups.append(group)
        self.join(group, node)
        if not self.enabled:
            return
        self.take_siblings(group, node)
        if node.op not in ALONE:
            self.grow(group, node)

    def join(self, group: _Group, node: Node) -> None:
        group.members.append(node)
        self.group[node.name] = group

    def take_siblings(self, group: _Group, node: Node) -> None:
        """Nodes that want the same loop over the same operands: index beside maximum, dloss beside loss, bias sum
        beside wgrad, running statistics beside the batch's."""
        for other in self.nodes:
            if other.name in self.group:
                continue
            if SIBLINGS.get(other.op) == node.op:
                same = other.inputs[-len(node.inputs) :] == node.inputs
                same = same and all(other.attrs[key] == value for key, value in node.attrs.items())
                takes = same and self.ready(other, group)
            elif other.op == "channel_sum":
                takes = node.op in WGRADS and self.base(other.inputs[0]) == self.base(node.inputs[0])
                takes = takes and self.graph.types[other.name].channels == self.graph.types[node.inputs[0]].channels
            elif other.op in ("running_mean", "running_var"):
                takes = node.op == "batch_stats" and other.inputs[1] == node.name
            else:
                takes = False
            if takes:
                self.join(group, other)

    def ready(self, node: Node, group: _Group) -> bool:
        """Every input is computed before the group's anchor, or within the group for this very pixel (a sum over pixels
        is not there before the kernel ends)."""
        anchor = self.place[group.anchor.name]

        def there(value: str) -> bool:
            source = self.graph.by_name[value]
            if self.group.get(value) is group:
                return source.op not in COLLAPSING
            return self.place[value] < anchor or source.kind is Kind.SOURCE

        return all(there(self.base(v)) for v in node.inputs)

    def grow(self, group: _Group, tail: Node) -> None:
        """Take pointwise readers of ``tail`` into the epilogue, then pooling, and go on from what they give."""
        if tail.op in WGRADS or tail.op in COLLAPSING or tail.kind is Kind.VIEW:
            return
        for node in self.readers[tail.name]:
            if node.name in self.group or not self.ready(node, group):
                continue
            same_size = self.graph.types[node.name].elements(1) == self.graph.types[tail.name].elements(1)
            if chainable(node) and same_size and self.alike(node, group.anchor.name):
                self.join(group, node)
                self.grow(group, node)
            elif self.can_pool(group, tail, node):
                self.join(group, node)
                self.take_siblings(group, node)
                if node.op != "max_pool2d_index":
                    self.grow(group, node)
            elif self.can_take_along(group, tail, node):
                self.join(group, node)
                self.take_siblings(group, node)

    def alike(self, node: Node, place: str) -> bool:
        """Can the node, and what is recomputed for it, be computed at (pixel, channel) of ``place``? The channels must
        be the same, or not matter."""
        a, b = self.graph.types[node.name], self.graph.types[place]
        same = a.shape == b.shape or (a.batched and b.batched and a.channels == b.channels)
        recomputed = {v for v in map(self.base, node.inputs) if v in self.inlined}
        if node.op == "slice_channels":  # its operand is computed at channels of its own
            return same and all(self.alike(self.graph.by_name[v], node.inputs[0]) for v in recomputed)
        return (same or node.op in ELEMENTWISE) and all(self.alike(self.graph.by_name[v], place) for v in recomputed)

    def can_take_along(self, group: _Group, tail: Node, node: Node) -> bool:
        """A sum over the pixels of what is being stored: batch statistics, or batch norm's two gradient sums. Each tile
        leaves a partial result."""
        if node.op not in SIDE_SUMS or group.anchor.op not in TAKE_ALONG:
            return False
        pooled = any(n.op in ("max_pool2d", "avg_pool2d") for n in group.members)
        same = self.graph.types[tail.name].shape == self.graph.types[group.anchor.name].shape
        return node.inputs[0] == tail.name and same and not pooled

    def can_pool(self, group: _Group, tail: Node, pool: Node) -> bool:
        if group.anchor.op != "conv2d" or pool.op not in ("max_pool2d", "avg_pool2d"):
            return False
        return self.why_not_pooled(group, tail, pool) is None

    def why_not_pooled(self, group: _Group, tail: Node, pool: Node) -> str | None:
        if any(n.op in ("max_pool2d", "avg_pool2d") for n in group.members):
            return "its kernel already pools"
        (r, s), area = pool.attrs["kernel_size"], pool.attrs["kernel_size"][0] * pool.attrs["kernel_size"][1]
        if pool.attrs["stride"] != (r, s):
            return "the windows overlap: each pixel of the convolution would be computed several times"
        if any(pool.attrs["padding"]):
            return "the windows reach into padding"
        if area == 1:
            return "a window of one pixel pools nothing"
        if area & (area - 1) or area > 16:
            return f"a window of {area} pixels does not divide a tile"
        p, q = self.graph.types[tail.name].spatial
        exact = p % r == 0 and q % s == 0
        if not exact and pool.attrs["ceil_mode"]:
            return "windows at the border are cut off"
        takers = [pool.name, *(n.name for n in self.readers[tail.name] if SIBLINGS.get(n.op) == pool.op)]
        stored = tail.name in self.results or any(
            n.name not in takers and self.group.get(n.name) is not group for n in self.readers[tail.name]
        )
        if stored and not exact:
            return "pixels that no window covers are needed elsewhere"
        return None

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
            if times * operands < operands + result * (1 + times):
                self.inlined.add(node.name)

    def times_read(self, value: str) -> float:
        """How many times over all of a value is loaded: once by each kernel that reads it, and a slice of it for its
        share wherever the slice is read."""
        times, kernels = 0.0, set()
        for reader in self.readers[value]:
            group = self.group.get(reader.name)
            if reader.op == "slice_channels":
                times += self.bytes(reader.name) / max(self.bytes(value), 1) * self.times_read(reader.name)
            elif group is None or group.anchor.name not in kernels:
                times += 1
                kernels |= set() if group is None else {group.anchor.name}
        return times

    def can_inline(self, node: Node) -> bool:
        return self.why_not_inlined(node) is None

    def why_not_inlined(self, node: Node) -> str | None:
        if not chainable(node) and node.op not in GATHERS:
            return f"{node.op} cannot be computed at one pixel as it is loaded"
        if self.several_windows(node):
            return "the windows overlap: a pixel's gradient is a sum over several windows"
        if node.op == "avg_pool2d_grad" and self.cut_off(node):
            return "windows at the border are cut off and divide by less"
        for reader in self.readers[node.name]:
            if reader.name in self.group and chainable(reader):
                if not self.alike(node, self.group[reader.name].anchor.name):
                    return "its reader sees it under another shape"
                continue
            if reader.op == "slice_channels":
                continue
            allowed = LOADED.get(reader.op, ())
            if chainable(reader) or reader.op in GATHERS:
                if reader.op in GATHERS:
                    return f"{reader.name} reads it at other pixels than its own"
                if not self.alike(node, reader.name):
                    return "its reader sees it under another shape"
                continue
            if any(self.base(v) == node.name and i not in allowed for i, v in enumerate(reader.inputs)):
                return f"{reader.name} ({reader.op}) takes this operand from memory only"
            if not self.alike(node, self.read_as(reader, node)):
                return "its reader sees it under another shape"
        return None if self.readers[node.name] else "nothing reads it"

    def several_windows(self, node: Node) -> bool:
        """Is it the gradient of a pooling with pixels that lie in more than one window?"""
        return node.op in ("max_pool2d_grad", "avg_pool2d_grad") and not _exclusive(node)

    def cut_off(self, node: Node) -> bool:
        """Do windows (of ceil mode) reach beyond the image?"""
        (h, w), (p, q) = node.attrs["input_size"], self.graph.types[node.inputs[0]].spatial
        (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
        return (p - 1) * sh + r > h or (q - 1) * sw + s > w

    def read_as(self, reader: Node, node: Node) -> str:
        return next(v for v in reader.inputs if self.base(v) == node.name)

    def host(self, node: Node) -> _Group | None:
        """The 1x1 convolution that may compute a value as it loads it, and store it for its other readers: one that
        loads each element once (or a few times, for many filters), before anybody else needs it."""
        if not chainable(node):
            return None
        for reader in self.readers[node.name]:
            group = self.group.get(reader.name)
            if group is None or group.anchor is not reader or not self.loads_once(reader):
                continue
            only_image = [i for i, v in enumerate(reader.inputs) if self.base(v) == node.name] == [0]
            first = all(self.first_use(other) >= self.place[reader.name] for other in self.readers[node.name])
            if only_image and first and self.alike(node, reader.inputs[0]):
                return group
        return None

    def loads_once(self, conv: Node) -> bool:
        if conv.op != "conv2d":
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
        if node.op == "slice_channels":
            return [node.name]
        found: dict[str, None] = {}
        for value in map(self.base, node.inputs):
            if value in self.inlined:
                found.update(dict.fromkeys(self.leaves(self.graph.by_name[value])))
            else:
                found[value] = None
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
            for value in self.at_hand(group, reads):
                del reads[value]
                again = [self.graph.by_name[value]]
                while again:
                    node = again.pop()
                    body[node.name] = node
                    operands = {self.base(v) for v in node.inputs}
                    again += [self.graph.by_name[v] for v in operands if v in self.inlined and v not in body]
                    reads.update(dict.fromkeys(v for v in operands if v not in self.inlined))
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

    def at_hand(self, group: _Group, reads: Iterable[str]) -> list[str]:
        """What the epilogue would load although it could compute it from images that it loads at that place anyway:
        the sign of relu(bn(z) + bn(s)), where both batch norms' gradients need z and s."""
        anchor = group.anchor
        behind = [n for n in group.members if n is not anchor and n.name not in self.hosted]
        loaded = {v for n in behind for v in map(self.base, n.inputs) if v not in self.inlined}
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

    def explain(self, kernels: tuple[Kernel, ...], within: Within) -> tuple[Decision, ...]:
        homes: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            for node in kernel.nodes:
                homes.setdefault(node.name, []).append(kernel)
        wholes = {whole for whole, _ in within.values()}
        decisions = []
        for node in self.nodes:
            for raw in dict.fromkeys(node.inputs):
                value = self.base(raw)
                if value in homes and within.get(value, ("",))[0] == node.name:
                    rule = f"placement: {node.op}(x, ...) where x is written into its channels of {node.name}"
                    decisions.append(Decision(value, node.name, True, rule, self.bytes(value)))
                elif value in homes or value in wholes:
                    decisions.append(self.decide(value, node, homes))
        return tuple(decisions)

    def decide(self, value: str, node: Node, homes: dict[str, list[Kernel]]) -> Decision:
        size = self.bytes(value)
        together = all(any(n.name == value for n in k.nodes) for k in homes.get(node.name, ())) and value in homes
        if together:
            if value in self.inlined and node.op != "channel_sum":
                rule = f"prologue: {node.op}({self.graph.by_name[value].op}(z)) = {node.op}[prologue](z)"
                return Decision(value, node.name, True, rule, size)
            if value in self.hosted and node is self.group[value].anchor:
                op = self.graph.by_name[value].op
                rule = f"hosting: ({op}(z), {node.op}({op}(z))) = {node.op}[prologue {op}, stored](z)"
                return Decision(value, node.name, True, rule, size)
            if value in self.group and self.group[value] is not self.group.get(node.name, self.group[value]):
                rule = (
                    f"recomputed: {self.graph.by_name[value].op}(z, ...) from what the kernel loads for other reasons"
                )
                return Decision(value, node.name, True, rule, size)
            anchor = self.group.get(value, self.group.get(node.name, self.groups[0])).anchor
            if node.op in SIDE_SUMS and self.group[node.name].anchor.op != node.op:
                rule = f"side sum: ({anchor.op}(x), {node.op}({anchor.op}(x))) = {anchor.op}[side sum](x)"
            elif node.op == "channel_sum" and self.group[node.name].anchor.op in WGRADS:
                wgrad = self.group[node.name].anchor.op
                rule = f"side sum: ({wgrad}(dy, x), channel_sum(dy)) = {wgrad}[side sum](dy, x)"
            elif node.op in ("max_pool2d", "max_pool2d_index", "avg_pool2d"):
                rule = f"pooling: {node.op}(conv2d(x)) = conv2d[windows](x)"
            else:
                rule = f"epilogue: {node.op}({anchor.op}(x)) = {anchor.op}[epilogue {node.op}](x)"
            return Decision(value, node.name, True, rule, size)
        return Decision(value, node.name, False, self.why_not(value, node))

    def why_not(self, value: str, node: Node) -> str:
        if not self.enabled:
            return "fusion is off"
        if node.op == "concat":
            return "the concatenation copies: an operand is an input, a result, or in two places at once"
        home = self.group.get(node.name)
        if home is not None and home.anchor is not node and value in map(self.base, home.anchor.inputs):
            return f"{node.op} shares the one load of it with {home.anchor.op}, in the same kernel"
        producer = self.graph.by_name[value]
        if (chainable(producer) or producer.op in GATHERS) and value not in self.results:
            reason = self.why_not_inlined(producer)
            if reason is not None:
                return reason
            if producer.name in self.group and self.group[producer.name].anchor is producer:
                return "storing it once moves fewer bytes than recomputing it for each reader"
        group = self.group.get(value)
        if group is not None and chainable(node):
            late = [v for v in map(self.base, node.inputs) if self.group.get(v) is not group]
            if late and not self.ready(node, group):
                return f"{node.name} also waits for {late[0]}, which is computed later"
        if group is not None and group.anchor.op == "conv2d" and node.op in ("max_pool2d", "avg_pool2d"):
            reason = self.why_not_pooled(group, producer, node)
            if reason is not None:
                return reason
        if node.kind is Kind.CONTRACTION:
            return f"{node.op} reads every element several times: its operand goes through memory"
        if node.kind is Kind.REDUCTION:
            return f"{node.op} needs all pixels before it can give its first result"
        if node.kind is Kind.WINDOW:
            return f"{node.op} looks at neighbouring pixels, which other programs compute"
        return f"{node.op} has a shape or an order of its own"


def _kernel_name(number: int, anchor: Node) -> str:
    return f"k{number:02d}_{anchor.name}".replace(".", "_").replace("-", "_")


def chainable(node: Node) -> bool:
    return node.kind is Kind.POINTWISE and node.op not in ALONE


def _exclusive(node: Node) -> bool:
    """Every pixel lies in at most one window, and windows do not reach into padding."""
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return sh >= r and sw >= s and not any(node.attrs["padding"])


def free_views(graph: Graph) -> dict[str, str]:
    """Views that cost nothing in channels-last memory: view -> what it is a view of.

    ``flatten`` of more than one pixel and channel is free if only dense layers read it: they keep their weights in
    the order (h, w, c), as the pixels lie in memory. Its gradient, ``unflatten``, is then free as well.
    """
    views: dict[str, str] = {}
    for node in graph.nodes:
        if node.op == "row" or (node.op == "slice_channels" and len(graph.types[node.name].shape) == 1):
            views[node.name] = node.inputs[0]
        elif node.op == "flatten":
            x = graph.types[node.inputs[0]]
            if x.pixels == 1 or x.channels == 1 or weights_in_pixel_order(graph, node):
                views[node.name] = node.inputs[0]
        elif node.op == "unflatten":
            y = graph.types[node.name]
            if y.pixels == 1 or y.channels == 1 or node.inputs[0] in pixel_ordered(graph):
                views[node.name] = node.inputs[0]
    return views


def weights_in_pixel_order(graph: Graph, flatten: Node) -> bool:
    """Do only dense layers read it, with weights that nothing else reads?"""

    def dense(reader: Node) -> bool:
        return reader.op == "linear" and reader.inputs[0] == flatten.name

    return flatten.name not in graph.results and all(
        (dense(r) and all(dense(o) or o.op == "linear_grad_input" for o in graph.consumers[r.inputs[1]]))
        or (r.op == "linear_grad_weight" and r.inputs[1] == flatten.name)
        for r in graph.consumers[flatten.name]
    )


def permuted_weights(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """Dense weights kept as ``[O, H, W, C]``: value -> (C, H, W). They read a flattened image."""
    return {v: shape for v, shape in pixel_ordered(graph).items() if not graph.types[v].batched}


def pixel_ordered(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """Every value ``[*, C*H*W]`` that lies in memory as ``[*, H, W, C]``: value -> (C, H, W). Dense weights that read a
    flattened image, their gradients, the gradient of the flattened image itself, and sums of those."""
    found: dict[str, tuple[int, int, int]] = {}
    for node in graph.of("flatten"):
        x = graph.types[node.inputs[0]]
        if x.pixels > 1 and x.channels > 1 and weights_in_pixel_order(graph, node):
            for reader in graph.consumers[node.name]:
                shape = (x.channels, *x.spatial)
                found[reader.inputs[1] if reader.op == "linear" else reader.name] = shape
    for node in graph.nodes:
        if node.op == "linear_grad_input" and node.inputs[1] in found:
            found[node.name] = found[node.inputs[1]]
        elif node.op == "add" and node.inputs[0] in found and found[node.inputs[0]] == found.get(node.inputs[1]):
            found[node.name] = found[node.inputs[0]]  # several dense layers read the image, or share a weight
    return found
