"""The nodes of a graph grouped into kernels, one rule at one site after the other.

A kernel is one anchor (contraction, window, reduction or a chain of pointwise operations) with prologues on what it
loads, an epilogue on what it stores, and side reductions. A policy chooses among the rules (policies.py); each is an
equation, in a file of its own (``RULES``). The order of trying:

1. Every node with a loop of its own anchors a kernel. Its readers join it, and theirs, as far as the rules go that let
   a reader follow (``FOLLOWING``), and with each of them what shares its loop (``BESIDE``).
2. What is left, in the graph's order, is recomputed wherever it is read (prologue), or
3. computed and stored by a convolution that loads it (hosting), or anchors a kernel, which grows as in 1.
4. Each kernel computes again what it has at hand anyway; concatenations become places.

A node joins the kernel of the last of its inputs to be computed, so the order of the anchors is an order of the
kernels and no fusion can make a cycle. What every rule answered is kept by edge (answers.py): that is what ``tricnn
explain`` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...ir.graph import Graph, Node
from ..cost import Cost
from ..plan import Kernel, Plan
from .answers import Answers, Fused, Refused, Why, why
from .at_hand import AtHand
from .beside import Beside
from .epilogue import Epilogue
from .following import Following, why_ended
from .group import Group
from .grouping import Grouping
from .hosting import Hosting
from .of_filters import OfFilters
from .placement import Placement
from .pooling import Pooling
from .prologue import Prologue, several_windows
from .rule import Rule, Site
from .second_results import RunningStatistics, SecondResult
from .side_sums import SumBeside, SumOfLoaded, SumOfStored

#: each reader of a kernel's value is a site of the first rule that is about it
FOLLOWING: tuple[Following, ...] = (SumOfStored(), OfFilters(), Pooling(), Epilogue())
BESIDE: tuple[Beside, ...] = (SecondResult(), SumBeside(), SumOfLoaded(), RunningStatistics())
PROLOGUE, HOSTING = Prologue(), Hosting()
#: all of them; what ``merging`` is comes before fusion (compiler/siblings.py)
RULES: tuple[type[Rule], ...] = (
    Epilogue, Pooling, Prologue, SumOfStored, SumBeside, SumOfLoaded, OfFilters, SecondResult, RunningStatistics,
    Hosting, Placement, AtHand,
)  # fmt: skip


def fuse(graph: Graph, mode: str, policy: str = "all", cost: Cost | None = None) -> Plan:
    """The plan of a graph: its nodes grouped into kernels by the rules of a policy (policies.py).
    By none of them each layer is a kernel of its own; views are free as ever. ``auto`` goes by ``cost`` wherever fewer
    bytes take more arithmetic."""
    return _Fuser(graph, mode, policy, cost).plan(mode)


class _Fuser:
    """One fusion: the kernels in the making, and what the rules answered so far."""

    def __init__(self, graph: Graph, mode: str, policy: str, cost: Cost | None):
        self.graph, self.policy = graph, policy
        self.kernels = Grouping(graph, mode, policy, cost)
        self.answers = Answers()

    def plan(self, mode: str) -> Plan:
        kernels = self.kernels
        for node in kernels.nodes:
            gathered = node.row.gathers and not several_windows(node)
            if not node.row.chains and not gathered and kernels.home(node.name) is None:
                self.start(node)
        waiting = list(reversed(kernels.nodes))
        while waiting:
            node = waiting.pop()
            if node.name in kernels.inlined or not PROLOGUE.about(node):
                continue
            if self.ask(PROLOGUE, Site((node.name,), tuple(kernels.readers[node.name]))):
                waiting += self.inline(node)
        for node in kernels.nodes:
            if kernels.home(node.name) is None and node.name not in kernels.inlined and not self.hosted(node):
                self.start(node)
        made, within = self.placed(self.made())
        names = _kernel_names([k.anchor for k in made])
        made = tuple(replace(k, name=name) for k, name in zip(made, names, strict=True))
        computed = {node.name for node in kernels.nodes}
        edges = [(value, node.name) for node in kernels.nodes for value in kernels.operands(node) if value in computed]
        decisions = tuple(self.answers.decision(*edge) for edge in edges)
        prices = dict(kernels.prices.of)
        return Plan(
            self.graph, mode, self.policy, made, kernels.views, within, kernels.prepared, decisions, prices
        )  # fmt: skip

    def ask(self, rule: Rule, site: Site) -> bool:
        """Does a rule fuse a site? What it answers is remembered."""
        if rule.name in self.kernels.rules:
            answers = rule.tries(self.kernels, site)
            self.answers.add(answers)
            return any(isinstance(answer, Fused) for answer in answers.values())
        self.refuse(rule.name, site, why("not a rule of the policy {policy}", policy=self.policy))
        return False

    def refuse(self, rule: str, site: Site, reason: Why) -> None:
        """Remember why a rule is not used at a site."""
        if not self.kernels.rules:
            rule, reason = "none", why("fusion is off")
        self.answers.add({one.edge: Refused(rule, reason, self.kernels.bytes(one.value)) for one in site.each})

    # --- an anchor, and what joins it ------------------------------------------------------------

    def start(self, node: Node) -> None:
        """Make a node the anchor of a group, and let it grow."""
        group = self.kernels.start(node)
        self.take_beside(group, node)
        self.grow(group, node)

    def take_beside(self, group: Group, first: Node) -> None:
        """Let nodes that want the loop of ``first`` join its group.
        Such are the index beside a maximum, dloss beside the loss, the bias's sum beside wgrad, and running statistics
        beside the batch's."""
        kernels = self.kernels
        for node in kernels.companions(first):
            rule = next((rule for rule in BESIDE if rule.about(kernels, first, node)), None)
            if rule is None or kernels.home(node.name) is not None:
                continue
            site = Site(tuple(kernels.operands(node)), (node,), group)
            if self.ask(rule, site):
                within = kernels.within(group, node)
                kernels.join(group, node)
                for value in site.values:
                    if value not in within:  # the loop loads it, for both
                        once = why("loaded once for {op} and {anchor}, in one kernel", op=node.op, anchor=first.op)
                        self.answers.settle((value, node.name), Refused(rule.name, once, kernels.bytes(value)))
                self.grow(group, node)

    def grow(self, group: Group, tail: Node) -> None:
        """Take readers of ``tail`` into its group as rules allow, and then readers of what these give."""
        kernels = self.kernels
        open_ = [self.following(group, tail)]
        while open_:
            pair = next(open_[-1], None)
            if pair is None:
                open_.pop()
                continue
            tail, node = pair
            if kernels.home(node.name) is group:
                continue
            rule = next(rule for rule in FOLLOWING if rule.about(node))
            if not self.ask(rule, Site((tail.name,), (node,), group)):
                continue
            if (before := kernels.home(node.name)) is not None:
                self.answers.forget((v, n.name) for n in before.members for v in kernels.within(before, n))
                kernels.dissolve(before)
            there = [Site((value,), (node,), group) for value in kernels.within(group, node)]
            self.answers.add({site.edge: rule.answer(kernels, site, None) for site in there})  # of the group's values
            kernels.join(group, node)
            if not isinstance(rule, Epilogue):
                self.take_beside(group, node)
            open_.append(self.following(group, node))

    def following(self, group: Group, tail: Node) -> Iterator[tuple[Node, Node]]:
        """(the value, its reader) for every reader that may follow a value of a group.
        A sum is there when the kernel's parts are added up: for what is found filter by filter."""
        ended, readers = self.end(group, tail), self.kernels.readers[tail.name]
        return iter([(tail, node) for node in readers if not ended or node.row.of_filters])

    def end(self, group: Group, tail: Node) -> bool:
        """Can nothing follow a value of a group in its kernel? Its readers are told why."""
        ended = why_ended(group, tail)
        if ended is None:
            return False
        readers = tuple(self.kernels.readers[tail.name])
        self.refuse("epilogue", Site((tail.name,), readers, group), ended)
        return True

    def inline(self, node: Node) -> list[Node]:
        """Let a node be recomputed wherever it is read.
        If it ended a kernel's epilogue, that is so no longer: what it is made of there, which is returned, may be the
        end of it now."""
        kernels, before = self.kernels, []
        if (home := kernels.home(node.name)) is not None:
            before = [kernels.graph.by_name[value] for value in kernels.within(home, node)]
            site = Site(tuple(kernels.operands(node)), (node,), home)
            self.answers.forget(one.edge for one in site.each)
            again = why("{value} is recomputed wherever it is read, which moves fewer bytes", value=node.name)
            self.refuse("epilogue", site, again)
        kernels.inline(node)
        return before

    def hosted(self, node: Node) -> bool:
        """Is there a convolution that computes a value as it loads it, and stores it for its other readers?"""
        kernels = self.kernels
        if not node.row.chains:
            return False
        for reader in kernels.readers[node.name]:
            group = kernels.home(reader.name)
            if group is None or group.anchor is not reader or not HOSTING.about(reader):
                continue
            here = tuple(n for n in kernels.readers[node.name] if kernels.home(n.name) is group)
            if self.ask(HOSTING, Site((node.name,), here, group)):
                kernels.join(group, node)
                group.hosted.add(node.name)
                return True
        return False

    # --- the result ------------------------------------------------------------

    def made(self) -> tuple[Kernel, ...]:
        """The kernels, in an order in which each finds what it reads."""
        kernels, at_hand = self.kernels, AtHand()
        read_later: set[str] = set(kernels.results)
        bodies, apart = [], []
        for group in kernels.groups.values():
            body, reads = kernels.body(group)
            for site in [s for s in at_hand.sites(kernels, group, list(reads)) if self.ask(at_hand, s)]:
                kernels.recompute(site.value, body, reads)
            own = {n.name for n in group.members} - kernels.inlined
            again = [n for n in body.values() if n.name not in own]
            apart += [(group, v, n.name) for n in again for v in kernels.operands(n) if v in reads]
            ordered = tuple(sorted(body.values(), key=lambda n: kernels.order[n.name]))
            read_later.update(reads)
            bodies.append((group, ordered, sorted(reads, key=lambda v: kernels.order[v])))
        # What one kernel fuses, another may load, to compute the reader once more.
        for group, value, name in apart:
            if not self.answers.is_fused((value, name)):
                continue
            loads = why("the kernel of {anchor} loads {value}, and computes {reader} again of it",
                        anchor=group.anchor.name, value=value, reader=name)  # fmt: skip
            rule = PROLOGUE if name in kernels.inlined else at_hand
            self.answers.settle((value, name), Refused(rule.name, loads, kernels.bytes(value)))
        bodies.sort(key=lambda item: kernels.order[item[0].anchor.name])
        made = []
        for group, ordered, reads_sorted in bodies:
            members = {n.name for n in group.members}
            writes = tuple(n.name for n in ordered if n.name in members and n.name in read_later)
            made.append(Kernel(group.anchor.name, group.anchor, ordered, tuple(reads_sorted), writes))
        return tuple(made)

    def placed(self, made: tuple[Kernel, ...]) -> tuple[tuple[Kernel, ...], dict[str, tuple[str, int]]]:
        """The kernels without the copies that are not needed, and where values lie: value -> (whole, first channel)."""
        placement, gone = Placement(self.graph, made, self.kernels.views), set()
        for kernel in reversed(made):
            whole = kernel.anchor
            site = Site(tuple(self.kernels.operands(whole)), (whole,))
            if placement.about(whole) and self.ask(placement, site):
                placement.put(self.graph, whole)
                gone.add(kernel.name)
        return tuple(placement.moved(k) for k in made if k.name not in gone), placement.within


#: columns of a kernel's name at most, so that what it stands in fits a page; no network of the zoo comes near
LONGEST_NAME = 64


def _kernel_names(anchors: Sequence[Node]) -> list[str]:
    """The names of kernels: a number, and the layer of the anchor, a long one without its first parts."""
    names = []
    for number, anchor in enumerate(anchors):
        begin, layer = f"k{number:02d}_", anchor.name
        while len(begin + layer) > LONGEST_NAME:
            layer = layer.partition(".")[2] or layer[len(begin + layer) - LONGEST_NAME :]
        names.append(begin + layer.replace(".", "_").replace("-", "_"))
    return names
