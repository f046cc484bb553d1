"""The epilogue: what a kernel computes of its anchor's result while that is in registers, and what it stores."""

from __future__ import annotations

from math import prod

from ..compiler.plan import Kernel, Plan
from ..ir.graph import Node
from .body import Body
from .expressions import statistics
from .names import workspace_name
from .positions import At, OfWindow, Rounded


def downstream(plan: Plan, kernel: Kernel, start: set[str]) -> list[Node]:
    """The kernel's nodes that depend on the values of ``start``, in order."""
    reached, found = set(start), []
    for node in kernel.nodes:
        if node.name not in reached and any(plan.storage(v) in reached for v in node.inputs):
            reached.add(node.name)
            found.append(node)
    return found


def epilogue(body: Body, kernel: Kernel, at: At, start: str, first: str | None = None) -> None:
    """Write what follows ``start``, which is in the register ``first`` at ``at`` (or known already)."""
    positions = {start: at}
    if first is not None:
        body.known[start, at] = first
    if start in kernel.writes:
        body.store(start, body.known[start, at], at)
    for node in downstream(body.plan, kernel, {start}):
        source = next((v for v in map(body.plan.storage, node.inputs) if v in positions), start)
        here = positions[source]
        if node.row.side_sum == "stored" and node is not kernel.anchor:
            side_sum(body, node, here)
            continue
        if node.row.updates:
            continue  # with the merge of the statistics
        if node.row.pools or node.row.index:
            here = pooled(body, node, source, here)
        else:
            body.known[node.name, here] = body.compute(node, here)
        positions[node.name] = here
        if node.name in kernel.writes:
            body.store(node.name, body.known[node.name, here], here)


def pooled(body: Body, node: Node, source: str, at: At) -> At:
    """The position of a pooling's result in a convolution's tile, whose rows list the windows one after another."""
    area = prod(node.attrs["kernel_size"])
    covered = At("window", "channel", "covered", at.width)
    if "covered" not in body.scope:
        body.scope.reserve("covered")
        body.write(f"covered = mask_over_window(mask, {area})", node.name)
    tile = body.known[source, at]
    if not (node.row.picks or node.row.index):
        body.known[node.name, covered] = body.let("pooled", f"mean_over_window({tile}, {area})")
        return covered
    maximum, index = ((OfWindow(source, position), covered) for position in (False, True))
    if maximum not in body.known:
        value, position = body.name("pooled"), body.name("position")
        body.write(f"{value}, {position} = max_over_window({tile}, {area})", node.name)
        body.known[maximum], body.known[index] = value, position
    body.known[node.name, covered] = body.known[index if node.row.index else maximum]
    return covered


def side_sum(body: Body, node: Node, at: At) -> None:
    """Leave a tile's part of a sum over pixels of what it stored: (count, mean, M2), or the sums of dy and dy * xhat,
    for each channel."""
    value = body.plan.storage(node.inputs[0])
    tile = body.known.get((Rounded(node.inputs[0]), at), body.known[value, at])
    partial = workspace_name(body.kernel.name, f"{node.name}:partial")
    argument = body.result(partial, "partial")
    body.sides.append((node, partial))
    if node.row.moments:
        body.write(f"store_tile_stats({tile}, {at.channel}, {at.mask}, part, {argument}, {at.width})", node.name)
    else:
        before, body.layer = body.layer, node.name
        _gradient_sums(body, node, at, tile, argument)
        body.layer = before


def _gradient_sums(body: Body, node: Node, at: At, tile: str, argument: str) -> None:
    """Leave a tile's part of the sums of dy, which is in the register ``tile``, and of dy * xhat."""
    c = at.width
    x = body.operand(node, 1, at)
    mean, var = statistics(body, node, 2, at)
    dy = body.let("dy_kept", f"tl.where({at.mask}, {tile}.to(tl.float32), 0.0)")
    rstd = body.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
    centred = body.let("centred", f"{x} - {mean}")
    row = f"{argument} + part * {2 * c} + {at.channel}"
    known = f"mask={at.channel} < {c}"
    dbias = body.let("dbias", f"tl.sum({dy}, axis=0)[None, :]")
    each = body.plan.type(node.inputs[2]).batched  # has every pixel a deviation of its own?
    product = f"tl.sum({dy} * {centred} * {rstd}, axis=0)[None, :]" if each else ""
    dweight = body.let("dweight", product or f"tl.sum({dy} * {centred}, axis=0)[None, :] * {rstd}")
    body.write(f"tl.store({row}, {dbias}, {known})")
    body.write(f"tl.store({row} + {c}, {dweight}, {known})")
