"""Lowering of what is made of weights and their gradients filter by filter."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..compiler.plan import Kernel
from ..ir.graph import Node
from ..machine import tiles
from . import traffic
from .call import Call, Helper, Line, Pointer, Text, helper
from .lowering import Lowering
from .names import Argument, Scope
from .partial_sums import PartialResults, lower_split_sum
from .size import Size

#: how many parts, and how many numbers of each, a program adds up at once
PARTS, NUMBERS = 16, 256

#: what a number of the weight's gradient is called in the text
EACH = "dw"


def found_by_filter(kernel: Kernel) -> bool:
    """Does the kernel of a weight gradient make something of it filter by filter?"""
    return bool(_of_filters(kernel))


def _of_filters(kernel: Kernel) -> list[Node]:
    """What the kernel of a weight gradient makes of it filter by filter."""
    return [node for node in kernel.nodes if node.row.of_filters]


def finish_weight_gradient(state: Lowering, kernel: Kernel, partial: PartialResults, dw: str, db: str | None) -> None:
    """Lower what comes after the programs of a weight gradient: their ``partial`` results are added up.
    What the kernel makes of them filter by filter is made on the way."""
    if found_by_filter(kernel):
        known = {dw: EACH} | ({db: "db"} if db else {})
        filters = _Filters(state, kernel, _of_filters(kernel), state.plan.type(dw).per_image, known)
        filters.launch(f"{kernel.name}_filters", partial, bool(db))
    else:
        lower_split_sum(state, kernel, partial, dw, db)


def lower_filters(state: Lowering, kernel: Kernel) -> None:
    """Lower such an operation by itself: its first operand lies in memory, one part of itself."""
    value = kernel.anchor.inputs[0]
    place, count = state.plan.place(value), prod(state.plan.type(value).per_image)
    results = PartialResults(place.buffer, Size.of(1), count, count)
    filters = _Filters(state, kernel, kernel.nodes, state.plan.type(value).per_image, {state.plan.storage(value): EACH})
    filters.launch(kernel.name, results, False, place.offset)


def lower_standardized(state: Lowering, kernel: Kernel) -> None:
    """Lower standardize_filters, or its gradient: one program for each filter."""
    node, plan = kernel.anchor, state.plan
    weight = plan.type(node.name).per_image
    length, places = prod(weight[1:]), [plan.place(v) for v in (*node.inputs, node.name)]
    names = ("w", "y") if len(node.inputs) == 1 else ("dy", "w", "dw")
    pointers = [Pointer(p.buffer, stem, stem == names[-1], p.offset) for p, stem in zip(places, names)]
    block, numbers = min(tiles.power_of_two(length), NUMBERS), {k.upper(): v for k, v in node.attrs.items()}
    loads = {"w": 3} if len(node.inputs) == 1 else {"dy": 2, "w": 4}
    elements = [plan.type(p.buffer).elements(1) for p in places]
    moved = [
        traffic.loads(p.buffer, loads[stem] * weight[0] * length, weight[0] * length / whole)
        for p, stem, whole in zip(places[:-1], names, elements)
    ]
    state.add(
        kernel.name,
        kernel,
        Call(node.op, pointers, {"L": length, **numbers, "BLOCK": block}),
        (weight[0],),
        tiles.Tile(1, block, 1, 4, 1),
        kind=node.op,
        traffic=[*moved, traffic.channels_stored(places[-1].buffer, weight[0] * length, elements[-1])],
    )


class _Filters:
    """The two functions that `finish_filters` is given, while they are written: for each number, and for a filter.
    ``nodes`` are what they compute of a weight or its gradient, ``known`` the values that it has in registers."""

    def __init__(
        self, state: Lowering, kernel: Kernel, nodes: Sequence[Node], shape: Sequence[int], known: dict[str, str]
    ):
        self.state, self.kernel, self.known = state, kernel, known
        self.nodes = nodes
        self.filters, self.length = shape[0], prod(shape[1:])
        self.block = min(tiles.power_of_two(self.length), NUMBERS)
        self.each, self.whole = _Written(), _Written()
        self.moved: list[traffic.Traffic] = []
        self.terms = EACH  # what each number adds to the filter's sum

    def launch(self, name: str, partial: PartialResults, bias: bool, first: int = 0) -> None:
        """Launch what adds the parts up, from element ``first`` of their buffer on."""
        state, kernel, anchor = self.state, self.kernel, self.kernel.anchor.name
        for value in kernel.writes:
            if value in self.known:
                self.write(value, self.known[value] == EACH, self.known[value])
        for node in self.nodes:
            self.add(node)
        self.each.lines.append(Line(f"return {self.terms}"))
        functions = (
            self.each.function(f"{name}_each", f"{EACH}, row, element, mask, args", anchor),
            self.whole.function(f"{name}_store", "terms, db, row, args", anchor),
        )
        rows = min(tiles.power_of_two(partial.parts.at(state.batch)), PARTS)
        constants = {"L": self.length, "STRIDE": partial.length, "BIAS": partial.total if bias else 0}
        loaded = partial.parts * (partial.length if bias else partial.total)
        share = min(1.0, loaded.at(state.batch) / state.buffers[partial.buffer].size.at(state.batch))
        parts = Text(partial.parts.text("tl.cdiv"))
        state.add(
            name,
            kernel,
            Call(
                "finish_filters",
                [Pointer(partial.buffer, "partial", first=first), *functions, parts],
                {**constants, "BLOCK_P": rows, "BLOCK": self.block},
            ),
            (self.filters,),
            tiles.Tile(rows, self.block, 1, 4, 1),
            kind="finish_filters",
            finishes=True,
            traffic=[traffic.loads(partial.buffer, loaded, share), *self.moved],
        )

    def add(self, node: Node) -> None:
        """Write what an operation computes, of each number or of all of a filter's."""
        if len(node.inputs) == 1:
            self.write(node.name, False, "terms")
            return
        first, second, *sums = node.inputs
        if node.row.collapses:
            self.terms = f"{EACH} * {self.numbers(second, 'weight')}"
            vectors = [self.number(v, stem, self.whole) for v, stem in zip(sums, ("sums", "bias"))]
            self.write(node.name, False, f"terms + {' * '.join(vectors)}" if vectors else "terms")
            return
        each = self.of(first) == EACH
        value = EACH if each else self.number(first, "sums", self.whole)
        self.write(node.name, each, f"{value} * {self.number(second, 'scale', self.each if each else self.whole)}")

    def of(self, raw: str) -> str:
        """The register that a value is in; empty if it is loaded."""
        return self.known.get(self.state.plan.storage(raw), "")

    def numbers(self, raw: str, stem: str) -> str:
        """The text of a filter's numbers, of a weight as products read it."""
        buffer, place = self.state.multiplied(raw), self.state.plan.place(raw)
        start = place.offset if buffer == place.buffer else 0
        self.loaded(buffer, place.buffer, self.filters * self.length, self.filters * self.length)
        name = self.each.name(buffer, stem)
        return f"tl.load({name} + {f'{start} + ' * (start > 0)}element, mask=mask, other=0.0).to(tl.float32)"

    def number(self, raw: str, stem: str, written: _Written) -> str:
        """The text of a vector's number for the filter."""
        if found := self.of(raw):
            return found
        place = self.state.plan.place(raw)
        calls = self.filters * (-(-self.length // self.block) if written is self.each else 1)
        self.loaded(place.buffer, place.buffer, calls, self.filters)
        return f"tl.load({written.name(place.buffer, stem)} + {f'{place.offset} + ' * (place.offset > 0)}row)"

    def loaded(self, buffer: str, whole: str, times: int, count: int) -> None:
        """Count that so many elements are loaded, of ``count`` that there are within a value."""
        self.moved.append(traffic.loads(buffer, times, count / self.state.plan.type(whole).elements(1)))

    def write(self, value: str, each: bool, text: str) -> None:
        """Store a value: the filter's numbers, or its one number."""
        plan, written = self.state.plan, self.each if each else self.whole
        place = plan.place(value)
        where = written.name(place.buffer, "out") + (f" + {place.offset}" if place.offset else "")
        line = f"tl.store({where} + element, {text}, mask=mask)" if each else f"tl.store({where} + row, {text})"
        written.lines.append(Line(line, value))
        written.stores.append(place.buffer)
        count = prod(plan.type(value).per_image)
        self.moved.append(traffic.channels_stored(place.buffer, count, plan.type(place.buffer).elements(1)))


class _Written:
    """A function while it is written: its lines, the names of its arguments, and the buffers that it stores to."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.needs: dict[Argument, str] = {}
        self.stores: list[str] = []
        self.scope = Scope({"args", "tl", "row", "element", "mask", "terms", "db", EACH})

    def name(self, buffer: str, stem: str) -> str:
        """The name of a buffer in the function."""
        if buffer not in self.needs:
            self.needs[buffer] = self.scope.take(stem)
        return self.needs[buffer]

    def function(self, name: str, parameters: str, layer: str) -> Helper:
        """The finished function."""
        return helper(name, parameters, self.needs, self.lines or [Line("pass")], tuple(self.stores), layer)
