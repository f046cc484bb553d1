"""What no kernel could compute right: why a pooling cannot join a convolution's tile, or a value not be recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.graph import Node
from .roles import GATHERS, LOADED, POOLS, SIDE_SUMS, chainable, exclusive

if TYPE_CHECKING:
    from .fuse import Fuser, Group


def why_not_pooled(fuser: Fuser, group: Group, tail: Node, pool: Node) -> str | None:
    """Why ``pool`` cannot happen on the tile of the convolution whose epilogue ends in ``tail``; None if it can."""
    if any(n.op in POOLS for n in group.members):
        return "its kernel already pools"
    (r, s), area = pool.attrs["kernel_size"], pool.attrs["kernel_size"][0] * pool.attrs["kernel_size"][1]
    if pool.attrs["stride"] != (r, s):
        return "the windows overlap: each pixel of the convolution would be computed several times"
    if any(pool.attrs["padding"]):
        return "the windows reach into padding"
    if area == 1:
        return "a window of one pixel pools nothing"
    if area & (area - 1) or area > 16:
        return f"a window of {area} pixels does not divide a tile"
    if whole_windows(fuser, pool):
        return None
    if pool.attrs["ceil_mode"]:
        return "windows at the border are cut off"
    # The kernel computes the pixels of whole windows only, so nothing else may be made of the others.
    beside = [n.name for n in fuser.companions if fuser.wants_the_loop_of(pool, n) and n.name not in fuser.group]
    for member in group.members:
        others = [n for n in fuser.readers[member.name] if n.name not in (pool.name, *beside)]
        elsewhere = member.name in fuser.results or any(fuser.group.get(n.name) is not group for n in others)
        if elsewhere or member.op in SIDE_SUMS:
            return "pixels that no window covers are needed elsewhere"
    return None


def whole_windows(fuser: Fuser, pool: Node) -> bool:
    """Is every pixel of the image in a whole window of the pooling, whose windows neither overlap nor leave gaps?"""
    (p, q), (r, s) = fuser.graph.types[pool.inputs[0]].spatial, pool.attrs["kernel_size"]
    return p % r == 0 and q % s == 0


def why_not_inlined(fuser: Fuser, node: Node) -> str | None:
    """Why a value cannot be recomputed wherever it is read; None if it can."""
    if not chainable(node) and node.op not in GATHERS:
        return f"{node.op} cannot be computed at one pixel as it is loaded"
    if several_windows(node):
        return "the windows overlap: a pixel's gradient is a sum over several windows"
    if node.op == "avg_pool2d_grad" and _cut_off(fuser, node):
        return "windows at the border are cut off and divide by less"
    for reader in fuser.readers[node.name]:
        if reader.name in fuser.group and chainable(reader):
            if not fuser.alike(node, fuser.group[reader.name].anchor.name):
                return "its reader sees it under another shape"
            continue
        if reader.op == "slice_channels":
            if not fuser.alike(node, _read_as(fuser, reader, node)):
                return "its reader sees it under another shape"
            continue
        allowed = LOADED.get(reader.op, ())
        if chainable(reader) or reader.op in GATHERS:
            if reader.op in GATHERS:
                return f"{reader.name} reads it at other pixels than its own"
            if not fuser.alike(node, reader.name):
                return "its reader sees it under another shape"
            continue
        if any(fuser.base(v) == node.name and i not in allowed for i, v in enumerate(reader.inputs)):
            return f"{reader.name} ({reader.op}) takes this operand from memory only"
        if not fuser.alike(node, _read_as(fuser, reader, node)):
            return "its reader sees it under another shape"
    return None if fuser.readers[node.name] else "nothing reads it"


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
