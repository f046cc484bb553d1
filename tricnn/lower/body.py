"""Writes the small functions that a template calls: what it loads, and what it does with its result.

A :class:`Body` is one such function. It asks for values at a position (:class:`At`: which pixel, which channel). A
value is in a register already, or it is computed from its operands, or loaded from memory.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..compiler.plan import Kernel, Place, Plan
from ..ir.graph import Node
from ..ir.scalar_facts import FINITE, Known, of_zeros
from ..ir.table import Source
from .call import Helper, Line, helper
from .names import Argument, Scope, StepNumber
from .positions import At, Channels, FirstChannel, Image, LaterChannel, Load, Numbers, Rounded, Sources
from .program import TRITON, element

#: what variables are called that hold results of operations with long names
SHORT = {"conv2d": "conv", "max_pool2d": "pooled", "avg_pool2d": "pooled", "max_pool2d_index": "position"}

#: names that a function's parameters have, or functions that expressions call
RESERVED = ("args", "pixel", "channel", "mask", "part", "acc", "tl", "window", "split", "row", "expm1", "log1p")

#: The computation of a value, as a generator: it yields the computations of its operands, is sent their results, and
#: returns the name or text of its own. So a chain of any length is computed without recursion.
Steps = Generator[Any, Any, str]


def done(steps: Steps) -> str:
    """The result of a computation, and of all those that it asks for."""
    waiting: list[Steps] = [steps]
    result: Any = None
    while waiting:
        try:
            waiting.append(waiting[-1].send(result))
            result = None
        except StopIteration as end:
            waiting.pop()
            result = end.value
    return str(result)


def _names(line: str) -> set[str]:
    """The variables and modules that a line of a function names."""
    return {node.id for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)}


@dataclass(frozen=True)
class Described:
    """The descriptor by which tiles with a corner are loaded or stored at a place, in boxes of this size."""

    name: str
    box: tuple[int, ...]

    def loaded(self, argument: str, corner: str) -> str:
        """The text of a tile, [pixels, channels], that is loaded by it."""
        load = f"{argument}.load([{corner}])"
        return load if len(self.box) == 2 else f"{load}.reshape({prod(self.box[:-1])}, {self.box[-1]})"

    def stored(self, argument: str, corner: str, tile: str) -> str:
        """The text that stores such a tile by it."""
        boxed = tile if len(self.box) == 2 else f"({tile}).reshape({', '.join(map(str, self.box))})"
        return f"{argument}.store([{corner}], {boxed})"


class Body:
    """One generated function while it is written: its lines, what it loads and stores, and what is in registers."""

    def __init__(self, plan: Plan, kernel: Kernel, storage: str, wide: bool = False):
        self.plan, self.kernel, self.storage, self.wide = plan, kernel, storage, wide
        self.lines: list[Line] = []
        self.layer = kernel.anchor.name  # the node whose lines are being written
        self.args: dict[Argument, str] = {}  # buffer or number -> the name of the argument
        self.written: dict[str, str] = {}  # buffer or descriptor that is stored to -> the name of the argument
        self.known: dict[tuple[Hashable, At], str] = {}  # what is in a register -> its name
        self.loads: list[Load] = []
        self.stores: dict[str, set[Channels]] = {}  # buffer -> the channels that are written
        #: the name of a pixel -> the pixel that is computed of it, and of which rows and columns that one is made
        self.elsewhere: dict[str, tuple[str, Sources, Sources]] = {}
        #: gives a descriptor of where a value lies, by which tiles are loaded and stored that have a corner
        self.described: Callable[[Place, At], Described | None] = lambda place, at: None
        self.sides: list[tuple[Node, str]] = []  # side sums, and the buffer of their partial results
        #: what the function returns, for its template to sum up over pixels; None where tiles leave sums of their own
        self.terms: list[str] | None = None
        self.scope = Scope(RESERVED)
        self._texts: dict[str, str] = {}  # a variable -> the expression that it was assigned

    # --- names ------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A name that no variable of the function has."""
        return self.scope.take(stem)

    def argument(self, value: str | StepNumber, stem: str) -> str:
        """The name under which the function reads a value's buffer, or a number of the launch."""
        argument = value if isinstance(value, StepNumber) else self.plan.place(value).buffer
        if argument not in self.args:
            known = self.written.get(argument) if isinstance(argument, str) else None
            self.args[argument] = known or self.name(stem)
        return self.args[argument]

    def result(self, buffer: str, stem: str) -> str:
        """The name under which the function stores to a buffer or descriptor."""
        if buffer not in self.written:
            self.written[buffer] = self.args.get(buffer) or self.name(stem)
        return self.written[buffer]

    def write(self, line: str, layer: str = "") -> None:
        """Add a line: of ``layer``, or else of the node that is being computed."""
        self.lines.append(Line(line, layer or self.layer))

    def let(self, stem: str, expression: str) -> str:
        """The name of a new variable that has this value."""
        name = self.name(stem)
        self.write(f"{name} = {expression}")
        self._texts[name] = expression
        return name

    def once(self, what: Hashable, at: At, stem: str, expression: str) -> str:
        """The name of a variable that has this value, which is assigned where it is first asked for."""
        if (what, at) not in self.known:
            self.known[what, at] = self.let(stem, expression)
        return self.known[what, at]

    # --- values ------------------------------------------------------------

    def value(self, raw: str, at: At, stem: str, wide: bool = True) -> str:
        """The name of a variable that holds a value at a position: in fp32, or as it is stored unless ``wide``."""
        return done(self._value(raw, at, stem, wide))

    def _value(self, raw: str, at: At, stem: str, wide: bool = True) -> Steps:
        """The computation of the name of a variable that holds a value.
        The value is in a register already, or a number that the graph gives, or it is loaded or computed here."""
        value = self.plan.storage(raw)
        if self.plan.graph.by_name[raw].row.row_of:  # another row of the same storage is another vector
            return self.vector(raw, stem, at)
        if (value, at) in self.known:
            return self.known[value, at]
        node = self.kernel.by_name.get(value)
        source = self.plan.graph.by_name[value]
        if source.row.source is Source.CONSTANT:
            return repr(float(source.attrs["value"]))
        type_ = self.plan.type(raw)
        if len(type_.shape) == 0:
            found = self.let(stem, f"tl.load({self.argument(value, stem)})")
            self.loads.append(Load("number", self.plan.place(value).buffer, at))
        elif len(type_.shape) == 1 and not type_.batched:
            found = self.vector(raw, stem, at)
        elif node is not None and node.row.cuts:
            found = yield self._value(node.inputs[0], self.shifted(node, at), stem, wide)
        elif node is not None:
            found = yield self._compute(node, at)
        else:
            found = self.load(value, stem, at, wide)
        self.known[value, at] = found
        return found

    def load(self, value: str, stem: str, at: At, wide: bool = False) -> str:
        """The name of a variable that was loaded from memory, converted to fp32 if ``wide``."""
        place, stored = self.plan.place(value), element(self.plan.type(value), self.storage)
        other = "0" if stored == "u8" else "0.0"
        bytes_ = stored == "u8" and not self.plan.graph.by_name[value].row.index
        suffix = ".to(tl.float32)" if wide and (stored in ("fp16", "bf16") or bytes_) else ""
        described = self.described(place, at) if at.corner else None
        if described:
            descriptor = described.name
            argument = self.args.setdefault(descriptor, self.written.get(descriptor) or self.name(stem))
            load = described.loaded(argument, self.corner(at)) + suffix
        else:
            argument = self.argument(value, stem)
            load = f"tl.load({argument} + {self.offset(at, value)}, mask={at.mask}, other={other}){suffix}"
        self.loads.append(Load("tile", place.buffer, at, self.channels(at, value)))
        return self.let(f"{stem}_tile", load)

    def offset(self, at: At, value: str | None = None) -> str:
        """The text of a value's index at a position, counted in elements of its buffer."""
        width, start = at.width, 0
        if value is not None and self.plan.place(value).buffer != value:
            width, start = self.plan.place(value).pitch, self.plan.place(value).offset
        return f"{self.row(at.pixel, width)} + {at.channel}" + (f" + {start}" if start else "")

    @staticmethod
    def corner(at: At) -> str:
        """The text of a tile's first pixel and channel."""
        assert at.corner is not None
        return ", ".join(at.corner)

    def row(self, pixel: str, width: int) -> str:
        """The text of the index at which a pixel's elements begin; of 64 bits where it may be 2**31 or more."""
        pixel = f"{pixel}.to(tl.int64)" if self.wide else pixel
        return f"{pixel} * {width}" if width > 1 else pixel

    def channels(self, at: At, value: str) -> Channels:
        """The channels of a value's buffer that are seen at a position."""
        place, (first, last) = self.plan.place(value), at.channels
        begin, pitch = (0, at.width) if place.buffer == value else (place.offset, place.pitch)
        if at.seen is None:
            return Channels(first + begin, last + begin, pitch)
        seen = at.seen  # of the value's own elements, in steps so small that all bounds are whole numbers
        first, last = (begin * seen.width + n * at.width for n in (seen.first, seen.last))
        return Channels(first, last, pitch * seen.width)

    def shifted(self, node: Node, at: At) -> At:
        """The position, in the tensor that ``node`` cuts channels from, of what is at ``at`` in the slice."""
        start, width = node.attrs["start"], self.plan.type(node.inputs[0]).channel_count
        first, last = at.channels
        channel = at.channel
        if start:
            channel = self.once(LaterChannel(start), at, "whole_channel", f"{channel} + {start}")
        return replace(at, channel=channel, width=width, first=first + start, count=last - first)

    def vector(self, raw: str, stem: str, at: At, row: int = 0, called: str = "") -> str:
        """The name of a variable with one number for each channel: of a vector, or of a row of statistics.
        The argument is named by ``stem``, and the variable, too, unless it is ``called`` otherwise."""
        place, count = self.plan.place(raw), self.plan.type(raw).channel_count
        offset = place.offset + row * place.pitch
        argument = self.argument(place.buffer, stem)
        key = Numbers(place.buffer, offset), at
        if key not in self.known:
            where = f"{argument} + {offset} + {at.channel}" if offset else f"{argument} + {at.channel}"
            known = f"mask={at.channel} < {count}, other=0.0"
            self.known[key] = self.let(f"{called or stem}_c", f"tl.load({where}, {known})")
            total = self.plan.type(place.buffer).elements(1)
            self.loads.append(Load("vector", place.buffer, at, Channels(offset, offset + count, total)))
        return self.known[key]

    def row_of(self, raw: str, at: At) -> str:
        """The name of a variable with rows of a value that has no batch, which are loaded by their numbers.
        Rows are statistics, or the filters and taps of a weight; a vector is one row."""
        place, (first, last) = self.plan.place(raw), at.channels
        one = len(self.plan.type(raw).shape) == 1
        width = self.plan.type(place.buffer).elements(1) if one else place.pitch
        begin = place.offset % width
        offset = f"{self.row(at.pixel, place.pitch)} + {at.channel}" + (f" + {place.offset}" if place.offset else "")
        self.loads.append(Load("tile", place.buffer, at, Channels(begin + first, begin + last, width)))
        return self.let("x_tile", f"tl.load({self.argument(raw, 'x')} + {offset}, mask={at.mask}, other=0.0)")

    def operand(self, node: Node, index: int, at: At) -> str:
        """The name of an operand of a node, in fp32."""
        return done(self.asked(node, index, at))

    def asked(self, node: Node, index: int, at: At) -> Steps:
        """The computation of an operand in fp32, for an expression to yield."""
        name = node.row.operand_names(len(node.inputs))[index]
        return self._owned(node.name, self._value(node.inputs[index], self.spread(node, index, at), name))

    def spread(self, node: Node, index: int, at: At) -> At:
        """The position of an operand of a scalar expression, for one of its result.
        ``[N, C, 1, 1]`` has a number for each image and channel, ``[N, 1, H, W]`` one for each pixel."""
        part, whole = self.plan.type(node.inputs[index]), self.plan.type(node.name)
        if node.row.scalar is None or not part.batched or part.shape == whole.shape:
            return at
        if part.spatial != whole.spatial:
            image = self.once(Image(), at, "image", f"{at.pixel} // {whole.pixels}")
            rows, columns = (Sources.of([0] * size, 1) for size in whole.spatial)
            self.elsewhere[image] = at.pixel, rows, columns
            at = replace(at, pixel=image, corner=None)
        if part.channels != whole.channels:
            first = self.once(FirstChannel(), at, "first_channel", f"{at.channel} * 0")
            lanes = (at.channels[1] - at.channels[0]) * at.lanes
            at = replace(at, channel=first, width=1, first=0, count=1, lanes=lanes, corner=None)
        return at

    def compute(self, node: Node, at: At) -> str:
        """The name of a node's result at a position, computed from its operands."""
        return done(self._compute(node, at))

    def _compute(self, node: Node, at: At) -> Steps:
        """The computation of the name of a node's result."""
        from .expressions import expression_of

        found = yield self._owned(node.name, expression_of(node)(self, node, at))
        before, self.layer = self.layer, node.name
        name = found if found.isidentifier() else self.let(SHORT.get(node.op, node.op), found)
        self.layer = before
        return name

    def _owned(self, layer: str, steps: Steps) -> Steps:
        """A computation whose own lines, those between its operands', are of ``layer``."""
        answer: Any = None
        while True:
            before, self.layer = self.layer, layer
            try:
                asked = steps.send(answer)
            except StopIteration as end:
                return str(end.value)
            finally:
                self.layer = before
            answer = yield asked

    # --- whole functions ------------------------------------------------------------

    def function(self, name: str, parameters: str, lines: Sequence[str]) -> Helper:
        """The finished function: these lines, behind one that unpacks the arguments which they use."""
        needs = dict[Argument, str]([*self.args.items(), *self.written.items()])
        return helper(name, parameters, needs, lines, tuple(self.written), self.kernel.anchor.name)

    def load_function(
        self, name: str, raw: str, width: int, stem: str, *, zeros: bool = True, ahead: Body | None = None
    ) -> Helper:
        """``load(pixel, channel, mask, args)`` of one operand, which is computed in fp32 or returned as it is stored.
        It gives 0 where the mask is not set, unless no ``zeros`` are needed there. With ``ahead``, as of :meth:`split`,
        it is ``load(pixel, channel, mask, inside, given, args)`` and gives 0 where ``inside`` is not set."""
        if ahead is None:
            return self._load_function(name, self._tile(raw, width, stem, zeros)[0])
        self.scope.reserve("inside")
        tile, _ = self._tile(raw, width, stem, zeros, where="inside")
        head = "pixel, channel, mask, inside, given, args"
        return self.function(name, head, self.split(ahead, [Line(f"return {tile}")]))

    def load_multiplied(
        self,
        name: str,
        raw: str,
        width: int,
        stem: str,
        *,
        tf32: bool = False,
        zeros: bool = True,
        corner: tuple[str, ...] | None = None,
    ) -> Helper:
        """``load(pixel, channel, mask, args)`` of an operand that tensor cores multiply.
        One that is computed is rounded to the storage type, one that is multiplied as it lies in memory to tf32, if
        that is asked for. With a ``corner``, its names are parameters before the last."""
        tile, computed = self._tile(raw, width, stem, zeros, corner)
        if computed:
            tile = self.rounded(tile, self.storage)
        elif tf32:
            tile = f"round_to_tf32({tile})"
        return self._load_function(name, tile, corner)

    def _tile(
        self, raw: str, width: int, stem: str, zeros: bool, corner: tuple[str, ...] | None = None, where: str = "mask"
    ) -> tuple[str, bool]:
        """The text of an operand's tile, and whether it is computed here."""
        value = self.plan.storage(raw)
        computed = self.computed(value)
        self.scope.reserve(*(corner or ()))
        tile = self.value(raw, At("pixel", "channel", "mask", width, corner=corner), stem, wide=computed)
        if computed and zeros and not self.keeps_zero(value):
            return f"tl.where({where}, {tile}, 0.0)", True
        if not computed and tile in self._texts and self.lines[-1] == f"{tile} = {self._texts[tile]}":
            self.lines.pop()  # a load that is all there is to return
            return self._texts[tile], False
        return tile, computed

    def _load_function(self, name: str, tile: str, corner: tuple[str, ...] | None = None) -> Helper:
        head = ", ".join(["pixel", "channel", "mask", *(corner or ()), "args"])
        return self.function(name, head, [*self.lines, f"return {tile}"])

    def computed(self, value: str) -> bool:
        """Whether a value is computed here, rather than loaded; a slice of what is loaded is loaded."""
        return self.is_computed(self.plan, self.kernel, value)

    @staticmethod
    def is_computed(plan: Plan, kernel: Kernel, value: str) -> bool:
        """Whether a kernel computes a value as it loads; a slice of what is loaded is loaded."""
        node = kernel.by_name.get(plan.storage(value))
        while node is not None and node.row.cuts:
            node = kernel.by_name.get(plan.storage(node.inputs[0]))
        return node is not None

    def keeps_zero(self, value: str) -> bool:
        """Whether a value is 0 where all that is loaded for it is 0: where the mask is not set."""
        known: dict[str, Known] = {}

        def operand(raw: str) -> Known:
            return known.get(self.plan.storage(raw), 0.0 if self.plan.type(raw).batched else FINITE)

        for node in self.kernel.nodes:
            if node.row.scalar is not None:
                names = node.row.operand_names(len(node.inputs))
                operands = dict(zip(names, map(operand, node.inputs), strict=True))
                known[node.name] = of_zeros(node.row.scalar, node.attrs, operands)
            else:
                known[node.name] = 0.0 if node.row.keeps_zero and operand(node.inputs[0]) == 0.0 else FINITE
        return known.get(value, 0.0) == 0.0

    def rounded(self, expression: str, dtype: str) -> str:
        """The text of an fp32 expression rounded to a type."""
        return expression if dtype == "fp32" else f"round_to({expression}, {TRITON[dtype]})"

    def split(self, ahead: Body, end: Sequence[Line]) -> list[Line]:
        """The lines of a function, and those of its ``end``, without what depends on nothing but the channel.
        That is left to ``ahead``, a function(channel, args) whose results are its parameter ``given``: a template that
        calls it for one pixel after another has them once."""
        return self._left_to(ahead, "given", {"channel"}, end, "vector", "number")

    def split_loads(self, beside: Body, end: Sequence[Line]) -> list[Line]:
        """The lines of a function, and those of its ``end``, without the tiles that are loaded.
        That is left to ``beside``, a function(pixel, channel, mask, args) whose results are its parameter."""
        return self._left_to(beside, "beside", {"pixel", "channel", "mask"}, end, "tile")

    def _left_to(self, other: Body, parameter: str, known: set[str], end: Sequence[Line], *kinds: str) -> list[Line]:
        """The lines of a function, without those that need nothing but ``known``, which are left to another one.
        Of the lines that might be, those are that loads of these kinds need, or all where it is not tiles."""
        self.scope.reserve(parameter)
        might, known = list[tuple[Line, str, set[str]]](), {"tl", *known, *self.args.values()}
        for line in self.lines:
            assigned = ast.parse(line).body[0]
            names, target = _names(line), assigned.targets[0] if isinstance(assigned, ast.Assign) else None
            if isinstance(target, ast.Name) and names - {target.id} <= known:
                known.add(target.id)
                might.append((line, target.id, names))
        if "tile" in kinds:
            wanted = set[str]()
            for line, made, needs in reversed(might):
                wanted |= needs if made in wanted or "tl.load(" in line else set()
            might = [one for one in might if one[1] in wanted]
        taken = {id(line) for line, _, _ in might}
        kept = [line for line in self.lines if id(line) not in taken]
        used = {name for line in (*kept, *end) for name in _names(line)}
        given = [target for _, target, _ in might if target in used]
        other.lines += [line for line, _, _ in might]
        needed = {name for _, _, names in might for name in names}
        other.args = {a: n for a, n in self.args.items() if n in needed}
        other.elsewhere = self.elsewhere
        self.args = {a: n for a, n in self.args.items() if n in used}
        other.loads = [load for load in self.loads if load.kind in kinds]
        self.loads = [load for load in self.loads if load.kind not in kinds]
        tuple_ = f"({', '.join(given)}{',' * (len(given) == 1)})"
        if might:
            other.write(f"return {tuple_}")
        return [*([Line(f"{tuple_} = {parameter}", self.layer)] if given else []), *kept, *end]

    def store(self, value: str, variable: str, at: At, *, as_it_is: bool = False) -> None:
        """Write a value that is in a register, rounded to the type it is stored in unless it is ``as_it_is``."""
        before, self.layer = self.layer, value if value in self.kernel.by_name else self.layer
        dtype = element(self.plan.type(value), self.storage)
        place = self.plan.place(value)
        described = self.described(place, at) if at.corner else None
        argument = self.result(described.name if described else place.buffer, f"{variable}_out")
        self.stores.setdefault(place.buffer, set()).add(self.channels(at, value))
        rounded = f"{variable}.to(tl.uint8)" if dtype == "u8" else self.rounded(variable, dtype)
        rounded = variable if as_it_is else rounded
        summed = any(n.row.side_sum == "stored" and n.inputs[0] == value for n in self.kernel.nodes)
        if rounded != variable and summed:
            rounded = self.let(f"{variable}_stored", rounded)
            self.known[Rounded(value), at] = rounded
        if described:
            self.write(described.stored(argument, self.corner(at), rounded))
        else:
            self.write(f"tl.store({argument} + {self.offset(at, value)}, {rounded}, mask={at.mask})")
        self.layer = before
