"""What every lowering builds on: the functions, launches and buffers gathered so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce

from ..compiler.plan import Kernel, Plan
from ..compiler.views import pixel_ordered
from ..ir.table import Kind
from ..machine import tiles
from ..machine import tuned_files as tuning
from ..machine.dtypes import DTYPES
from ..machine.targets import TARGETS
from .body import Body
from .call import Call, Parameters
from .function_digest import function_digest
from .names import Argument, Scope, StepNumber, copy_name, descriptor_name, workspace_name
from .program import Buffer, Descriptor, Function, Launch, PartialSum, plan_buffers
from .size import N, Size, cdiv
from .traffic import Traffic

#: boxes begin at a multiple of 16 bytes: so many 16-bit numbers
ALIGNED = 8
#: how many programs a launch has, along up to three axes
Grid = tuple[int | Size, ...]
#: a tile, after so many attempts that a compiler spilled
Rule = Callable[[int], tiles.Tile]


@dataclass
class Lowering:
    """What has been lowered so far: the functions of the emitted file, the launches in order, and what they need."""

    plan: Plan
    dtype: str
    batch: int
    target: str
    forms: dict[str, tiles.Form]
    functions: dict[str, Function] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    sums: list[PartialSum] = field(default_factory=list)
    summed: int = 0  # how many of them a launch adds already
    choices: list[tiles.Choice] = field(default_factory=list)
    rounded: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, Descriptor] = field(default_factory=dict)
    counters: set[Size] = field(default_factory=set)  # numbers of counters that launches use, see last_programs.py
    #: how many of the tuned tiles of its problem a function passes over; which one it has; who has one found for others
    passed: Mapping[str, int] = field(default_factory=dict)
    tuned: dict[str, tuning.Entry] = field(default_factory=dict)
    misfits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.storage, self.precision = DTYPES[self.dtype]
        self.buffers: dict[str, Buffer] = plan_buffers(self.plan, self.storage)
        self.wide = max(b.size.at(self.batch) for b in self.buffers.values()) >= 2**31
        self.order = pixel_ordered(self.plan.graph, self.plan.mode)
        self.read = {value for kernel in self.plan.kernels for value in kernel.reads}
        others = [kernel for kernel in self.plan.kernels if kernel.anchor.kind is not Kind.CONTRACTION]
        self.read_by_others = {value for kernel in others for value in kernel.reads}
        self.written = {self.plan.place(value).buffer for kernel in self.plan.kernels for value in kernel.writes}
        self.scope = Scope()  # of the emitted file
        self._same: dict[str, str] = {}  # the text of a function, without its name -> the one that was kept

    def form(self, name: str) -> tiles.Form:
        """How a function departs from its first tile: not at all, unless its compilation has asked for it."""
        return self.forms.get(name, tiles.Form())

    def body(self, kernel: Kernel) -> Body:
        """A function of the kernel, with nothing in it yet."""
        return Body(self.plan, kernel, self.storage, self.wide)

    def tile(self, name: str, kernel: Kernel, kind: str, shape: Mapping[str, int], rule: Rule) -> tiles.Tile:
        """The tile of a function for a problem of this kind and shape, at the batch size compiled for.
        It is the one that was found to be fastest, if any was and the compiler did not spill it, else what ``rule``
        says after so many attempts; of one stage where its form is not pipelined. Tuned tiles that it ``passed`` over
        were found for other functions."""
        problem = tiles.Problem.of(self.target, kind, self.dtype, {"N": self.batch, **shape})
        known, form = tuning.lookup(problem)[self.passed.get(name, 0) :], self.form(name)
        if known:
            self.tuned[name] = known[0]
            tile = rule(form.smaller - 1) if form.smaller else known[0].tile
        else:
            tile = rule(form.smaller)
        if not form.pipelined:
            tile = replace(tile, stages=1)
        self.choices.append(tiles.Choice(name, kernel.name, problem, tile))
        return tile

    def pass_tile(self, name: str, kernel: Kernel, kind: str, shape: Mapping[str, int], channels: int) -> tiles.Tile:
        """The tile of a kernel that passes over an image's pixels once.
        Where it leaves sums over them its tile is another one, and its kind of problem is called ``..._with_sums``."""
        if any(n.row.side_sum == "stored" for n in kernel.nodes):
            return self.tile(name, kernel, f"{kind}_with_sums", shape, partial(tiles.with_sums, channels))
        return self.tile(name, kernel, kind, shape, partial(tiles.elementwise, channels))

    def multiplied(self, raw: str) -> str:
        """The buffer from which products read a weight, in the type of the activations if that can be had.

        Inference keeps the weight itself so. Training updates weights in fp32 and reads a rounded copy. A weight that
        is computed at every step is read as it is stored.
        """
        value = self.plan.storage(raw)
        buffer = self.buffers[value]
        if buffer.dtype == self.storage or value in self.written or value in self.read_by_others:
            return value
        name = value if self.plan.mode == "infer" else copy_name(value, self.storage)
        self.buffers[name] = replace(buffer, name=name, dtype=self.storage)
        if name != value:
            self.rounded[value] = name
        return name

    @property
    def describes(self) -> bool:
        """Whether the target copies boxes by descriptors (Hopper's TMA), and activations are of a type that it can.
        The type has 16 bits, for the tensor cores."""
        return self.storage in ("fp16", "bf16") and TARGETS[self.target].bulk_copies

    def windows(self, buffer: str, shape: tuple[int, ...], box: tuple[int, ...], window: tuple[int, int]) -> str:
        """A descriptor of the overlapping windows (size, step) of the rows of a packed input's images."""
        name = descriptor_name(buffer, box, window)
        self.descriptors[name] = Descriptor(name, buffer, shape, box, window)
        return name

    def descriptor(
        self, buffer: str, shape: tuple[int, ...], box: tuple[int, ...], channels: tuple[int, int] | None = None
    ) -> str | None:
        """The name of a descriptor of a buffer as rows or images of a ``shape``; None where there can be none.
        There is one if the target has the instructions (Hopper's TMA) and they can read the buffer: 16-bit numbers for
        the tensor cores, the last axis a multiple of 16 bytes. It is of all ``channels``, or of (first, count) of them,
        which begin at such a multiple."""
        dtype = self.buffers[buffer].dtype
        if dtype not in ("fp16", "bf16") or shape[-1] % ALIGNED or not self.describes:
            return None
        if channels == (0, shape[-1]):
            channels = None
        if channels is not None:
            if channels[0] % ALIGNED:
                return None
            name = descriptor_name(buffer, box, channels=channels)
            self.descriptors[name] = Descriptor(name, buffer, shape, box, channels=channels)
            return name
        name = descriptor_name(buffer, box)
        if name in self.descriptors and self.descriptors[name].shape != shape:
            name = descriptor_name(buffer, box, shape)  # the same memory, seen as rows of another length
        self.descriptors[name] = Descriptor(name, buffer, shape, box)
        return name

    def described(self, argument: str) -> str:
        """The buffer that an argument is, or that it describes."""
        return self.descriptors[argument].buffer if argument in self.descriptors else argument

    def type(self, argument: Argument) -> str:
        """What Triton calls the type of a kernel's argument."""
        if isinstance(argument, StepNumber):
            return argument.type
        if argument in self.descriptors:
            described = self.descriptors[argument]
            return f"tensordesc<{self.buffers[described.buffer].dtype}{list(described.box)}>"
        return f"*{self.buffers[argument].dtype}"

    def workspace(self, owner: str, what: str, size: int | Size) -> str:
        """The name of a new fp32 buffer that the launches of one kernel have for themselves."""
        return self.partial(workspace_name(owner, what), size)

    def partial(self, name: str, size: int | Size) -> str:
        """The name of a new fp32 buffer, which is the one that is given."""
        assert name not in self.buffers, f"two buffers are called {name}"
        self.buffers[name] = Buffer(name, "fp32", Size.of(size))
        return name

    def add(
        self,
        name: str,
        kernel: Kernel,
        call: Call,
        grid: Grid,
        tile: tiles.Tile,
        *,
        kind: str,
        traffic: Iterable[Traffic],
        flops: int = 0,
        handed_on: Mapping[str, Size] | None = None,
        finishes: bool = False,
    ) -> None:
        """Register a function that is one call of a template, and its launch.

        ``kind`` is the operation, or what the launch does for one; ``traffic`` what the template and its helpers load
        and store; ``flops`` are for each image; ``handed_on`` and ``finishes`` as of a Launch.
        """
        parameters = self._parameters(call)
        function = self._made(name, call, parameters, tile)
        launched = tuple(map(Size.of, grid))
        tuned = self.tuned.get(name)
        if tuned and tuned.functions and function_digest(function, launched, self.batch) not in tuned.functions:
            self.misfits.append(name)
        moved = reduce(Traffic.add, traffic, Traffic())
        tensors = tuple(self.described(a) for a in parameters if not isinstance(a, StepNumber))
        writes = tuple(dict.fromkeys(self.described(a) for operand in call.every for a in operand.writes))
        self.launches.append(
            Launch(
                function=self._kept(function, call),
                arguments=tuple(parameters),
                grid=launched,
                kernel=kernel.name,
                kind=kind,
                layers=kernel.layers,
                reads=tuple(b for b in tensors if b in moved.loads),
                writes=writes,
                flops=flops,
                loads=dict(moved.loads),
                read_share={b: share for b in moved.loads if (share := moved.read_share(b)) < 1},
                write_share={b: share for b in writes if (share := moved.written_share(b)) < 1},
                handed_on=dict(handed_on or {}),
                finishes=finishes,
                layers_of_lines=tuple(line.layer for made in call.helpers for line in made.lines),
            )
        )

    def _parameters(self, call: Call) -> Parameters:
        """What a kernel's parameters are called, by argument: those of its operands in their order, and N."""
        scope = Scope({"tl", "triton", *(number.value for number in StepNumber)})
        names: dict[Argument, str] = {}
        for argument, stem in (pair for operand in call.every for pair in operand.args.items()):
            if argument not in names:
                names[argument] = argument.value if isinstance(argument, StepNumber) else scope.take(stem)
        return names if StepNumber.BATCH in names else {**names, StepNumber.BATCH: StepNumber.BATCH.value}

    def _made(self, name: str, call: Call, parameters: Parameters, tile: tiles.Tile) -> Function:
        """The function that makes the call."""
        types = tuple((parameter, self.type(argument)) for argument, parameter in parameters.items())
        helpers = tuple(h.lines for h in call.helpers)
        return Function(name, helpers, call.text(parameters), types, tile.warps, tile.stages)

    def _kept(self, function: Function, call: Call) -> str:
        """The name of a function: a new one, or the one that has the same text."""
        name = function.name
        for made in (name, *(h.name for h in call.helpers)):
            assert made not in self.scope, f"two functions are called {made}"
            self.scope.reserve(made)
        words = function.text.replace(name, "@").split()  # under a longer name, lines break elsewhere
        key = f"{' '.join(words)} {function.parameters} {function.num_warps} {function.num_stages}"
        if key not in self._same:
            self._same[key] = name
            self.functions[name] = function
        return self._same[key]


def tile_grid(rows: int, channels: int, tile: tiles.Tile) -> tuple[Size, int]:
    """The grid of a template of [pixels, channels], with so many pixels in an image."""
    return cdiv(N * rows, tile.m), cdiv(channels, tile.n)
