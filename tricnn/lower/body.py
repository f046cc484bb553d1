"""Writes the small functions a template calls: what it loads, and what it does with its result.

A :class:`Body` is one such function. It asks for values at a place (:class:`At`: which pixel, which channel); a
value is either in a register already, recomputed from its operands (a prologue), or loaded from memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from ..compiler.plan import Kernel, Place, Plan
from ..ir.graph import Node
from ..ir.scalar import FINITE, Known, of_zeros
from .program import SCALARS, TRITON, element

SHORT = {"conv2d": "conv", "max_pool2d": "pooled", "avg_pool2d": "pooled", "max_pool2d_index": "position"}


#: what computes a value: it yields whatever it asks for, as steps of their own, is sent their results, returns its own
Steps = Generator[Any, Any, str]


def done(steps: Steps) -> str:
    """The result of steps, and of all that they ask for: the chain of those that wait is a list, however long."""
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


@dataclass(frozen=True)
class At:
    """A place: names of the pixel, channel and mask tensors, and how many elements lie between two pixels. Of those,
    only ``count`` channels from ``first`` are looked at, if not all. A tile of successive pixels and channels has a
    ``corner``, the names of the first of each."""

    pixel: str
    channel: str
    mask: str
    width: int
    first: int = 0
    count: int | None = None
    corner: tuple[str, str] | None = None
    lanes: int = 1  # how many channels of a tile load each element

    @property
    def channels(self) -> tuple[int, int]:
        return self.first, self.first + (self.width if self.count is None else self.count)


@dataclass(frozen=True)
class Windows:
    """Windows that do not overlap: rows and columns of them, of how many pixels, how far apart."""

    count: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class Load:
    """One load in a function: a ``tile`` at a place, a ``vector`` (a number per channel) or a ``number``. Of the
    ``width`` elements between two pixels of the buffer (or in all of a vector's) it reads ``first`` to ``last``."""

    kind: str
    buffer: str
    at: At
    first: int = 0
    last: int = 1
    width: int = 1


class Body:
    """One generated function under construction."""

    def __init__(self, plan: Plan, kernel: Kernel, storage: str, wide: bool = False):
        self.plan, self.kernel, self.storage, self.wide = plan, kernel, storage, wide
        self.lines: list[str] = []
        self.args: dict[str, str] = {}  # buffer or scalar -> the name of the argument
        self.written: dict[str, str] = {}
        self.known: dict[tuple[str, At], str] = {}  # values in registers
        self.loads: list[Load] = []
        self.stores: dict[str, set[tuple[int, int, int]]] = {}  # buffer -> which channels, of how many, are written
        self.windows: dict[str, tuple[str, Windows]] = {}  # a window's name -> that of a pixel in it, and of which
        #: gives a descriptor of where a value lies, by which tiles are stored that have a corner
        self.described: Callable[[Place], str | None] = lambda place: None
        self.sides: list[tuple[Node, str]] = []  # side sums, and the buffer of their partial results
        self.names: set[str] = {
            "args",
            "pixel",
            "channel",
            "mask",
            "part",
            "acc",
            "tl",
            "window",
            "split",
            "row",
            "expm1",
            "log1p",
        }

    # --- names ------------------------------------------------------------

    def name(self, stem: str) -> str:
        stem = re.sub(r"\W", "_", stem)
        candidate, count = stem, 1
        while candidate in self.names:
            count += 1
            candidate = f"{stem}{count}"
        self.names.add(candidate)
        return candidate

    def argument(self, value: str, stem: str) -> str:
        buffer = value if value in SCALARS else self.plan.place(value).buffer
        if buffer not in self.args:
            self.args[buffer] = self.written.get(buffer) or self.name(stem)
        return self.args[buffer]

    def result(self, buffer: str, stem: str) -> str:
        if buffer not in self.written:
            self.written[buffer] = self.args.get(buffer) or self.name(stem)
        return self.written[buffer]

    def let(self, stem: str, expression: str) -> str:
        name = self.name(stem)
        self.lines.append(f"{name} = {expression}")
        return name

    # --- values ------------------------------------------------------------

    def value(self, raw: str, at: At, stem: str, wide: bool = True) -> str:
        """The name of a variable that holds a value at a place: fp32, or as it is stored unless ``wide``."""
        return done(self._value(raw, at, stem, wide))

    def _value(self, raw: str, at: At, stem: str, wide: bool = True) -> Steps:
        value = self.plan.storage(raw)
        if (value, at) in self.known:
            return self.known[value, at]
        node = self.kernel.by_name.get(value)
        source = self.plan.graph.by_name[value]
        if source.op == "fill":
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
        """Load from memory; ``wide`` converts to fp32 at once."""
        argument = self.argument(value, stem)
        stored = element(self.plan.type(value), self.storage)
        other = "0" if stored == "u8" else "0.0"
        suffix = ".to(tl.float32)" if wide and stored in ("fp16", "bf16") else ""
        load = f"tl.load({argument} + {self.offset(at, value)}, mask={at.mask}, other={other}){suffix}"
        self.loads.append(Load("tile", self.plan.place(value).buffer, at, *self.part(at, value)))
        return self.let(f"{stem}_tile", load)

    def offset(self, at: At, value: str | None = None) -> str:
        """Which element is at a place; of a value that lies within another one, which of the other one's."""
        width, start = at.width, 0
        if value is not None and self.plan.place(value).buffer != value:
            width, start = self.plan.place(value).pitch, self.plan.place(value).offset
        return f"{self.row(at.pixel, width)} + {at.channel}" + (f" + {start}" if start else "")

    def row(self, pixel: str, width: int) -> str:
        """Where a pixel of ``width`` elements begins; counted in 64 bits where there may be 2**31 elements or more."""
        pixel = f"{pixel}.to(tl.int64)" if self.wide else pixel
        return f"{pixel} * {width}" if width > 1 else pixel

    def part(self, at: At, value: str) -> tuple[int, int, int]:
        """Which channels of a value's buffer are seen at a place, and of how many."""
        place, (first, last) = self.plan.place(value), at.channels
        return (
            (first, last, at.width)
            if place.buffer == value
            else (first + place.offset, last + place.offset, place.pitch)
        )

    def shifted(self, node: Node, at: At) -> At:
        """The place in the whole of what is at ``at`` in a slice of it."""
        start, width = node.attrs["start"], self.plan.type(node.inputs[0]).channel_count
        first, last = at.channels
        channel = at.channel
        if start:
            key = (f"#channel+{start}", at)
            if key not in self.known:
                self.known[key] = self.let("whole_channel", f"{channel} + {start}")
            channel = self.known[key]
        return replace(at, channel=channel, width=width, first=first + start, count=last - first)

    def vector(self, raw: str, stem: str, at: At, row: int = 0) -> str:
        """One number per channel: of a vector, or of a row of statistics."""
        place, count = self.plan.place(raw), self.plan.type(raw).channel_count
        offset = place.offset + row * place.pitch
        argument = self.argument(place.buffer, stem)
        key = (f"{place.buffer}#{offset}", at)
        if key not in self.known:
            where = f"{argument} + {offset} + {at.channel}" if offset else f"{argument} + {at.channel}"
            self.known[key] = self.let(f"{stem}_c", f"tl.load({where}, mask={at.channel} < {count}, other=0.0)")
            total = self.plan.type(place.buffer).elements(1)
            self.loads.append(Load("vector", place.buffer, at, offset, offset + count, total))
        return self.known[key]

    def row_of(self, raw: str, at: At) -> str:
        """A tile of a value without a batch, row by row: statistics, the filters and taps of a weight; a vector is
        one."""
        place, (first, last) = self.plan.place(raw), at.channels
        one = len(self.plan.type(raw).shape) == 1
        width = self.plan.type(place.buffer).elements(1) if one else place.pitch
        begin = place.offset % width
        offset = f"{self.row(at.pixel, place.pitch)} + {at.channel}" + (f" + {place.offset}" if place.offset else "")
        self.loads.append(Load("tile", place.buffer, at, begin + first, begin + last, width))
        return self.let("x_tile", f"tl.load({self.argument(raw, 'x')} + {offset}, mask={at.mask}, other=0.0)")

    def operand(self, node: Node, index: int, at: At) -> str:
        """An operand in fp32."""
        return done(self.asked(node, index, at))

    def asked(self, node: Node, index: int, at: At) -> Steps:
        """The steps to an operand in fp32, for an expression to yield."""
        name = node.row.operand_names(len(node.inputs))[index]
        return self._value(node.inputs[index], self.spread(node, index, at), name)

    def spread(self, node: Node, index: int, at: At) -> At:
        """Where an operand of a scalar expression is for a place of its result: ``[N, C, 1, 1]`` has a number for each
        image, ``[N, 1, H, W]`` one for all channels."""
        part, whole = self.plan.type(node.inputs[index]), self.plan.type(node.name)
        if node.row.scalar is None or not part.batched or part.shape == whole.shape:
            return at
        if part.spatial != whole.spatial:
            key = ("#image", at)
            if key not in self.known:
                self.known[key] = self.let("image", f"{at.pixel} // {whole.pixels}")
            self.windows[self.known[key]] = at.pixel, Windows((1, 1), whole.spatial, whole.spatial)
            at = replace(at, pixel=self.known[key], corner=None)
        if part.channels != whole.channels:
            key = ("#first_channel", at)
            if key not in self.known:
                self.known[key] = self.let("first_channel", f"{at.channel} * 0")
            lanes = (at.channels[1] - at.channels[0]) * at.lanes
            at = replace(at, channel=self.known[key], width=1, first=0, count=1, lanes=lanes, corner=None)
        return at

    def compute(self, node: Node, at: At) -> str:
        """Evaluate a node at a place, operands first."""
        return done(self._compute(node, at))

    def _compute(self, node: Node, at: At) -> Steps:
        from .expressions import expression_of

        found = yield expression_of(node)(self, node, at)
        return found if found.isidentifier() else self.let(SHORT.get(node.op, node.op), found)

    # --- whole functions ------------------------------------------------------------

    def unpack(self) -> list[str]:
        names = list({**self.args, **self.written}.values())
        return [f"({names[0]},) = args" if len(names) == 1 else f"{', '.join(names)} = args"] if names else []

    def load_function(
        self, name: str, raw: str, width: int, stem: str, *, multiplied: bool = False, tf32: bool = False,
        zeros: bool = True,
    ) -> str:  # fmt: skip
        """``load(pixel, channel, mask, args)`` for one operand, prologue and all. A computed tile is fp32, unless it is
        to be ``multiplied``: then it is rounded to the storage type, for the tensor cores. One that lies in memory as
        it is multiplied is rounded if ``tf32`` says so. It is 0 where the mask is not set, unless no ``zeros`` are
        needed there."""
        at = At("pixel", "channel", "mask", width)
        value = self.plan.storage(raw)
        computed = self.computed(value)
        tile = self.value(raw, at, stem, wide=computed)
        if computed:
            if zeros and not self.keeps_zero(value):
                tile = f"tl.where(mask, {tile}, 0.0)"
            if multiplied:
                tile = self.rounded(tile, self.storage)
        elif self.lines and self.lines[-1].startswith(f"{tile} = "):
            tile = self.lines.pop().split(" = ", 1)[1]
        if tf32 and not computed:
            tile = f"round_to_tf32({tile})"
        return self.function(name, "pixel, channel, mask, args", [*self.lines, f"return {tile}"])

    def computed(self, value: str) -> bool:
        """Is it computed here, rather than loaded (a slice of what is loaded is)?"""
        node = self.kernel.by_name.get(value)
        while node is not None and node.row.cuts:
            node = self.kernel.by_name.get(self.plan.storage(node.inputs[0]))
        return node is not None

    def keeps_zero(self, value: str) -> bool:
        """Is a value 0 where all that is loaded for it is 0: where the mask is not set?"""
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
        return expression if dtype == "fp32" else f"round_to({expression}, {TRITON[dtype]})"

    def store(self, value: str, variable: str, at: At, *, as_it_is: bool = False) -> None:
        """Write a value that is in a register, rounded to the type it is stored in unless it is ``as_it_is``."""
        dtype = element(self.plan.type(value), self.storage)
        place = self.plan.place(value)
        buffer = place.buffer
        descriptor = self.described(place) if at.corner else None
        argument = self.result(descriptor or buffer, f"{variable}_out")
        self.stores.setdefault(buffer, set()).add(self.part(at, value))
        rounded = f"{variable}.to(tl.uint8)" if dtype == "u8" else self.rounded(variable, dtype)
        rounded = variable if as_it_is else rounded
        if rounded != variable and any(n.row.side_sum == "stored" and n.inputs[0] == value for n in self.kernel.nodes):
            rounded = self.let(f"{variable}_stored", rounded)
            self.known[value + "#stored", at] = rounded
        if descriptor and at.corner:
            corner = ", ".join(at.corner) + (f" + {place.offset}" if place.offset else "")
            self.lines.append(f"{argument}.store([{corner}], {rounded})")
        else:
            self.lines.append(f"tl.store({argument} + {self.offset(at, value)}, {rounded}, mask={at.mask})")

    def side_sum(self, node: Node, at: At) -> None:
        """Leave a tile's share of a sum over pixels of what it stored: (count, mean, M2), or the sums of dy and
        dy * xhat, per channel."""
        tile = self.known.get((node.inputs[0] + "#stored", at), self.known[self.plan.storage(node.inputs[0]), at])
        partial = f"{self.kernel.name}:{node.name}:partial"
        argument = self.result(partial, "partial")
        self.sides.append((node, partial))
        c = at.width
        if node.op == "batch_stats":
            self.lines.append(f"store_tile_stats({tile}, {at.channel}, {at.mask}, part, {argument}, {c})")
            return
        from .expressions import statistics

        x = self.operand(node, 1, at)
        mean, var = statistics(self, node, 2, at)
        dy = self.let("dy_kept", f"tl.where({at.mask}, {tile}.to(tl.float32), 0.0)")
        rstd = self.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
        centred = self.let("centred", f"{x} - {mean}")
        row = f"{argument} + part * {2 * c} + {at.channel}"
        known = f"mask={at.channel} < {c}"
        dbias = self.let("dbias", f"tl.sum({dy}, axis=0)[None, :]")
        dweight = self.let("dweight", f"tl.sum({dy} * {centred}, axis=0)[None, :] * {rstd}")
        self.lines.append(f"tl.store({row}, {dbias}, {known})")
        self.lines.append(f"tl.store({row} + {c}, {dweight}, {known})")

    def function(self, name: str, parameters: str, lines: list[str]) -> str:
        code = "\n".join(f"    {line}" for line in [*self.unpack(), *lines])
        return f"@triton.jit\ndef {name}({parameters}):\n{code}\n"
