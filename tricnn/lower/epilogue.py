"""The epilogue: what a kernel computes of its anchor's result while that is in registers, and what it stores."""

from __future__ import annotations

from math import prod

from ..compiler.plan import Kernel, Plan
from ..ir.graph import Node
from .body import Body
from .call import Helper
from .expressions import statistics
from .names import workspace_name
from .positions import At, OfWindow, Rounded, Summed


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
    """Leave a tile's part of a sum over pixels of what it stored.
    The part is (count, mean, M2), or the sums of dy and dy * xhat, for each channel. Where the template keeps sums over
    several tiles, the function returns what is summed instead."""
    value = body.plan.storage(node.inputs[0])
    tile = body.known.get((Rounded(node.inputs[0]), at), body.known[value, at])
    partial = workspace_name(body.kernel.name, f"{node.name}:partial")
    body.sides.append((node, partial))
    if body.terms is not None:
        _returned(body, node, at, tile, body.terms)
        return
    argument = body.result(partial, "partial")
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
    dy = _kept(body, at, tile)
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


def _kept(body: Body, at: At, tile: str) -> str:
    """The name of a tile as it was stored, in fp32 and 0 where the mask is not set."""
    return body.once(Summed(tile), at, "kept", f"tl.where({at.mask}, {tile}.to(tl.float32), 0.0)")


def _returned(body: Body, node: Node, at: At, tile: str, terms: list[str]) -> None:
    """Have the function return what is summed.
    That is z and z^2, or dy and dy * z, or dy and dy * xhat, see :func:`_centred`."""
    before, body.layer = body.layer, node.name
    kept = _kept(body, at, tile)
    factor = kept if node.row.moments else body.operand(node, 1, at)
    if not node.row.moments and _centred(body, node):
        mean, var = statistics(body, node, 2, at)
        factor = f"(({factor} - {mean}) * tl.rsqrt({var} + {node.attrs['eps']}))"
    product = body.let("product", f"{kept} * {factor}")
    terms.extend(term for term in (kept, product) if term not in terms)
    body.layer = before


def _centred(body: Body, node: Node) -> bool:
    """Whether dy * xhat is summed, not dy * z.
    It is where every pixel has a mean and a deviation of its own, or numbers are not rounded to 16 bits."""
    return body.plan.type(node.inputs[2]).batched or body.storage == "fp32"


def leave_sums(body: Body, store: Body, channels: int, name: str) -> Helper:
    """The function that leaves the sums over a stream's rows of what ``store`` returned.

    They are (count, mean, M2) of each channel, of 16-bit numbers, or the sums of dy and dy * xhat, in one part for each
    stream. Of 16-bit numbers z

        sum dy * xhat = (sum dy * z - mean * sum dy) * rstd

    is off by 2^-24 of mean * dy for each pixel, and rounding z did more."""
    at, index = At("channel", "channel", "mask", channels), 1
    for node, partial in store.sides:
        argument, known = body.result(partial, "partial"), f"mask=channel < {channels}"
        if node.row.moments:
            body.write(f"store_sums(count, sums[0], sums[{index}], channel, stream, {argument}, {channels})", node.name)
        else:
            before, body.layer = body.layer, node.name
            row, product = f"{argument} + stream * {2 * channels} + channel", f"sums[{index}]"
            if not _centred(body, node):
                mean, var = statistics(body, node, 2, at)
                centred = body.let("centred", f"{product} - {mean} * sums[0]")
                product = body.let("dweight", f"{centred} * tl.rsqrt({var} + {node.attrs['eps']})")
            body.write(f"tl.store({row}, sums[0], {known})")
            body.write(f"tl.store({row} + {channels}, {product}, {known})")
            body.layer = before
        index += 1
    return body.function(name, "sums, count, channel, stream, args", body.lines)
