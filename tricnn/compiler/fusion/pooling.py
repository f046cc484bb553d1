"""Pooling on the tiles of a convolution."""

from __future__ import annotations

from ...ir.graph import Node
from .answers import Why, why
from .following import Following
from .grouping import Grouping
from .rule import Site
from .second_results import same_loop


class Pooling(Following):
    """A tile of a convolution's pixels is made of whole windows, and only what they give is stored."""

    name = "pooling"
    equation = "pool(conv2d(x)) = conv2d[windows](x)    windows that do not overlap"

    def about(self, node: Node) -> bool:
        """Whether the reader is a pooling."""
        return node.row.pools

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this pooling."""
        return f"{site.reader.op}(conv2d(x)) = conv2d[windows](x)"

    def why_not_there(self, kernels: Grouping, site: Site) -> Why | None:
        """Why a convolution whose epilogue ends in the value cannot pool it on its tile; None if it can."""
        group, pool = site.group, site.reader
        if not group.anchor.row.convolution:
            return why("only a convolution's tiles can be made of whole windows, not those of {op}", op=group.anchor.op)
        if group.pools:
            return why("the kernel of {anchor} already pools", anchor=group.anchor.name)
        (r, s), area = pool.attrs["kernel_size"], pool.attrs["kernel_size"][0] * pool.attrs["kernel_size"][1]
        if pool.attrs["stride"] != (r, s):
            stride = "x".join(map(str, pool.attrs["stride"]))
            return why(
                "windows of {window} at a stride of {stride} overlap or leave gaps", window=f"{r}x{s}", stride=stride
            )
        if any(pool.attrs["padding"]):
            return why("the windows reach into padding of {padding}", padding=pool.attrs["padding"])
        if area == 1:
            return why("a window of one pixel pools nothing")
        if area & (area - 1) or area > 16:
            return why("a window of {area} pixels does not divide a tile", area=area)
        if whole_windows(kernels, pool):
            return None
        if pool.attrs["ceil_mode"]:
            return why("windows at the border are cut off (ceil_mode)")
        return _why_all_pixels(kernels, site)


def _why_all_pixels(kernels: Grouping, site: Site) -> Why | None:
    """Why a kernel must compute also the pixels that no whole window covers; None if it need not.
    Then something else is made of them."""
    group, pool = site.group, site.reader
    beside = {n.name for n in kernels.companions(pool)
              if "siblings" in kernels.rules and same_loop(pool, n) and kernels.home(n.name) is None}  # fmt: skip
    for member in group.members:
        others = [n for n in kernels.readers[member.name] if n is not pool and n.name not in beside]
        elsewhere = member.name in kernels.results or any(kernels.home(n.name) is not group for n in others)
        if elsewhere or member.row.side_sum == "stored":
            return why("pixels that no window covers are needed elsewhere, of {value}", value=member.name)
    return None


def whole_windows(kernels: Grouping, pool: Node) -> bool:
    """Is every pixel of the image in a whole window of the pooling, whose windows neither overlap nor leave gaps?"""
    (p, q), (r, s) = kernels.graph.types[pool.inputs[0]].spatial, pool.attrs["kernel_size"]
    return p % r == 0 and q % s == 0
