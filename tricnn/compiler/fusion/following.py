"""What the rules have in common that let a reader of a value join the kernel that computes it."""

from __future__ import annotations

from abc import abstractmethod

from ...ir.graph import Node
from ...ir.table import Kind
from .answers import Why, why
from .group import Group
from .grouping import Grouping
from .rule import Rule, Site


class Following(Rule):
    """A rule that puts a reader of a kernel's value after it, into the same kernel."""

    @abstractmethod
    def about(self, node: Node) -> bool:
        """Is it the rule for such a reader?"""

    @abstractmethod
    def why_not_there(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the kernel cannot compute the reader of what it has there; None if it can."""

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the reader does not join the kernel; None if it does."""
        reason = self.why_not_there(kernels, site) or why_late(kernels, site.group, site.reader)
        home = kernels.home(site.reader.name)
        if reason is None and home is not None and not self.leaves(site.reader, home, site.group):
            return why(
                "{reader} is in the kernel of {anchor} already", reader=site.reader.name, anchor=home.anchor.name
            )
        return reason

    def leaves(self, node: Node, home: Group, group: Group) -> bool:
        """May a node leave the kernel that it has for that of ``group``?"""
        return False


def why_ended(group: Group, tail: Node) -> Why | None:
    """Why nothing can follow a value of a group in its kernel; None if something can."""
    if tail.row.weight_gradient:
        return why("{value} is a sum of parts that several programs leave", value=tail.name)
    if tail.row.collapses:
        return why("{value} is a reduction's result ({op}), which has no epilogue", value=tail.name, op=tail.op)
    if tail.kind is Kind.VIEW or tail.row.copies:
        return why("{value} is a copy with a shape of its own ({op})", value=tail.name, op=tail.op)
    if tail is not group.anchor and tail.row.loop_over is not None:
        return why("{value} is a second result of the kernel of {anchor}", value=tail.name, anchor=group.anchor.name)
    return None


def why_late(kernels: Grouping, group: Group, node: Node, complete: bool = False) -> Why | None:
    """Why an operand of ``node`` is not there while the kernel of ``group`` runs; None if all are.
    An operand is there if it is computed before the group's anchor, or within the group for this very pixel; if the
    sums of the group are ``complete`` by then, these are there as well. The
    gradient of an output comes when somebody has computed it: no kernel that is before it in the graph's order can have
    it."""
    anchor = group.anchor
    for value in map(kernels.base, node.inputs):
        source = kernels.graph.by_name[value]
        if kernels.home(value) is group:
            if source.row.collapses and not complete:
                return why("the reader also needs {value}, which is complete only when the kernel ends", value=value)
        elif kernels.order[value] >= kernels.order[anchor.name] and (
            source.kind is not Kind.SOURCE or source.attrs.get("tangent")
        ):
            return why(
                "the reader also needs {value}, which is computed after {anchor}", value=value, anchor=anchor.name
            )
    return None
