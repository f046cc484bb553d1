"""What every lowering builds on: the functions and launches gathered so far, and how generated code is written."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod
from typing import Any

from ..compiler.plan import Kernel, Plan
from ..compiler.views import pixel_ordered
from ..ir.graph import Node
from ..ir.table import Kind
from ..machine import tiles
from ..machine import tuned_files as tuning
from ..machine.dtypes import DTYPES
from .body import At, Body
from .program import SCALARS, Buffer, Descriptor, Function, Launch, PartialSum, plan_buffers
from .size import N, Size, cdiv
from .traffic import Traffic

#: from a buffer to the name of the kernel's parameter that points at it
Parameter = Callable[[str], str]

POINTER = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16", "u8": "*u8", "i64": "*i64"}


@dataclass
class Lowering:
    """What has been lowered so far."""

    plan: Plan
    dtype: str
    batch: int
    target: str
    forms: dict[str, tiles.Form]
    functions: dict[str, Function] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    sums: list[PartialSum] = field(default_factory=list)
    choices: list[tiles.Choice] = field(default_factory=list)
    rounded: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, Descriptor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.storage, self.precision = DTYPES[self.dtype]
        self.buffers: dict[str, Buffer] = plan_buffers(self.plan, self.storage)
        self.wide = max(b.size.at(self.batch) for b in self.buffers.values()) >= 2**31
        self.order = pixel_ordered(self.plan.graph)
        self.read = {value for kernel in self.plan.kernels for value in kernel.reads}
        others = [kernel for kernel in self.plan.kernels if kernel.anchor.kind is not Kind.CONTRACTION]
        self.read_by_others = {value for kernel in others for value in kernel.reads}
        self.written = {self.plan.place(value).buffer for kernel in self.plan.kernels for value in kernel.writes}
        self.named: set[str] = set()
        self._same: dict[str, str] = {}

    def form(self, name: str) -> tiles.Form:
        """The form of a function; the first one unless its compilation has asked for another."""
        return self.forms.get(name, tiles.Form())

    def body(self, kernel: Kernel) -> Body:
        return Body(self.plan, kernel, self.storage, self.wide)

    def tile(
        self, name: str, kernel: Kernel, kind: str, shape: Mapping[str, int], rule: Callable[[int], tiles.Tile]
    ) -> tiles.Tile:  # fmt: skip
        """The tile of a function: the one that was measured to be fastest, if any was and the compiler did not spill
        it, else what ``rule`` says after so many attempts; of one stage where its form is not pipelined. ``shape`` is
        what it depends on, beside the batch size."""
        problem = tiles.Problem.of(self.target, kind, self.dtype, {"N": self.batch, **shape})
        tuned, form = tuning.lookup(problem), self.form(name)
        if tuned is not None:
            tile = rule(form.smaller - 1) if form.smaller else tuned
        else:
            tile = rule(form.smaller)
        if not form.pipelined:
            tile = replace(tile, stages=1)
        self.choices.append(tiles.Choice(name, kernel.name, problem, tile))
        return tile

    def multiplied(self, raw: str) -> str:
        """The buffer from which products read a weight, in the type of the activations if that can be had.

        Inference keeps the weight itself so. Training updates weights in fp32 and reads a rounded copy. A weight that
        is computed at every step is read as it is stored.
        """
        value = self.plan.storage(raw)
        buffer = self.buffers[value]
        if buffer.dtype == self.storage or value in self.written or value in self.read_by_others:
            return value
        name = value if self.plan.mode == "infer" else f"{value}:{self.storage}"
        self.buffers[name] = replace(buffer, name=name, dtype=self.storage)
        if name != value:
            self.rounded[value] = name
        return name

    def descriptor(self, buffer: str, shape: tuple[int, ...], box: tuple[int, ...]) -> str | None:
        """A descriptor of a buffer as rows or images of a ``shape``, if the target has the instructions (Hopper's TMA)
        and they can read it: 16-bit numbers for the tensor cores, the last axis a multiple of 16 bytes."""
        dtype, target = self.buffers[buffer].dtype, self.target
        if dtype not in ("fp16", "bf16") or shape[-1] % 8 or not target.startswith("sm_") or int(target[3:]) < 90:
            return None
        name = f"{buffer}{list(box)}"
        if name in self.descriptors and self.descriptors[name].shape != shape:
            name = f"{buffer}{list(shape)}{list(box)}"  # the same memory, seen as rows of another length
        self.descriptors[name] = Descriptor(name, buffer, shape, box)
        return name

    def described(self, argument: str) -> str:
        """The buffer that an argument, it or a descriptor of it, stands for."""
        return self.descriptors[argument].buffer if argument in self.descriptors else argument

    def type(self, argument: str) -> str:
        """What Triton calls the type of a kernel's argument."""
        if argument in self.descriptors:
            described = self.descriptors[argument]
            return f"tensordesc<{self.buffers[described.buffer].dtype}{list(described.box)}>"
        return SCALARS.get(argument) or POINTER[self.buffers[argument].dtype]

    def workspace(self, name: str, size: int | Size) -> str:
        assert name not in self.buffers, f"two buffers are called {name}"
        self.buffers[name] = Buffer(name, "fp32", Size.of(size))
        return name

    def add(
        self, name: str, kernel: Kernel, helpers: list[str], call: Callable[[Parameter], str],
        bodies: list[Mapping[str, str]], grid: tuple[int | Size, ...], tile: tiles.Tile, *,
        extra: tuple[tuple[str, str], ...] = (), writes: tuple[str, ...], kind: str, traffic: Iterable[Traffic],
        flops: int = 0,
    ) -> None:  # fmt: skip
        """Register a function and its launch.

        ``bodies`` are the argument maps (buffer -> local name) of the helpers; ``extra`` further (buffer, name) pairs.
        ``call`` writes the template's call, given a function from a buffer to its parameter's name. ``traffic`` is what
        the template and its functions load and store (traffic.py).
        """
        names: dict[str, str] = {}
        taken = {"tl", "triton", *(scalar[1:] for scalar in SCALARS), *keyword.kwlist}
        for mapping in [*bodies, dict(extra)]:
            for buffer, stem in mapping.items():
                if buffer in names:
                    continue
                if buffer in SCALARS:
                    names[buffer] = buffer[1:]
                    continue
                unique, count = stem, 1
                while unique in taken:
                    count += 1
                    unique = f"{stem}{count}"
                taken.add(unique)
                names[buffer] = unique
        names.setdefault(":N", "N")
        types = [(p, self.type(b)) for b, p in names.items()]
        code = call(lambda buffer: names[buffer])
        text = "\n\n".join(
            [
                *(h.rstrip() + "\n" for h in helpers),
                f"@triton.jit\ndef {name}({', '.join(names.values())}):\n{_indent(code)}\n",
            ]
        )
        written = " ".join(text.replace(name, "@").split())  # a long name breaks lines elsewhere
        key = f"{written} {types} {tile.warps} {tile.stages}"
        assert name not in self.named, f"two functions are called {name}"
        self.named.add(name)
        if key not in self._same:
            self._same[key] = name
            self.functions[name] = Function(name, text, tuple(types), tile.warps, tile.stages)
        buffers = tuple(self.described(b) for b in names if b not in SCALARS)
        writes = tuple(self.described(b) for b in writes)
        moved = reduce(Traffic.add, traffic, Traffic())
        self.launches.append(
            Launch(
                self._same[key],
                tuple(names),
                tuple(map(Size.of, grid)),
                kernel.name,
                kind,
                kernel.layers,
                tuple(b for b in buffers if b in moved.loads),
                writes,
                flops,
                dict(moved.loads),
                {b: share for b in moved.loads if (share := moved.read_share(b)) < 1},
                {b: share for b in writes if (share := moved.written_share(b)) < 1},
            )
        )


def _indent(code: str) -> str:
    return "\n".join("    " + line if line else line for line in code.splitlines())


def as_tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def everything_of(body: Body) -> dict[str, str]:
    return {**body.args, **body.written}


def call_text(
    template: str, positional: list[str], constants: Mapping[str, Any], options: Sequence[str] = ()
) -> str:  # fmt: skip
    """A call of a template, positional arguments on the first lines, constants below, then options as they are."""
    shown = wrap(positional) + wrap([f"{k}={v!r}" for k, v in constants.items()]) + wrap(list(options))
    return "\n".join([f"{template}(", *shown, ")"])


def wrap(items: list[str], width: int = 104) -> list[str]:
    """Items with commas, as many on a line as fit."""
    rows, row = [], "   "
    for item in items:
        if len(row) + len(item) + 2 > width and row.strip():
            rows.append(row)
            row = "   "
        row += f" {item},"
    return [*rows, row] if row.strip() else rows


def plain_function(name: str, parameters: str, args: list[str], lines: list[str]) -> str:
    """A helper whose lines are written by hand."""
    unpack = f"({args[0]},) = args" if len(args) == 1 else f"{', '.join(args)} = args"
    code = "\n".join(f"    {line}" for line in [unpack, *lines])
    return f"@triton.jit\ndef {name}({parameters}):\n{code}\n"


# --- what follows the anchor ------------------------------------------------------------


def downstream(plan: Plan, kernel: Kernel, start: set[str]) -> list[Node]:
    """The epilogue: nodes that depend on the anchor, in order."""
    reached, found = set(start), []
    for node in kernel.nodes:
        if node.name not in reached and any(plan.storage(v) in reached for v in node.inputs):
            reached.add(node.name)
            found.append(node)
    return found


def epilogue(body: Body, kernel: Kernel, at: At, start: str, first: str | None = None) -> None:
    """Apply and store everything that follows ``start``, which is in the register ``first`` at ``at``."""
    places = {start: at}
    if first is not None:
        body.known[start, at] = first
    if start in kernel.writes:
        body.store(start, body.known[start, at], at)
    for node in downstream(body.plan, kernel, {start}):
        source = next((v for v in map(body.plan.storage, node.inputs) if v in places), start)
        here = places[source]
        if node.row.side_sum == "stored" and node is not kernel.anchor:
            body.side_sum(node, here)
            continue
        if node.op in ("running_mean", "running_var"):
            continue  # with the merge of the statistics
        if node.op in ("max_pool2d", "max_pool2d_index", "avg_pool2d"):
            here = pooled(body, node, source, here)
        else:
            body.known[node.name, here] = body.compute(node, here)
        places[node.name] = here
        if node.name in kernel.writes:
            body.store(node.name, body.known[node.name, here], here)


def pooled(body: Body, node: Node, source: str, at: At) -> At:
    """Pooling inside a convolution's tile: rows list the windows one after another."""
    area = prod(node.attrs["kernel_size"])
    covered = At("window", "channel", "covered", at.width)
    if "covered" not in body.names:
        body.names.add("covered")
        body.lines.append(f"covered = mask_over_window(mask, {area})")
    tile = body.known[source, at]
    if node.op == "avg_pool2d":
        body.known[node.name, covered] = body.let("pooled", f"mean_over_window({tile}, {area})")
    else:
        key, index_key = (f"{source}#max", covered), (f"{source}#index", covered)
        if key not in body.known:
            value, position = body.name("pooled"), body.name("position")
            body.lines.append(f"{value}, {position} = max_over_window({tile}, {area})")
            body.known[key], body.known[index_key] = value, position
        body.known[node.name, covered] = body.known[key if node.op == "max_pool2d" else index_key]
    return covered


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def tile_grid(rows: int, channels: int, tile: tiles.Tile) -> tuple[Size, int]:
    return cdiv(N * rows, tile.m), cdiv(channels, tile.n)
