"""Side sums that the last program of a launch finishes, where a launch of their own would take longer.

Every program leaves its part and counts itself (`is_last` of kernels/arrivals.py). Of one block of channels the last of
all programs adds the parts up; where there are many, they come in groups, of which the last program puts the sum in the
place of the group's first part, and the last of those that did adds these up. Which parts are a group, and their
order, depend on their numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ..compiler.cost import LAUNCH
from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from ..machine.machines import machine_of
from ..machine.targets import TARGETS
from . import traffic
from .body import Body
from .call import Helper, Line
from .lowering import Lowering
from .names import ARRIVALS, Argument, Scope, StepNumber
from .partial_sums import MANY, Finished, finished_statistics, finished_sum, waits_for_the_last_launch
from .program import Buffer
from .size import Size, cdiv

#: what a template tells of a program that has left its part
ARRIVED = "block, first, end, part, parts, args"
#: numbers of a part that a thread has at once; and where programs are so small that four share a multiprocessor, which
#: more than 128 registers for the merge of statistics would leave to two of them
AT_ONCE, FEWER_AT_ONCE = 32, 16
#: a program of more warps adds up only as many parts at once as one of so many warps would: its threads then need no
#: more than 128 registers for it, and two programs of 8 warps fit a multiprocessor
ADDING = 4
#: seconds, by simulation: of a program to see its stores done and to be counted; of the last one for each round of
#: parts; of a launch for each pass over its parts, and for each further round of a pass
ARRIVE, ROUND, PASS, FURTHER = 0.7e-6, 0.8e-6, 2.0e-6, 0.45e-6
#: warps of a multiprocessor that products have registers for: as many programs run there as have these; twice as many
#: where an epilogue loads no tiles
WARPS = 8
#: characters of a line
LINE = 100
#: parts that a launch of its own adds in one round
LAUNCHED_AT_ONCE = 512


@dataclass(frozen=True)
class Ends:
    """How a launch ends whose last programs finish its side sums.
    The function that does it, what that moves, and the buffers of parts, with the elements of them that are stored once
    more."""

    finish: Helper
    moved: tuple[traffic.Traffic, ...]
    handed_on: dict[str, Size]


@dataclass(frozen=True)
class Parts:
    """The parts of sums that a launch leaves.
    There are ``count`` of ``channels``, in ``blocks`` of ``width`` channels; a program adds up to ``rows`` of them at
    once, and where they come in groups there are so many in each."""

    count: Size
    channels: int
    blocks: int
    width: int
    rows: int
    grouped: bool

    @property
    def groups(self) -> Size:
        return cdiv(self.count, self.rows)

    @property
    def counters(self) -> Size:
        """How many counters of arrivals a launch needs: one for each block of sums, and for each of its groups."""
        return (self.groups + 1) * self.blocks if self.grouped else Size.of(self.blocks)

    def loaded(self, moments: bool) -> Size:
        """Elements that are loaded of such parts: of statistics, counts and means twice, but in groups."""
        last = self.groups if self.grouped else self.count
        first = self.count if self.grouped else Size()
        return first * ((3 if moments else 2) * self.channels) + last * ((5 if moments else 2) * self.channels)


def ends(
    state: Lowering, kernel: Kernel, body: Body, count: Size, channels: int, tile: tiles.Tile, blocks: int,
    rounds: int = 1, small: bool = False,
) -> Ends | None:  # fmt: skip
    """How a launch ends that leaves side sums in ``count`` parts, if its last programs finish them.
    The sums are left by ``blocks`` of at most ``tile.n`` channels. None where launches of their own finish them: it
    leaves none, the target cannot say that all programs have come, the launch that adds all weight gradients does it,
    or that is predicted to be faster. ``small``: four programs share a multiprocessor."""
    sides = body.sides
    if not sides or not TARGETS[state.target].arrivals:
        return None
    if any(waits_for_the_last_launch(state, node.name, count) for node, _ in sides if not node.row.moments):
        return None
    parts = _parts(count, channels, blocks, tile, tile.warps, state.batch, rounds)
    warps = WARPS if any(load.kind == "tile" for load in body.loads) else 2 * WARPS
    if not _pays(parts, max(1, warps // tile.warps), [node for node, _ in sides], state):
        return None
    parts = _parts(count, channels, blocks, tile, min(tile.warps, ADDING), state.batch, rounds, small)
    _count_arrivals(state, parts.counters)
    return _finishing(state, kernel, sides, parts)


def _parts(
    count: Size, channels: int, blocks: int, tile: tiles.Tile, warps: int, batch: int, rounds: int, small: bool = False
) -> Parts:  # fmt: skip
    """The parts of sums, added up by so many warps at once."""
    each, at = FEWER_AT_ONCE if small else AT_ONCE, count.at(batch)
    rows = max(1, 32 * warps * each // tile.n)
    return Parts(
        count, channels, blocks, tile.n, min(rows, tiles.power_of_two(at)), at > rows * rounds * AT_ONCE // each
    )


def _pays(parts: Parts, programs: int, sides: Sequence[Node], state: Lowering) -> bool:
    """Whether the last programs are predicted to finish sooner than launches do.
    Programs wait to be counted, those that run together (so many on a multiprocessor) at the same time, and the last
    ones add up alone."""
    count, machine = parts.count.at(state.batch), machine_of(state.target)
    together = programs * machine.multiprocessors
    last = ceil(count * parts.blocks / together) * ARRIVE + parts.grouped * ARRIVE
    launched = 0.0
    for node in sides:
        passes = 2 if node.row.moments else 1  # means first, then deviations from the mean
        rounds = ceil((count / parts.rows if parts.grouped else count) / parts.rows)
        last += (parts.grouped + passes * rounds) * ROUND
        launched += LAUNCH * (1 + (count > MANY)) + passes * (PASS + (ceil(count / LAUNCHED_AT_ONCE) - 1) * FURTHER)
    return last <= launched


def _count_arrivals(state: Lowering, counters: Size) -> None:
    """Have at least so many counters: launches follow one another, and each leaves zeros."""
    known = state.buffers[ARRIVALS].size if ARRIVALS in state.buffers else Size()
    if counters not in state.counters:
        state.counters.add(counters)
        state.buffers[ARRIVALS] = Buffer(ARRIVALS, "i32", known + counters, persistent=True)


def _finishing(state: Lowering, kernel: Kernel, sides: Sequence[tuple[Node, str]], parts: Parts) -> Ends:
    """The function that finishes these side sums."""
    name, scope = f"{kernel.name}_finish", Scope({*ARRIVED.split(", "), "tl", "channel", "mask", "groups", "group",
                                                  "own", "members", "count", "mean", "m2", "total"})  # fmt: skip
    needs: dict[Argument, str] = {ARRIVALS: scope.take("counters")}
    first: list[Line] = []
    last: list[Line] = []
    moved: list[traffic.Traffic] = []
    calls: list[Helper] = []
    handed_on: dict[str, Size] = {}
    for node, partial in sides:
        source = needs.setdefault(partial, scope.take("partial"))
        done = (finished_statistics if node.row.moments else finished_sum)(state, kernel, node, parts.channels)
        done = replace(done, store=_renamed(done.store, {call.name for call in calls}, state))
        for argument, stem in done.store.needs.items():
            if argument not in needs:
                needs[argument] = argument.value if isinstance(argument, StepNumber) else scope.take(stem)
        given = f"({''.join(f'{needs[a]}, ' for a in done.store.needs).strip()})"
        first += [Line(line, node.name) for line in _group(node, source, parts)]
        last += [Line(line, node.name) for line in _total(node, source, parts, done, given)]
        calls.append(done.store)
        moved += [traffic.loads(partial, parts.loaded(node.row.moments)), *done.moved]
        rows = (3 if node.row.moments else 2) * parts.channels
        handed_on[partial] = parts.groups * rows if parts.grouped else Size()
    lines = [*map(Line, _guarded(parts, first, last))]
    unpacked = Line(f"    {', '.join(needs.values())} = args")
    head = [Line("@triton.jit"), Line(f"def {name}({ARRIVED}):"), unpacked]
    stores = tuple(dict.fromkeys(buffer for call in calls for buffer in call.stores))
    finish = Helper(name, (*head, *lines), needs, stores, tuple(calls))
    return Ends(finish, tuple(moved), handed_on)


def _renamed(store: Helper, others: set[str], state: Lowering) -> Helper:
    """A function under a name that no other one has: of layers ``a.b`` and ``a_b`` only one has its own."""
    name, number = store.name, 2
    while name in others or name in state.scope:
        name, number = f"{store.name}{number}", number + 1
    head = (store.lines[0], Line(store.lines[1].replace(store.name, name, 1), store.lines[1].layer))
    return replace(store, name=name, lines=(*head, *store.lines[2:]))


def _guarded(parts: Parts, first: Sequence[Line], last: Sequence[Line]) -> list[Line]:
    """The lines by which the last program of a group runs ``first``, and the last program of all runs ``last``."""
    lines = [Line(f"channel = first + tl.arange(0, {parts.width})"), Line("mask = channel < end")]

    def within(head: str, inner: Sequence[Line]) -> list[Line]:
        return [Line(head), *(Line(f"    {line}", line.layer) for line in inner)]

    if parts.grouped:
        lines += map(Line, [
            f"groups, group = tl.cdiv(parts, {parts.rows}), part // {parts.rows}",
            f"members = tl.minimum(parts - group * {parts.rows}, {parts.rows})",
            "own = counters + block * (groups + 1)",
        ])  # fmt: skip
        inner = [*first, *within("if is_last(own, groups):", last)]
        lines += within("if is_last(own + 1 + group, members):", inner)
    else:
        lines += within("if is_last(counters + block, parts):", last)
    return [Line(f"    {line}", line.layer) for line in lines]


def _group(node: Node, source: str, parts: Parts) -> list[str]:
    """The line that puts the sums of a group in the place of its first part."""
    what, rows = ("merge_group", 3) if node.row.moments else ("add_group", 2)
    where = f"{source} + group * {parts.rows * rows * parts.channels}"
    return [f"{what}({where}, channel, mask, members, {parts.channels}, {parts.rows})"]


def _total(node: Node, source: str, parts: Parts, done: Finished, given: str) -> list[str]:
    """The lines that add all parts, or groups, up and store the result."""
    count, stride = ("groups", parts.rows) if parts.grouped else ("parts", 1)
    c, store = parts.channels, done.store.name
    if node.row.moments:
        of = f"{source}, channel, mask, {count}, {stride}, {c}, {parts.rows}"
        return [
            f"count, mean, m2 = merged_stats({of})",
            *_call(store, f"count, mean, m2, channel, mask, 0, {given}"),
        ]
    lines = []
    for at in ("channel", f"{c} + channel"):
        lines.append(f"total = added_up({source}, {at}, mask, {count}, {stride * 2 * c}, {parts.rows})")
        lines += _call(store, f"total, {at}, mask, 0, {given}")
    return lines


def _call(function: str, arguments: str) -> list[str]:
    """The line that calls a function, or three where one would be too long."""
    line = f"{function}({arguments})"
    return [line] if len(line) <= LINE else [f"{function}(", f"    {arguments}", ")"]
