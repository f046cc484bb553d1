"""What became of every edge of a graph: fused by which rule, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.graph import Node
from ..ir.table import OPS
from .legality import why_ended
from .place import Within
from .plan import Decision, Kernel
from .why import Why, why

if TYPE_CHECKING:
    from .fuse import Fuser


def explain(fuser: Fuser, kernels: tuple[Kernel, ...], within: Within) -> tuple[Decision, ...]:
    homes: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        for node in kernel.nodes:
            homes.setdefault(node.name, []).append(kernel)
    wholes = {whole for whole, _ in within.values()}
    decisions = []
    for node in fuser.nodes:
        for raw in dict.fromkeys(node.inputs):
            value = fuser.base(raw)
            if value not in homes and value not in wholes:
                continue
            if within.get(value, ("",))[0] == node.name:
                rule = f"placement: {node.op}(x, ...) where x is written into its channels of {node.name}"
                decisions.append(Decision(value, node.name, True, rule, fuser.bytes(value)))
            else:
                decisions.append(_decide(fuser, value, node, homes))
    return tuple(decisions)


def _decide(fuser: Fuser, value: str, node: Node, homes: dict[str, list[Kernel]]) -> Decision:
    size = fuser.bytes(value)
    together = all(any(n.name == value for n in k.nodes) for k in homes.get(node.name, ())) and value in homes
    if together:
        if value in fuser.inlined and node.row.side_sum != "loaded":
            rule = f"prologue: {node.op}({fuser.graph.by_name[value].op}(z)) = {node.op}[prologue](z)"
            return Decision(value, node.name, True, rule, size)
        if value in fuser.hosted and node is fuser.group[value].anchor:
            op = fuser.graph.by_name[value].op
            rule = f"hosting: ({op}(z), {node.op}({op}(z))) = {node.op}[prologue {op}, stored](z)"
            return Decision(value, node.name, True, rule, size)
        if value in fuser.group and fuser.group[value] is not fuser.group.get(node.name, fuser.group[value]):
            rule = f"recomputed: {fuser.graph.by_name[value].op}(z, ...) from what the kernel loads for other reasons"
            return Decision(value, node.name, True, rule, size)
        anchor = fuser.group.get(value, fuser.group.get(node.name, fuser.groups[0])).anchor
        if node.row.side_sum == "stored" and fuser.group[node.name].anchor.op != node.op:
            rule = f"side sum: ({anchor.op}(x), {node.op}({anchor.op}(x))) = {anchor.op}[side sum](x)"
        elif node.row.side_sum == "loaded" and fuser.group[node.name].anchor.row.weight_gradient:
            wgrad = fuser.group[node.name].anchor.op
            rule = f"side sum: ({wgrad}(dy, x), channel_sum(dy)) = {wgrad}[side sum](dy, x)"
        elif node.row.pools or (node.row.sibling_of and OPS[node.row.sibling_of].pools):
            rule = f"pooling: {node.op}(conv2d(x)) = conv2d[windows](x)"
        else:
            rule = f"epilogue: {node.op}({anchor.op}(x)) = {anchor.op}[epilogue {node.op}](x)"
        return Decision(value, node.name, True, rule, size)
    reasons = _refusals(fuser, value, node)
    said, general = ("; ".join(f"{rule}: {text(reason)}" for rule, reason in reasons.items())
                     for text in (str, lambda reason: reason.general))  # fmt: skip
    return Decision(value, node.name, False, said, general=general)


def _refusals(fuser: Fuser, value: str, node: Node) -> dict[str, Why]:
    """By rule, why an edge goes through memory, as the fuser found it."""
    if not fuser.rules:
        return {"none": why("fusion is off")}
    home = fuser.group.get(node.name)
    if home is not None and home.anchor is not node and value in map(fuser.base, home.anchor.inputs):
        return {"siblings": why("loaded once for {op} and {anchor}, in one kernel", op=node.op, anchor=home.anchor.op)}
    found = dict(fuser.refused.get((value, node.name), {}))
    if node.row.joins and "placement" not in found:
        found["placement"] = fuser.without("placement") or why("{op} copies", op=node.op)
    producer = fuser.group.get(value)
    if not found and producer is not None:
        # A second result of a kernel's loop, such as an index beside a maximum, has no epilogue.
        second = why("{value} is a second result of the kernel of {anchor}", value=value, anchor=producer.anchor.name)
        found["epilogue"] = why_ended(fuser.graph.by_name[value]) or second
    assert found, (value, node.name)
    return dict(sorted(found.items(), key=lambda item: item[0] == "epilogue"))  # the plainest reason last
