"""Launches that add up what programs have left: partial sums, and the statistics of tiles.

A sum over all pixels is dealt out between programs. Each leaves a partial result, and one more launch (two, where there
are very many) adds them in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..compiler.plan import Kernel, Place
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .body import Body
from .call import Call, Helper, Line, Pointer, Text, helper
from .lowering import Lowering
from .names import SUM_TABLE, Argument
from .program import SUM_BLOCK, Buffer, PartialSum
from .size import Size, cdiv

#: how many parts the one launch for many tensors adds at once
SUM_PARTS = 8

#: more partial results than MANY are first added in GROUPS groups, each by programs of its own
MANY, GROUPS = 8192, 32

#: what the functions that store a total, or merged statistics, are given
TOTAL = "total, element, mask, split, args"
MERGED = "count, mean, m2, channel, mask, split, args"


@dataclass(frozen=True)
class PartialResults:
    """``parts`` times ``length`` numbers in a buffer, one part after another.
    Each part has ``total`` numbers of one gradient, and behind them those of another one, if it is longer."""

    buffer: str
    parts: Size
    total: int
    length: int


def _block(parts: int, width: int) -> tuple[int, int]:
    """How many of so many partial results a program adds at once, and how many numbers of each.
    It adds many results, since it waits for one load after another; then few numbers, so that there are programs enough
    and a row is still a whole sector of memory."""
    return (min(tiles.power_of_two(parts), 512), 8) if parts > 16 else (tiles.power_of_two(parts), width)


def _tile(rows: int, block: int) -> tiles.Tile:
    """The tile of so many partial results and numbers, with at most 16 elements in a thread."""
    return tiles.Tile(rows, block, 1, 8 if rows * block > 2048 else 4, 1)


@dataclass(frozen=True)
class Finished:
    """The function that stores a total, or merged statistics, and what that moves."""

    store: Helper
    moved: tuple[traffic.Traffic, ...]


# --- sums ------------------------------------------------------------------------------


def lower_split_sum(
    state: Lowering, kernel: Kernel, partial: PartialResults, dw: str, db: str | None = None, suffix: str = ""
) -> None:
    """Lower the sums of partial results, in their order: the value ``dw``, and ``db`` behind it.

    Gradients of parameters, which no kernel of the step reads, wait for one launch that finishes them all.
    """
    place = state.plan.place(dw)
    if waits_for_the_last_launch(state, dw, partial.parts, db):
        _wait(state, partial, dw, db)
        return
    name = state.scope.free(f"{kernel.name}_sum{suffix and '_'}{suffix}")
    everything = partial.length
    if partial.parts.at(state.batch) > MANY:
        groups = state.workspace(name, "groups", GROUPS * everything)
        lines = [f"tl.store(groups + split * {everything} + element, total, mask=mask)"]
        store = helper(f"{name}_groups_store", TOTAL, {groups: "groups"}, lines, (groups,), dw)
        _add_up(state, kernel, f"{name}_groups", partial, store, GROUPS)
        partial = replace(partial, buffer=groups, parts=Size.of(GROUPS))
    outputs: dict[Argument, str] = {place.buffer: "dw", **({db: "db"} if db else {})}
    lines = _total_lines(state, dw, place, partial.total if db else None)
    store = helper(f"{name}_store", TOTAL, outputs, lines, (place.buffer, *([db] if db else [])), dw)
    written = traffic.channels_stored(place.buffer, state.plan.type(dw).channel_count, place.pitch)
    _add_up(state, kernel, name, partial, store, 1, *([written] if place.buffer != dw else []))


def waits_for_the_last_launch(state: Lowering, dw: str, parts: Size, db: str | None = None) -> bool:
    """Whether the last launch of the step adds a value's partial results up: no kernel reads it."""
    return state.plan.fused and bool(parts.fixed) and not {state.plan.place(dw).buffer, db} & state.read


def finished_sum(state: Lowering, kernel: Kernel, node: Node, channels: int) -> Finished:
    """The function that stores parts of side sums, [2, channels], added up."""
    place, dw = state.plan.place(node.name), node.name
    name = state.scope.free(f"{kernel.name}_sum_{dw}")
    store = helper(
        f"{name}_store", TOTAL, {place.buffer: "dw"}, _total_lines(state, dw, place, None), (place.buffer,), dw
    )
    written = traffic.channels_stored(place.buffer, state.plan.type(dw).channel_count, place.pitch)
    return Finished(store, (written,) if place.buffer != dw else ())


def _wait(state: Lowering, partial: PartialResults, dw: str, db: str | None) -> None:
    """Have the last launch of the step add the partial results up."""
    parts = partial.parts.fixed
    assert parts is not None
    state.sums.append(PartialSum(partial.buffer, 0, parts, partial.length, dw, partial.total))
    if db:
        length = partial.length - partial.total
        state.sums.append(PartialSum(partial.buffer, partial.total, parts, partial.length, db, length))


def _total_lines(state: Lowering, dw: str, place: Place, total: int | None) -> list[str]:
    """The lines that store a sum: to ``dw`` where it lies, or up to ``total`` to dw and from there on to db."""
    if place.buffer != dw:  # rows of numbers amid longer ones
        c = state.plan.type(dw).channel_count
        row = f"dw + {place.offset} + element // {c} * {place.pitch} + element % {c}"
        return [f"tl.store({row}, total, mask=mask)"]
    if total is not None:
        return [
            f"tl.store(dw + element, total, mask=mask & (element < {total}))",
            f"tl.store(db + (element - {total}), total, mask=mask & (element >= {total}))",
        ]
    return ["tl.store(dw + element, total, mask=mask)"]


def _add_up(
    state: Lowering,
    kernel: Kernel,
    name: str,
    partial: PartialResults,
    store: Helper,
    split: int,
    *written: traffic.Traffic,
) -> None:
    """Launch what adds partial results, in so many groups."""
    parts, everything = partial.parts, partial.length
    rows, block = _block(cdiv(parts.at(state.batch), split), 128)
    operands = [Pointer(partial.buffer, "partial"), store, Text(parts.text("tl.cdiv"))]
    constants = {"LENGTH": everything, "SPLIT": split, "BLOCK_P": rows, "BLOCK": block}
    state.add(
        name,
        kernel,
        Call("sum_partials", operands, constants),
        (cdiv(everything, block), split),
        _tile(rows, block),
        kind="split_sum",
        finishes=True,
        traffic=[traffic.loads(partial.buffer, parts * everything), *written],
    )


def lower_many_sums(state: Lowering) -> None:
    """Launch what adds all partial sums that have waited for it since the last such launch."""
    finished, waiting = state.sums[: state.summed], state.sums[state.summed :]
    state.summed = len(state.sums)
    last = next(k for k in reversed(state.plan.kernels) if any(s.target in k.writes for s in waiting))
    first, blocks = (sum(cdiv(s.length, SUM_BLOCK) for s in sums) for sums in (finished, waiting))
    state.buffers[SUM_TABLE] = Buffer(SUM_TABLE, "i64", Size.of(5 * (first + blocks)), persistent=True)
    constants = {"BLOCK_P": SUM_PARTS, "BLOCK": SUM_BLOCK, **({"FIRST": first} if first else {})}
    state.add(
        state.scope.free("sum_weight_gradients") if first else "sum_weight_gradients",
        last,
        Call("sum_partials_of_many", [Pointer(SUM_TABLE, "table")], constants),
        (blocks,),
        tiles.Tile(SUM_PARTS, SUM_BLOCK, 1, 4, 1),
        kind="sum_partials_of_many",
        finishes=True,
        traffic=[traffic.loads(SUM_TABLE, 5 * blocks)],
    )
    launch = state.launches.pop()
    layers = tuple(dict.fromkeys(s.target for s in waiting))
    sources = tuple(dict.fromkeys(s.source for s in waiting))
    loads = {**launch.loads, **{b: state.buffers[b].size for b in sources}}
    state.launches.append(replace(launch, layers=layers, reads=(*launch.reads, *sources), writes=layers, loads=loads))


def sums_waiting(state: Lowering) -> int:
    """The bytes of the results of all partial sums that no launch adds yet."""
    return sum(4 * s.length for s in state.sums[state.summed :])


# --- side sums -------------------------------------------------------------------------


def side_buffers(state: Lowering, body: Body, parts: Size, channels: int) -> None:
    """Make room for what each tile leaves of its side sums."""
    for node, partial in body.sides:
        state.partial(partial, parts * ((3 if node.row.moments else 2) * channels))


def finish_sides(state: Lowering, kernel: Kernel, body: Body, parts: Size, channels: int) -> None:
    """Launch what adds the tiles' partial results."""
    for node, partial in body.sides:
        if node.row.moments:
            lower_merge(state, kernel, node, partial, channels, parts)
        else:
            results = PartialResults(partial, parts, 2 * channels, 2 * channels)
            lower_split_sum(state, kernel, results, node.name, suffix=node.name)


# --- statistics ------------------------------------------------------------------------


def lower_merge(state: Lowering, kernel: Kernel, node: Node, partial: str, c: int, parts: Size) -> None:
    """Launch the merge of what tiles left in ``partial``: stats = [mean, M2/count], and the new running statistics."""
    name = merge_name(state, kernel, node)
    if parts.at(state.batch) > MANY:
        groups = state.workspace(name, "groups", GROUPS * 3 * c)
        row = f"groups + split * {3 * c} + channel"
        lines = [
            f"tl.store({row}, count, mask=mask)",
            f"tl.store({row} + {c}, mean, mask=mask)",
            f"tl.store({row} + {2 * c}, m2, mask=mask)",
        ]
        store = helper(f"{name}_groups_store", MERGED, {groups: "groups"}, lines, (groups,), node.name)
        each = _merged_at_once(cdiv(parts.at(state.batch), GROUPS))
        _merge(state, kernel, f"{name}_groups", (partial, parts, c), store, GROUPS, each)
        partial, parts = groups, Size.of(GROUPS)
    done = _statistics(state, kernel, node, name, c)
    at_once = _merged_at_once(parts.at(state.batch))
    _merge(state, kernel, name, (partial, parts, c), done.store, 1, at_once, *done.moved)


def finished_statistics(state: Lowering, kernel: Kernel, node: Node, channels: int) -> Finished:
    """The function that stores the merged statistics of a side sum and updates the running ones."""
    return _statistics(state, kernel, node, merge_name(state, kernel, node), channels)


def merge_name(state: Lowering, kernel: Kernel, node: Node) -> str:
    """What the merge of a kernel's statistics is called, of one of several after their layer."""
    alone = sum(n.row.moments for n in kernel.nodes) == 1
    return state.scope.free(f"{kernel.name}_merge" if alone else f"{kernel.name}_{node.name}_merge")


def _merged_at_once(parts: int) -> tuple[int, int]:
    """How many tiles' statistics, of so many, a program merges at once, and how many channels of each."""
    rows, block = _block(parts, 32)
    return max(rows, 16), block


def _merge(
    state: Lowering,
    kernel: Kernel,
    name: str,
    partial: tuple[str, Size, int],
    store: Helper,
    split: int,
    blocks: tuple[int, int],
    *moved: traffic.Traffic,
) -> None:
    """Launch what merges the statistics of tiles, in so many groups.
    ``partial``: their buffer, how many tiles there are, how many channels."""
    (buffer, parts, c), (rows, block) = partial, blocks
    operands = [Pointer(buffer, "partial"), store, Text(parts.text("tl.cdiv"))]
    constants = {"C": c, "SPLIT": split, "BLOCK_P": rows, "BLOCK": block}
    state.add(
        name,
        kernel,
        Call("merge_stats", operands, constants),
        (cdiv(c, block),) if split == 1 else (cdiv(c, block), split),
        _tile(rows, block),
        kind="merge_stats",
        finishes=True,
        traffic=[traffic.loads(buffer, parts * (5 * c)), *moved],
    )


def _statistics(state: Lowering, kernel: Kernel, node: Node, name: str, c: int) -> Finished:
    """The function that stores merged statistics and updates the running ones."""
    place = state.plan.place(node.name)
    row = f"stats + {place.offset} + channel" if place.offset else "stats + channel"
    lines = [
        f"tl.store({row}, mean, mask=mask)",
        f"tl.store(stats + {place.offset + place.pitch} + channel, m2 / count, mask=mask)",
    ]
    inputs: dict[Argument, str] = {}
    outputs: dict[Argument, str] = {place.buffer: "stats"}
    for update in kernel.nodes:
        if update.row.updates and state.plan.storage(update.inputs[1]) == node.name:
            start = state.plan.place(update.inputs[1]).offset - place.offset
            width = state.plan.type(update.name).per_image[0]
            which = update.op.removeprefix("running_") + (f"_{start}" if width < c else "")
            inputs[update.inputs[0]], outputs[update.name] = f"old_{which}", f"new_{which}"
            running = (Line(line, update.name) for line in _running(update, which, start, width, c))
            lines += [line for line in running if line not in lines]
    writes = tuple(map(str, outputs))
    store = helper(f"{name}_store", MERGED, {**inputs, **outputs}, lines, writes, node.name)
    moved = [traffic.loads(str(b), state.plan.type(str(b)).per_image[0]) for b in inputs]
    return Finished(store, (*moved, traffic.channels_stored(place.buffer, c, place.pitch)))


def _running(update: Node, which: str, start: int, width: int, c: int) -> list[str]:
    """The lines that update a running statistic, of all ``c`` channels or of one of several layers, from ``start``."""
    now = "mean" if update.op == "running_mean" else "(m2 / tl.maximum(count - 1.0, 1.0))"
    own, at, lines = "mask", "channel", []
    if width < c:
        own = f"inside_{start}"
        lines.append(f"{own} = (channel >= {start}) & (channel < {start + width})")
        at = f"channel - {start}" if start else at
    momentum = update.attrs["momentum"]
    return [
        *lines,
        f"old = tl.load(old_{which} + {at}, mask={own}, other=0.0)",
        f"tl.store(new_{which} + {at}, {1 - momentum!r} * old + {momentum!r} * {now}, mask={own})",
    ]
