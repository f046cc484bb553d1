"""The lowered plan: functions of the emitted file, the launches that make a step, and the buffers they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from ..compiler.memory import share
from ..compiler.plan import Plan
from ..ir.table import Source
from ..ir.types import TensorType
from ..machine.dtypes import BYTES, DTYPES
from ..machine.tiles import Choice
from .call import Line
from .names import SUM_TABLE, Argument, StepNumber
from .size import Size, images

#: how many elements of a sum each program of the launch for many sums adds
SUM_BLOCK = 512
TRITON = {"fp32": "tl.float32", "fp16": "tl.float16", "bf16": "tl.bfloat16", "u8": "tl.uint8"}


def element(type_: TensorType, storage: str) -> str:
    """The type in which a value's elements are stored: ``fp32 fp16 bf16 u8 i64``."""
    return {"float": storage, "float32": "fp32", "uint8": "u8", "int64": "i64"}[type_.dtype]


def step_numbers(batch: int, seed: int = 0, step: int = 0) -> dict[StepNumber, int]:
    """The numbers of a step, as launches take them."""
    return dict(zip(StepNumber, (batch, seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, step), strict=True))


@dataclass(frozen=True)
class Packing:
    """How images lie amid zeros: ``[N, rows, pitch]``.
    In each row there are pixels by channels from element ``left`` on; rows behind the image are zeros too. Whoever
    fills an input's buffer leaves the zeros alone; a kernel that makes an image writes them."""

    rows: int
    pitch: int
    left: int

    @property
    def elements(self) -> int:
        """How many elements an image takes, with the zeros."""
        return self.rows * self.pitch


@dataclass(frozen=True)
class Buffer:
    """Device memory: ``size`` elements of ``dtype``.
    Persistent ones (inputs, parameters, results) live outside the arena. An image may be packed."""

    name: str
    dtype: str
    size: Size
    persistent: bool = False
    packing: Packing | None = None

    def bytes(self, batch: int) -> int:
        """How many bytes it has at a batch size."""
        return self.size.at(batch) * BYTES[self.dtype]


@dataclass(frozen=True)
class Function:
    """One kernel of the emitted file.
    It has the lines of its helpers, the call of a template that it consists of, its parameters with their Triton types,
    and how it is compiled."""

    name: str
    helpers: tuple[tuple[Line, ...], ...]
    call: str
    parameters: tuple[tuple[str, str], ...]
    num_warps: int
    num_stages: int

    @property
    def text(self) -> str:
        """The function's code, helpers first."""
        return self.written("@triton.jit", (name for name, _ in self.parameters))

    def written(self, decorator: str, parameters: Iterable[str]) -> str:
        """The function's code with this decorator, and with its parameters written so."""
        return "\n".join(self.lines(decorator, parameters)) + "\n"

    def lines(self, decorator: str, parameters: Iterable[str], layer: str = "") -> list[Line]:
        """The lines of the function's code; the call's are of ``layer``."""
        blank = Line("")
        helpers = [line for helper in self.helpers for line in (*helper, blank, blank)]
        call = [Line(f"    {line}", layer) for line in self.call.splitlines()]
        return [*helpers, Line(decorator), Line(f"def {self.name}({', '.join(parameters)}):"), *call]


@dataclass(frozen=True)
class Launch:
    """One launch of a step: ``function[grid](arguments)``.
    Arguments are names of buffers and descriptors, or numbers of the step."""

    function: str
    arguments: tuple[Argument, ...]
    grid: tuple[Size, ...]
    kernel: str
    kind: str
    layers: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    flops: int  # per image
    loads: Mapping[str, Size]  # buffer -> elements that its programs load, again wherever tiles overlap
    read_share: Mapping[str, float] = field(default_factory=dict)  # fraction of a buffer that is read, if not all
    write_share: Mapping[str, float] = field(default_factory=dict)  # fraction of a buffer that is written, if not all
    #: what its programs leave for the last of them -> elements of it that are stored once more
    handed_on: Mapping[str, Size] = field(default_factory=dict)
    #: does it add up what programs have left, so that a kernel, or several, are finished?
    finishes: bool = False
    #: the layers of the helpers' lines, which a function that several kernels share has of the first of them only
    layers_of_lines: tuple[str, ...] = ()

    @property
    def finishes_many(self) -> bool:
        """Does it add up the partial sums of several kernels, which a table has?"""
        return SUM_TABLE in self.arguments


@dataclass(frozen=True)
class Moved:
    """Bytes of one buffer that a launch moves: as often as its programs load and store them, and every address once."""

    loaded: int = 0
    read: int = 0
    stored: int = 0
    written: int = 0

    @property
    def once(self) -> int:
        """The bytes that have to be moved: every address read, and every one written, once."""
        return self.read + self.written

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.loaded + other.loaded, self.read + other.read, self.stored + other.stored, self.written + other.written
        )


@dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor, by which a kernel reads whole tiles.
    It is of ``buffer`` as any number of rows, or images, of this ``shape``, in boxes of so many of them, and in them.
    Where there is a ``window`` = (size, step), what it describes are all windows of so many elements, so far apart, of
    the rows that are the last axis of ``shape``. Else, of images of rows and columns, images are the last axis but one:
    ``[H, W, N, C]``, so that one pixel of each of them is a matrix. With ``channels`` = (first, count), it is of these
    only, and beyond them boxes are zeros, or store nothing."""

    name: str
    buffer: str
    shape: tuple[int, ...]
    box: tuple[int, ...]
    window: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None

    @property
    def images_last(self) -> bool:
        """Whether images are the last axis but one, not the first."""
        return self.window is None and len(self.shape) > 2

    @property
    def seen(self) -> tuple[int, ...]:
        """The shape that a kernel sees of an image, or row: its windows, or some of its channels, if it has those."""
        if self.channels is not None:
            return (*self.shape[:-1], self.channels[1])
        if self.window is None:
            return self.shape
        size, step = self.window
        return (*self.shape[:-1], (self.shape[-1] - size) // step + 1, size)


@dataclass(frozen=True)
class PartialSum:
    """One of the sums of partial results that a single launch computes at the end of the step.
    ``target[j] = sum over p < parts of source[start + p * stride + j]`` for ``length`` elements j."""

    source: str
    start: int
    parts: int
    stride: int
    target: str
    length: int


@dataclass(frozen=True)
class Program:
    """Everything a step needs, for one dtype, with tiles chosen for a batch size and a target.

    ``order`` gives (C, H, W) for values ``[*, C*H*W]`` kept in pixel order; ``sums`` is what the last launch adds,
    by a table of addresses; ``choices`` the tiles, and for what they were chosen. ``rounded`` says which buffer
    holds a weight in the type in which products read it: whoever changes the weight writes it. ``descriptors`` are
    arguments beside the buffers. ``wide`` kernels count elements in 64 bits, for tensors of 2**31 and more. ``tuned``:
    functions whose tile is a tuned one; ``passed``: those that pass over one of their problem, for it was found for
    others, or for what they were once.
    """

    plan: Plan
    dtype: str
    batch: int
    target: str
    functions: tuple[Function, ...]
    launches: tuple[Launch, ...]
    buffers: Mapping[str, Buffer]
    order: Mapping[str, tuple[int, int, int]]
    sums: tuple[PartialSum, ...] = ()
    choices: tuple[Choice, ...] = ()
    rounded: Mapping[str, str] = field(default_factory=dict)
    descriptors: Mapping[str, Descriptor] = field(default_factory=dict)
    wide: bool = False
    tuned: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()

    @property
    def storage(self) -> str:
        """The type in which activations are stored."""
        return DTYPES[self.dtype][0]

    @property
    def points(self) -> bool:
        """Whether launches find tensors by a table of addresses or by descriptors."""
        return bool(self.sums or self.descriptors)

    def moved(self, launch: Launch, batch: int) -> dict[str, Moved]:
        """The bytes that a launch moves at a batch size, by buffer."""

        def of(name: str) -> Moved:
            buffer = self.buffers[name]
            total, loaded = buffer.bytes(batch), launch.loads.get(name, Size()).at(batch) * BYTES[buffer.dtype]
            read = round(total * launch.read_share.get(name, 1.0)) if name in launch.reads else 0
            written = round(total * launch.write_share.get(name, 1.0)) if name in launch.writes else 0
            again = launch.handed_on.get(name, Size()).at(batch) * BYTES[buffer.dtype]
            return Moved(loaded, read, written + again, written)

        return {name: of(name) for name in dict.fromkeys((*launch.reads, *launch.writes))}

    def launch_bytes(self, launch: Launch, batch: int) -> int:
        """The bytes of each operand, read once, and of each result, written once.
        Of an operand whose pixels no window covers all, as in a 1x1 convolution with strides, or of whose channels some
        are read, these only count."""
        return sum(moved.once for moved in self.moved(launch, batch).values())

    def loaded_bytes(self, launch: Launch, batch: int) -> int:
        """The bytes that a launch's programs load, each of them for itself.
        What is more than the bytes read once is the overlap of their tiles: it comes from the caches."""
        return sum(moved.loaded for moved in self.moved(launch, batch).values())

    def dram_bytes(self, batch: int | None = None) -> int:
        """The bytes that all launches of a step move, nothing kept between launches."""
        return sum(self.launch_bytes(launch, batch or self.batch) for launch in self.launches)

    def flops(self, batch: int | None = None) -> int:
        """Floating-point operations of a step."""
        return sum(launch.flops for launch in self.launches) * (batch or self.batch)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of buffers that last from step to step whatever the batch.
        They are parameters, running statistics, what is computed of them, and their copies. For inference they are only
        those that a kernel reads: no weight that was folded."""
        plan = self.plan
        nodes = (*plan.graph.parameters, *plan.graph.buffers, *plan.prepared)
        wanted = {*(plan.place(n.name).buffer for n in nodes), *self.rounded.values()}
        return tuple(b for b in self.buffers if b in wanted)

    @property
    def updates(self) -> dict[str, str]:
        """A dictionary from the new value of a running statistic to the statistic, in whose memory it lies."""
        return {value: buffer for buffer, value in self.plan.graph.updates}

    @property
    def forward_launches(self) -> int:
        """How many of the launches, from the first on, are the forward pass."""
        backward = {kernel.name for kernel in self.plan.kernels[self.plan.forward_kernels :]}
        return next((i for i, launch in enumerate(self.launches) if launch.kernel in backward), len(self.launches))

    @property
    def lives(self) -> dict[str, tuple[int, int]]:
        """A dictionary from each buffer in the arena to the first and the last launch that needs it."""
        spans: dict[str, tuple[int, int]] = {}
        for step, launch in enumerate(self.launches):
            for name in (*launch.reads, *launch.writes):
                if not self.buffers[name].persistent:
                    spans[name] = (spans.get(name, (step, step))[0], step)
        return spans

    def arena(self, batch: int | None = None) -> tuple[dict[str, int], int]:
        """Where the buffers that are not persistent begin, in bytes, and how many bytes they need together."""
        return share({name: (self.buffers[name].bytes(batch or self.batch), *s) for name, s in self.lives.items()})

    def peak_memory_bytes(self, batch: int | None = None) -> int:
        """The bytes that ``allocate`` of the emitted file takes: the arena, and all that is persistent.
        Persistent are inputs, parameters, statistics, gradients, results."""
        batch = batch or self.batch
        updates = self.updates
        fixed = sum(b.bytes(batch) for b in self.buffers.values() if b.persistent and b.name not in updates)
        return self.arena(batch)[1] + fixed


def plan_buffers(plan: Plan, storage: str) -> dict[str, Buffer]:
    """The buffers of a plan's values that go through memory, by name; workspaces come with the launches.
    Parameters of an inference that no kernel reads, for they were folded into others, have none."""
    buffers = {}
    read = {plan.place(v).buffer for kernel in plan.kernels for v in kernel.reads}
    sources = [n.name for n in plan.graph.nodes if n.row.source not in (None, Source.CONSTANT)]
    constant = {plan.place(n.name).buffer for n in (*plan.prepared, *plan.graph.parameters, *plan.graph.buffers)}
    lasting = {plan.place(v).buffer for v in (*plan.graph.results, *(n.name for n in plan.prepared), *sources)}
    if plan.mode == "infer":
        lasting -= constant - read - {plan.place(v).buffer for v in plan.graph.results}
    for node in plan.graph.nodes:
        if node.name in lasting and node.row.source is not Source.CONSTANT:
            buffers[node.name] = _buffer(node.name, plan.type(node.name), storage, True)
    for kernel in plan.kernels:
        for value in (plan.place(v).buffer for v in kernel.writes):
            if value not in buffers:
                buffers[value] = _buffer(value, plan.type(value), storage, False)
    return buffers


def _buffer(name: str, type_: TensorType, storage: str, persistent: bool) -> Buffer:
    size = images(type_.batched) * prod(type_.per_image)
    return Buffer(name, element(type_, storage), size, persistent)
