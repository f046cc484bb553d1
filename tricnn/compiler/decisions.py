"""What became of every edge of a graph: fused by which rule, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.graph import Node
from ..ir.table import Kind
from .legality import why_not_inlined, why_not_pooled
from .place import Within
from .plan import Decision, Kernel
from .roles import GATHERS, POOLS, SIBLINGS, SIDE_SUMS, TAKE_ALONG, WGRADS, chainable

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
        if value in fuser.inlined and node.op != "channel_sum":
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
        if node.op in SIDE_SUMS and fuser.group[node.name].anchor.op != node.op:
            rule = f"side sum: ({anchor.op}(x), {node.op}({anchor.op}(x))) = {anchor.op}[side sum](x)"
        elif node.op == "channel_sum" and fuser.group[node.name].anchor.op in WGRADS:
            wgrad = fuser.group[node.name].anchor.op
            rule = f"side sum: ({wgrad}(dy, x), channel_sum(dy)) = {wgrad}[side sum](dy, x)"
        elif node.op in ("max_pool2d", "max_pool2d_index", "avg_pool2d"):
            rule = f"pooling: {node.op}(conv2d(x)) = conv2d[windows](x)"
        else:
            rule = f"epilogue: {node.op}({anchor.op}(x)) = {anchor.op}[epilogue {node.op}](x)"
        return Decision(value, node.name, True, rule, size)
    return Decision(value, node.name, False, _why_not(fuser, value, node))


def _why_not(fuser: Fuser, value: str, node: Node) -> str:
    if not fuser.rules:
        return "fusion is off"
    if node.op == "concat" and "placement" not in fuser.rules:
        return _without(fuser, "placement")
    if node.op == "concat":
        return "the concatenation copies: an operand is an input, a result, or in two places at once"
    home = fuser.group.get(node.name)
    if home is not None and home.anchor is not node and value in map(fuser.base, home.anchor.inputs):
        return f"{node.op} shares the one load of it with {home.anchor.op}, in the same kernel"
    producer = fuser.graph.by_name[value]
    if (chainable(producer) or producer.op in GATHERS) and value not in fuser.results:
        reason = why_not_inlined(fuser, producer)
        if reason is not None:
            return reason
        if "prologue" not in fuser.rules:
            return _without(fuser, "prologue")
        if producer.name in fuser.group and producer.name in fuser.priced and not fuser.cheaper(producer):
            return "storing it is predicted to be faster than recomputing it for each reader"
        if producer.name in fuser.group and fuser.group[producer.name].anchor is producer:
            return "storing it once moves fewer bytes than recomputing it for each reader"
    group = fuser.group.get(value)
    if group is not None and chainable(node):
        late = [v for v in map(fuser.base, node.inputs) if fuser.group.get(v) is not group]
        if late and not fuser.ready(node, group):
            return f"{node.name} also waits for {late[0]}, which is computed later"
        if "epilogue" not in fuser.rules:
            return _without(fuser, "epilogue")
    if group is not None and group.anchor.op == "conv2d" and node.op in POOLS:
        reason = why_not_pooled(fuser, group, producer, node)
        if reason is not None or "pooling" not in fuser.rules:
            return reason or _without(fuser, "pooling")
    side = node.op in SIDE_SUMS and group is not None and group.anchor.op in TAKE_ALONG
    if "side_sums" not in fuser.rules and (side or node.op == "channel_sum"):
        return _without(fuser, "side_sums")
    if "siblings" not in fuser.rules and (node.op in SIBLINGS or node.op in ("running_mean", "running_var")):
        return _without(fuser, "siblings")
    if node.kind is Kind.CONTRACTION:
        return f"{node.op} reads every element several times: its operand goes through memory"
    if node.kind is Kind.REDUCTION:
        return f"{node.op} needs all pixels before it can give its first result"
    if node.kind is Kind.WINDOW:
        return f"{node.op} looks at neighbouring pixels, which other programs compute"
    return f"{node.op} has a shape or an order of its own"


def _without(fuser: Fuser, rule: str) -> str:
    return f"the rule {rule!r} is not among those of the policy ({fuser.policy})"
