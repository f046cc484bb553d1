"""Second results of a loop, which come for nothing beside its first one.
Such are the index beside a maximum, the gradient beside a loss, and running statistics beside a batch's."""

from __future__ import annotations

from ...ir.graph import Node
from .answers import Why, why
from .beside import Beside
from .following import why_late
from .grouping import Grouping
from .rule import Site


class SecondResult(Beside):
    """Two operations over the same operands share the loop over them."""

    name = "siblings"
    equation = "(f(x), g(x)) = [f, g](x)    same loop, two results"

    def about(self, kernels: Grouping, first: Node, node: Node) -> bool:
        """Whether an operation's row names the other one's loop, and both have the same operands."""
        return node.row.sibling_of == first.op and node.inputs[-len(first.inputs) :] == first.inputs

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with these two operations."""
        f, g = site.reader.row.sibling_of, site.reader.op
        return f"({f}(x), {g}(x)) = [{f}, {g}](x)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the loop does not give this result; None if it does."""
        first = next(n for n in site.group.members if self.about(kernels, n, site.reader))
        if not same_loop(first, site.reader):
            return why("{reader} and {first} have other attributes", reader=site.reader.name, first=first.name)
        return why_late(kernels, site.group, site.reader)


class RunningStatistics(Beside):
    """The kernel that ends the sum of a batch's statistics updates the running ones."""

    name = "siblings"
    equation = "(s = batch_stats(x), running(s)) = batch_stats[update](x)    where the sum ends"

    def about(self, kernels: Grouping, first: Node, node: Node) -> bool:
        """Whether a node is an update by the statistics that the other one computes."""
        return node.row.updates and kernels.wanted_loop(node) == first.name

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this update."""
        return f"(s = batch_stats(x), {site.reader.op}(s)) = batch_stats[update](x)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """None: running statistics can always be updated where the batch's are computed."""
        return None


def same_loop(first: Node, node: Node) -> bool:
    """Is a node a second result of another one's loop: over the same operands, by the same attributes?"""
    if node.row.sibling_of != first.op or node.inputs[-len(first.inputs) :] != first.inputs:
        return False
    return all(node.attrs[key] == value for key, value in first.attrs.items())
