"""Values that a 1x1 convolution computes as it loads them, and stores for their other readers."""

from __future__ import annotations

from ...ir.graph import Node
from .answers import Why, why
from .group import Group
from .grouping import Grouping
from .pooling import whole_windows
from .rule import Rule, Site

#: a 1x1 convolution of more filters than this computes what it loads too many times over, where no time says so
HOST_FILTERS = 512


class Hosting(Rule):
    """The rule that a convolution computes and stores the image that it reads, before anybody else needs it.
    It must load each element once, or a few times for many filters."""

    name = "hosting"
    equation = "(f(z), conv2d(f(z))) = conv2d[prologue f, stored](z)    1x1: each element loaded once"

    def about(self, reader: Node) -> bool:
        """Whether a node is a convolution."""
        return reader.row.convolution

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with these operations."""
        f, conv = kernels.graph.by_name[site.value].op, site.group.anchor.op
        return f"({f}(z), {conv}({f}(z))) = {conv}[prologue {f}, stored](z)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the convolution does not compute the value as it loads it, and store it; None if it does."""
        node, reader = kernels.graph.by_name[site.value], site.group.anchor
        if not _loads_once(kernels, reader, site.group):
            return why("{reader} loads elements several times, or leaves some out", reader=reader.name)
        if [i for i, v in enumerate(reader.inputs) if kernels.base(v) == node.name] != [0]:
            return why("{value} is not only the image of {reader}", value=node.name, reader=reader.name)
        for other in kernels.readers[node.name]:
            if kernels.first_use(other) < kernels.order[reader.name]:
                return why("{other} needs {value} before {reader} runs", other=other.name, value=node.name,
                           reader=reader.name)  # fmt: skip
        if not kernels.alike(node, reader.inputs[0]):
            return why("{reader} sees {value} under another shape", reader=reader.name, value=node.name)
        return kernels.prices.why_not_hosted(node, site.group)


def _loads_once(kernels: Grouping, conv: Node, group: Group) -> bool:
    """Does the kernel of a convolution load every element of its image once?"""
    if not all(whole_windows(kernels, n) for n in group.members if n.row.pools):
        return False
    filters, _, r, s = kernels.graph.types[conv.inputs[1]].per_image
    plain = conv.attrs["stride"] == (1, 1) and not any(conv.attrs["padding"]) and conv.attrs["groups"] == 1
    return plain and r == s == 1 and (filters <= HOST_FILTERS or kernels.prices.decide)
