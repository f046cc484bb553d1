"""Values that every kernel that reads them recomputes as it loads."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.wording import size
from .answers import Why, why
from .grouping import Grouping
from .rule import Rule, Site

LONGEST_PROLOGUE = 64  # operations; a kernel that recomputed any number of them would never be compiled


class Prologue(Rule):
    """A value is recomputed wherever it is read, if that moves fewer bytes than storing it once, and takes no longer.

    stored: its operands once, its result written once and read by each reader
    recomputed: its operands by each reader

    A value at the end of an epilogue has its operands there. To be recomputed, those that the kernel would not store
    otherwise are written, too: a = gelu(z) is recomputed where the backward pass wants z anyway.
    """

    name = "prologue"
    equation = "anchor(f(z)) = anchor[prologue f](z)    f recomputed as it is loaded"

    def about(self, node: Node) -> bool:
        """Whether a node can be computed at one pixel and channel, or looks at one place of its operand."""
        return node.row.chains or node.row.gathers

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with these operations: the reader's, and the value's."""
        f, reader = kernels.graph.by_name[site.value].op, site.reader.op
        return f"{reader}({f}(z)) = {reader}[prologue](z)"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why a value is not recomputed wherever it is read; None if it is."""
        node = kernels.graph.by_name[site.value]
        if several_windows(node):
            return why("the windows of {op} overlap: a pixel's gradient is a sum over several", op=node.op)
        home = kernels.home(node.name)
        if home is not None and not kernels.ends_with(home, node):
            return why("the kernel of {anchor} computes and stores {value}", anchor=home.anchor.name, value=node.name)
        if node.name in kernels.results:
            return why("{value} is a result of the network", value=node.name)
        if (reason := _why_impossible(kernels, node)) is not None:
            return reason
        times = kernels.times_read(node.name)
        operands, result = sum(kernels.bytes(v) for v in kernels.leaves(node)), kernels.bytes(node.name)
        if home is None:
            recomputed, stored = times * operands, operands + result * (1 + times)
        else:
            unstored = sum(kernels.bytes(v) for v in kernels.leaves(node) if kernels.only_for(home, v, node))
            recomputed, stored = unstored + times * operands, result * (1 + times)
        if recomputed >= stored:
            return why("recomputed {times} times it moves {recomputed} an image (in 16 bits), stored once {stored}",
                       times=f"{times:g}", recomputed=size(recomputed), stored=size(stored))  # fmt: skip
        return kernels.prices.why_not_recomputed(node)


def _why_impossible(kernels: Grouping, node: Node) -> Why | None:
    """Why a value cannot be recomputed wherever it is read; None if it can."""
    if kernels.operations(node) > LONGEST_PROLOGUE:
        return why("recomputing it takes more than {most} operations", most=LONGEST_PROLOGUE)
    if node.row.from_window == "share" and _cut_off(kernels, node):
        return why("windows at the border are cut off and divide by less")
    reasons = (_why_not_by(kernels, reader, node) for reader in kernels.readers[node.name])
    return next(filter(None, reasons), None) if kernels.readers[node.name] else why("nothing reads it")


def _why_not_by(kernels: Grouping, reader: Node, node: Node) -> Why | None:
    """Why one reader cannot recompute a value; None if it can."""
    home, row = kernels.home(reader.name), reader.row
    if home is not None and row.chains:
        place = home.anchor.name
    elif row.cuts or row.through:
        place = _read_as(kernels, reader, node)
    elif row.gathers:
        return why("{reader} ({op}) reads it at other pixels than its own", reader=reader.name, op=reader.op)
    elif row.chains:
        place = reader.name
    elif any(kernels.base(v) == node.name and i not in row.on_load for i, v in enumerate(reader.inputs)):
        return why("{reader} ({op}) takes this operand from memory only", reader=reader.name, op=reader.op)
    else:
        place = _read_as(kernels, reader, node)
    if kernels.alike(node, place):
        return None
    return why("{reader} sees {value} under another shape", reader=reader.name, value=node.name)


def _read_as(kernels: Grouping, reader: Node, node: Node) -> str:
    """The name, perhaps a view's, by which a layer reads a value."""
    return next(v for v in reader.inputs if kernels.base(v) == node.name)


def several_windows(node: Node) -> bool:
    """Is it the gradient of a pooling with pixels that lie in more than one window?"""
    if not node.row.from_window:
        return False
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return sh < r or sw < s or any(node.attrs["padding"])


def _cut_off(kernels: Grouping, node: Node) -> bool:
    """Do windows (of ceil mode) reach beyond the image?"""
    (h, w), (p, q) = node.attrs["input_size"], kernels.graph.types[node.inputs[0]].spatial
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return (p - 1) * sh + r > h or (q - 1) * sw + s > w
