"""A kernel in the making."""

from __future__ import annotations

from ...ir.graph import Node


class Group:
    """A kernel in the making: an anchor, whose loop it has, and the nodes that joined it.
    ``hosted`` are those that are computed as the anchor loads; ``pools`` says whether one of them pools."""

    def __init__(self, anchor: Node):
        self.anchor = anchor
        self.members: list[Node] = []
        self.hosted: set[str] = set()
        self.pools = self.sums_what_it_loads = False
        self.add(anchor)

    def add(self, node: Node) -> None:
        """Let a node be computed by this kernel."""
        self.members.append(node)
        self.pools |= node.row.pools
        self.sums_what_it_loads |= node.row.side_sum == "loaded"

    def release(self, node: Node) -> None:
        """Let a node be computed by this kernel no longer, on which nothing else in it depends."""
        self.members.remove(node)
