"""What is made of a weight's gradient filter by filter, where its parts are added up."""

from __future__ import annotations

from ...ir.graph import Node
from .answers import Why, why
from .following import Following, why_late
from .grouping import Grouping
from .rule import Site


class OfFilters(Following):
    """The rule that the launch that adds a weight gradient's parts up computes what is made of it filter by filter."""

    name = "side_sums"
    equation = "(s * wgrad(dy, x), w . wgrad(dy, x)) = wgrad[filters](dy, x, s, w)    where its parts are added up"

    def about(self, node: Node) -> bool:
        """Whether a node is made of a weight's gradient filter by filter."""
        return node.row.of_filters

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this weight gradient."""
        wgrad, f = site.group.anchor.op, site.reader.op
        return f"{f}({wgrad}(dy, x)) = {wgrad}[filters](dy, x)"

    def why_not_there(self, kernels: Grouping, site: Site) -> Why | None:
        """Why it is not found where the kernel's parts are added up; None if it is."""
        if site.group.anchor.row.weight_gradient:
            return None
        return why("{anchor} is no gradient of a weight", anchor=site.group.anchor.name)

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the reader does not join the kernel; None if it does."""
        return self.why_not_there(kernels, site) or why_late(kernels, site.group, site.reader, complete=True)
