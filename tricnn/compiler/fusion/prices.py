"""Whether a rule pays: the predicted time of the kernels that a value concerns, with it and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.graph import Node
from ..cost import Cost
from ..plan import Kernel
from .answers import Why, why
from .at_hand import AtHand
from .group import Group

if TYPE_CHECKING:
    from .grouping import Grouping


class Prices:
    """The prices that were asked for; ``cost`` is the time model, None where every legal site is to be fused."""

    def __init__(self, kernels: Grouping, cost: Cost | None):
        self.kernels, self.cost = kernels, cost
        #: value -> seconds of the kernels that it concerns if they recompute it, and if it is stored
        self.of: dict[str, tuple[float, float]] = {}

    @property
    def decide(self) -> bool:
        """Whether a site is left as it is where that is predicted to be faster."""
        return self.kernels.policy == "auto" and self.cost is not None

    def why_not_recomputed(self, node: Node) -> Why | None:
        """Why the kernels that read a value would lose time by recomputing it; None if they would not.
        A reader that has no kernel yet counts as one of its own."""
        if self.cost is None:
            return None
        home = self.kernels.home
        groups: dict[int, Group] = {}
        for reader in self.kernels.readers[node.name]:
            group = home(reader.name) or Group(reader)
            groups[id(group)] = group
        return self._compared(node, list(groups.values()))

    def why_not_hosted(self, node: Node, group: Group) -> Why | None:
        """Why a kernel would lose time by computing a value as it loads it, and storing it."""
        return None if self.cost is None else self._compared(node, [group], stored=node.name)

    def _compared(self, node: Node, groups: Sequence[Group], stored: str | None = None) -> Why | None:
        cost, inlined, home = self.cost, self.kernels.inlined, self.kernels.home(node.name)
        assert cost is not None
        alone, plain = self._seconds(home or Group(node)), [self._seconds(group, before=node) for group in groups]
        inlined.add(node.name)
        rest = self._seconds(home) if home else 0.0
        formed = [self._seconds(group, stored, before=node) for group in groups]
        inlined.remove(node.name)
        concerned = [pair for pair in zip(formed, plain, strict=True) if pair[0] != pair[1]]
        together, apart = rest + sum(a for a, _ in concerned), alone + sum(b for _, b in concerned)
        self.of[node.name] = together, apart
        type_ = self.kernels.graph.types[node.name]
        if not self.decide or cost.recompute(together, apart, type_):
            return None
        return why(
            "storing {value} is predicted to be faster by more than {gain}: its kernels take {stored}, {recomputed} if "
            "they recompute it", value=node.name, gain=f"{cost.gain(type_):.0%}", stored=f"{apart * 1e6:.2f} us",
            recomputed=f"{together * 1e6:.2f} us",
        )  # fmt: skip

    def _seconds(self, group: Group, stored: str | None = None, before: Node | None = None) -> float:
        """The predicted time of a group as it is now, if it also stores a value that it forms on load.
        What it has at hand it does not load; what it multiplies with, and is decided after ``before``, it forms."""
        assert self.cost is not None
        kernels, at_hand = self.kernels, AtHand()
        ahead = self._ahead(group, before) if before is not None else set()
        kernels.inlined |= ahead
        body, reads = kernels.body(group)
        for site in list(at_hand.sites(kernels, group, list(reads))) if at_hand.name in kernels.rules else ():
            if at_hand.why_not(kernels, site) is None:
                kernels.recompute(site.value, body, reads)
        own = {n.name for n in group.members} - kernels.inlined
        written = [v for v in own if v in kernels.results or any(r.name not in own for r in kernels.readers[v])]
        writes = (*written, *([stored] if stored else []))
        kernel = Kernel(group.anchor.name, group.anchor, tuple(body.values()), tuple(reads), writes)
        kernels.inlined -= ahead
        return self.cost.of_kernel(kernel, kernels.graph, kernels.base)

    def _ahead(self, group: Group, node: Node) -> set[str]:
        """What a weight gradient may form of the gradient that its image is multiplied with.
        Of that nothing is decided when ``node``, of the image, is asked for: it counts as formed, for what both take
        together neither knows otherwise."""
        kernels, found = self.kernels, set[str]()
        waiting = list(group.anchor.inputs) if group.anchor.row.weight_gradient else []
        while waiting:
            value = kernels.base(waiting.pop())
            undecided = kernels.order[value] > kernels.order[node.name] and value not in kernels.results
            chains = kernels.graph.by_name[value].row.chains and kernels.home(value) is None
            if undecided and chains and value not in found | kernels.inlined:
                found.add(value)
                waiting += kernels.graph.by_name[value].inputs
        return found
