"""Pointwise layers at the end of the kernel that computes what they read."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.table import Kind
from .answers import Why, why
from .following import Following
from .grouping import Grouping
from .rule import Site


class Epilogue(Following):
    """A pointwise operation is computed at each (pixel, channel) that a kernel stores."""

    name = "epilogue"
    equation = "f(anchor(x), y) = anchor[epilogue f](x, y)    f pointwise"

    def about(self, node: Node) -> bool:
        """Whether a reader is none that another rule is for."""
        return True

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this anchor and this operation."""
        f, anchor = site.reader.op, site.group.anchor.op
        return f"{f}({anchor}(x)) = {anchor}[epilogue {f}](x)"

    def why_not_there(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the reader cannot be computed at each (pixel, channel) that the kernel stores; None if it can."""
        types, node, anchor = kernels.graph.types, site.reader, site.group.anchor
        if not node.row.chains:
            return _why_not_pointwise(kernels, node)
        own, there = types[node.name], types[site.value]
        if own.elements(1) != there.elements(1):
            return why("{op} has {own} elements an image, where {there} are stored",
                       op=node.op, own=f"{own.elements(1):,}", there=f"{there.elements(1):,}")  # fmt: skip
        if not kernels.alike(node, anchor.name):
            return why("{op} sees as {own} what is stored as {there}", op=node.op, own=own, there=types[anchor.name])
        return None


def _why_not_pointwise(kernels: Grouping, node: Node) -> Why:
    """What an operation that is not pointwise needs besides the pixel and channel that is stored."""
    types, op = kernels.graph.types, node.op
    shape = types[node.inputs[0]]
    if node.row.weight_gradient:
        return why("{op} sums over all pixels of the batch", op=op)
    if node.kind is Kind.CONTRACTION:
        filters, channels, *window = types[node.inputs[1]].per_image
        summed = filters if node.row.product == "by_input" else channels
        size = f" and {'x'.join(map(str, window))} pixels" if any(n > 1 for n in window) else ""
        what = f"{summed} channels{size}"
        return why("{op} sums over {what}, which several programs compute", op=op, what=what)
    if node.kind is Kind.REDUCTION:
        return why("{op} sums over {shape}, which several programs compute", op=op, shape=shape)
    if node.kind is Kind.WINDOW and "kernel_size" in node.attrs:
        area = "x".join(map(str, node.attrs["kernel_size"]))
        return why("{op} has windows of {size} pixels, which several programs compute", op=op, size=area)
    if node.kind is Kind.WINDOW:
        return why("{op} looks at all pixels of an image", op=op)
    return why("{op} makes {result} of {shape}: a copy of its own", op=op, result=types[node.name], shape=shape)
