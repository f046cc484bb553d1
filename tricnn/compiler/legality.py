"""What no kernel could compute right: why a layer cannot join the kernel of what it reads, or a pooling a convolution's
tile, a sum not be taken of what is stored, or a value not be recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.graph import Node
from ..ir.table import Kind
from .why import Why, why

if TYPE_CHECKING:
    from .fuse import Fuser, Group


LONGEST_PROLOGUE = 64  # operations; a kernel that recomputed any number of them would never be compiled


def why_ended(tail: Node) -> Why | None:
    """Why nothing can follow a value in its kernel; None if something can."""
    if tail.row.weight_gradient:
        return why("{value} is a sum of parts that several programs leave", value=tail.name)
    if tail.row.collapses:
        return why("{value} is a reduction's result ({op}), which has no epilogue", value=tail.name, op=tail.op)
    if tail.kind is Kind.VIEW or tail.row.copies:
        return why("{value} is a copy with a shape of its own ({op})", value=tail.name, op=tail.op)
    return None


def why_late(fuser: Fuser, group: Group, node: Node) -> Why | None:
    """Why an operand of ``node`` is not there while the kernel of ``group`` runs; None if all are: computed before the
    group's anchor, or within the group for this very pixel."""
    anchor = group.anchor
    for value in map(fuser.base, node.inputs):
        source = fuser.graph.by_name[value]
        if fuser.group.get(value) is group:
            if source.row.collapses:
                return why("the reader also needs {value}, which is complete when the kernel ends", value=value)
        elif fuser.place[value] >= fuser.place[anchor.name] and source.kind is not Kind.SOURCE:
            return why(
                "the reader also needs {value}, which is computed after {anchor}", value=value, anchor=anchor.name
            )
    return None


def why_not_pointwise(fuser: Fuser, group: Group, tail: Node, node: Node) -> Why | None:
    """Why ``node`` cannot be computed at each (pixel, channel) that the kernel of ``group`` stores; None if it can."""
    types, op = fuser.graph.types, node.op
    if not node.row.chains:
        shape = types[node.inputs[0]]
        if node.row.weight_gradient:
            return why("{op} sums over all pixels of the batch", op=op)
        if node.kind is Kind.CONTRACTION:
            filters, channels, *window = types[node.inputs[1]].per_image
            summed = filters if op.endswith("_grad_input") else channels
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
    own, there = types[node.name], types[tail.name]
    if own.elements(1) != there.elements(1):
        return why("{op} has {own} elements an image, where {there} are stored",
                   op=op, own=f"{own.elements(1):,}", there=f"{there.elements(1):,}")  # fmt: skip
    if not fuser.alike(node, group.anchor.name):
        return why("{op} sees as {own} what is stored as {there}", op=op, own=own, there=types[group.anchor.name])
    return None


def why_not_along(fuser: Fuser, group: Group, tail: Node, node: Node) -> Why | None:
    """Why a sum over pixels (batch statistics, batch norm's two gradient sums) cannot be taken of what a kernel stores;
    None if it can: then each tile leaves a partial result."""
    anchor, types = group.anchor, fuser.graph.types
    if not anchor.row.takes_sums and not anchor.row.chains:
        return why("a kernel of {op} leaves no sums", op=anchor.op)
    if node.inputs[0] != tail.name:
        return why("{op} is taken along with {first}, its first operand", op=node.op, first=node.inputs[0])
    if types[tail.name].shape != types[anchor.name].shape or any(n.row.pools for n in group.members):
        return why("{value} is not what the tiles of {anchor} are made of", value=tail.name, anchor=anchor.name)
    return None


def why_not_pooled(fuser: Fuser, group: Group, tail: Node, pool: Node) -> Why | None:
    """Why ``pool`` cannot happen on the tile of the convolution whose epilogue ends in ``tail``; None if it can."""
    if group.anchor.op != "conv2d":
        return why("only a convolution's tiles can be made of whole windows, not those of {op}", op=group.anchor.op)
    if any(n.row.pools for n in group.members):
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
    if whole_windows(fuser, pool):
        return None
    if pool.attrs["ceil_mode"]:
        return why("windows at the border are cut off (ceil_mode)")
    # The kernel computes the pixels of whole windows only, so nothing else may be made of the others.
    beside = [n.name for n in fuser.near(pool) if fuser.wants_the_loop_of(pool, n) and n.name not in fuser.group]
    for member in group.members:
        others = [n for n in fuser.readers[member.name] if n.name not in (pool.name, *beside)]
        elsewhere = member.name in fuser.results or any(fuser.group.get(n.name) is not group for n in others)
        if elsewhere or member.row.side_sum == "stored":
            return why("pixels that no window covers are needed elsewhere, of {value}", value=member.name)
    return None


def whole_windows(fuser: Fuser, pool: Node) -> bool:
    """Is every pixel of the image in a whole window of the pooling, whose windows neither overlap nor leave gaps?"""
    (p, q), (r, s) = fuser.graph.types[pool.inputs[0]].spatial, pool.attrs["kernel_size"]
    return p % r == 0 and q % s == 0


def why_not_inlined(fuser: Fuser, node: Node) -> Why | None:
    """Why a value cannot be recomputed wherever it is read; None if it can."""
    if not node.row.chains and not node.row.gathers:
        return why("{op} cannot be computed at one pixel as it is loaded", op=node.op)
    if several_windows(node):
        return why("the windows of {op} overlap: a pixel's gradient is a sum over several", op=node.op)
    if fuser.operations(node) > LONGEST_PROLOGUE:
        return why("recomputing it takes more than {most} operations", most=LONGEST_PROLOGUE)
    if node.op == "avg_pool2d_grad" and _cut_off(fuser, node):
        return why("windows at the border are cut off and divide by less")

    def shape(reader: Node) -> Why:
        return why("{reader} sees {value} under another shape", reader=reader.name, value=node.name)

    for reader in fuser.readers[node.name]:
        if reader.name in fuser.group and reader.row.chains:
            if not fuser.alike(node, fuser.group[reader.name].anchor.name):
                return shape(reader)
            continue
        if reader.row.cuts:
            if not fuser.alike(node, _read_as(fuser, reader, node)):
                return shape(reader)
            continue
        allowed = reader.row.on_load
        if reader.row.chains or reader.row.gathers:
            if reader.row.gathers:
                return why("{reader} ({op}) reads it at other pixels than its own", reader=reader.name, op=reader.op)
            if not fuser.alike(node, reader.name):
                return shape(reader)
            continue
        if any(fuser.base(v) == node.name and i not in allowed for i, v in enumerate(reader.inputs)):
            return why("{reader} ({op}) takes this operand from memory only", reader=reader.name, op=reader.op)
        if not fuser.alike(node, _read_as(fuser, reader, node)):
            return shape(reader)
    return None if fuser.readers[node.name] else why("nothing reads it")


def several_windows(node: Node) -> bool:
    """Is it the gradient of a pooling with pixels that lie in more than one window?"""
    return node.op in ("max_pool2d_grad", "avg_pool2d_grad") and not exclusive(node)


def _cut_off(fuser: Fuser, node: Node) -> bool:
    """Do windows (of ceil mode) reach beyond the image?"""
    (h, w), (p, q) = node.attrs["input_size"], fuser.graph.types[node.inputs[0]].spatial
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return (p - 1) * sh + r > h or (q - 1) * sw + s > w


def _read_as(fuser: Fuser, reader: Node, node: Node) -> str:
    return next(v for v in reader.inputs if fuser.base(v) == node.name)


def exclusive(node: Node) -> bool:
    """Does every pixel lie in at most one window, and no window reach into padding?"""
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return sh >= r and sw >= s and not any(node.attrs["padding"])
