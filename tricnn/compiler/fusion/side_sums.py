"""Sums over pixels that another kernel takes along: of what it stores, or of what it loads."""

from __future__ import annotations

from ...ir.graph import Node
from .answers import Why, why
from .beside import Beside
from .following import Following
from .group import Group
from .grouping import Grouping
from .rule import Site

#: for how many batch norms programs have registers, where they keep the sums of what they store over several tiles
MOST = 2


class SumOfStored(Following):
    """The rule that each tile of a kernel leaves a partial sum of what it stores, as it is stored.
    The sums are batch statistics, or the two sums of batch norm's gradient."""

    name = "side_sums"
    equation = "(conv2d(x), batch_stats(conv2d(x))) = conv2d[side sum](x)    of what is stored, as it is"

    def about(self, node: Node) -> bool:
        """Whether a node sums what a kernel stores."""
        return node.row.side_sum == "stored"

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this anchor and this sum."""
        anchor, f = site.group.anchor.op, site.reader.op
        return f"({anchor}(x), {f}({anchor}(x))) = {anchor}[side sum](x)"

    def why_not_there(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the sum cannot be taken of what the kernel stores; None if it can."""
        anchor, types, node = site.group.anchor, kernels.graph.types, site.reader
        if not anchor.row.takes_sums and not anchor.row.chains:
            return why("a kernel of {op} leaves no sums", op=anchor.op)
        if (at_hand := at_hand_anyway(kernels, node)) is not None:
            return why("{reader} is taken along by {at_hand}, which loads its operands anyway", reader=node.name,
                       at_hand=at_hand.name)  # fmt: skip
        if node.inputs[0] != site.value:
            return why("{op} is taken along with {first}, its first operand", op=node.op, first=node.inputs[0])
        if types[site.value].shape != types[anchor.name].shape or site.group.pools:
            return why("{value} is not what the tiles of {anchor} are made of", value=site.value, anchor=anchor.name)
        sums = [n for n in site.group.members if n.row.side_sum == "stored"]
        if any(n.inputs[0] != site.value for n in sums):
            return why("the kernel of {anchor} leaves sums of {other} already", anchor=anchor.name,
                       other=next(n.inputs[0] for n in sums if n.inputs[0] != site.value))  # fmt: skip
        cost = kernels.prices.cost
        if len(sums) == MOST and (cost is None or cost.keeps_sums):
            return why("the kernel of {anchor} leaves {sums} already", anchor=anchor.name,
                       sums=" and ".join(n.name for n in sums))  # fmt: skip
        return None

    def leaves(self, node: Node, home: Group, group: Group) -> bool:
        """Does the sum have a pass of its own so far, which it leaves for the pointwise kernel of ``group``?"""
        return home.anchor is node and group.anchor.row.chains


def at_hand_anyway(kernels: Grouping, node: Node) -> Node | None:
    """The operation whose loop loads all operands of a sum for its own result; None if there is none."""
    return next((reader for reader in kernels.readers[kernels.base(node.inputs[0])] if shares(reader, node)), None)


def shares(first: Node, node: Node) -> bool:
    """Does the loop of ``first`` load the operands of a sum, for the same statistics?"""
    own = first.inputs[: len(node.inputs)]
    return node.row.sibling_of == first.op and own == node.inputs and first.attrs == node.attrs


class SumBeside(Beside):
    """The sums of layer norm's gradient are of what the kernel of its other gradient loads."""

    name = "side_sums"
    equation = "(dx(dy, x), sums(dy, x)) = dx[side sum](dy, x)    dy and x are loaded once"

    def about(self, kernels: Grouping, first: Node, node: Node) -> bool:
        """Sums of the operands of a gradient."""
        return node.row.side_sum == "stored" and shares(first, node)

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with these two operations."""
        dx, f = site.group.anchor.op, site.reader.op
        return f"({dx}(dy, x), {f}(dy, x)) = {dx}[side sum](dy, x)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """It always can."""
        return None


class SumOfLoaded(Beside):
    """A bias gradient is the sum of what a weight gradient loads."""

    name = "side_sums"
    equation = "(wgrad(dy, x), channel_sum(dy)) = wgrad[side sum](dy, x)    dy is loaded once"

    def about(self, kernels: Grouping, first: Node, node: Node) -> bool:
        """Whether a node sums the first operand of a weight gradient."""
        return (
            node.row.side_sum == "loaded"
            and first.row.weight_gradient
            and kernels.base(node.inputs[0]) == kernels.base(first.inputs[0])
        )

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this weight gradient."""
        wgrad, f = site.group.anchor.op, site.reader.op
        return f"({wgrad}(dy, x), {f}(dy)) = {wgrad}[side sum](dy, x)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the weight gradient cannot take the sum along; None if it does."""
        types, anchor = kernels.graph.types, site.group.anchor
        if types[site.reader.name].channels != types[anchor.inputs[0]].channels:
            return why("{reader} sums other channels than {anchor} sees", reader=site.reader.name, anchor=anchor.name)
        if site.group.sums_what_it_loads:
            return why("the kernel of {anchor} leaves a sum of what it loads already", anchor=anchor.name)
        return None
