"""One launch of a kernel, simulated: its arguments are bound, some programs traced and replayed, the rest extrapolated.

    time = launch_us + clocks / clock_ghz,      clocks = last program's end, if all ended within the modelled ones,
                                                else instructions of all programs / instructions a clock

Every program of the grid is one of a few that were traced, in turn; 8 multiprocessors stand for those that the launch
uses, with their part of L2 and DRAM. Where programs count themselves, so that the last of them does what remains, that
is added at the end, once: the time of a program that is the last, alone on the GPU, less that of the same program if
others come later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..sass import Instruction, Parameters
from . import core, state
from .costs import NOTED, Kind, cost, counts
from .decode import PROGRAM, decoded
from .parameters import PROCESSORS, PROGRAMS, REGISTERS, SHARED_BYTES, WARPS, Hopper
from .trace import LANES, Refused, Trace

#: multiprocessors that are modelled; they stand for all
MODELLED = 8
#: programs of a launch without two alike that stand for all
UNLIKE = 128
#: words of constant bank 0 on sm_90 that the driver fills in: the size of a program and of the grid, the top of the
#: stack, and where the bank itself lies in memory (read off kernels that use them)
_PROGRAM_SIZE, _GRID, _STACK, _DESCRIPTOR, _BANK_ADDRESS = 0x0, 0xC, 0x28, 0x208, (0x118, 0x198, 0x1F0)
_ADDRESS = 0x7F00_0000_0000  # where the bank is taken to lie; anything that is no buffer's address
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "tf32": 4, "fp8e5": 1, "fp8e4nv": 1, "i8": 1, "u8": 1, "i32": 4, "i64": 8}


class NotSimulated(Exception):
    """A launch whose time cannot be simulated; the text says why, and at which instruction."""


@dataclass(frozen=True)
class Launch:
    """A kernel's machine code and how it is launched.

    ``signature``: argument -> Triton's type (``*bf16``, ``i32``, ``tensordesc<bf16[64, 64]>``), in order; ``values``:
    what is known of them, a number, the shape of a descriptor's tensor, or what lies at the address that one ``*i64``
    is: a table by which its programs go, unlike one another. ``registers`` are of a thread,
    ``shared_bytes`` of a program. ``read_bytes``: what the launch must read from memory; what its programs load beyond
    that comes from caches; None: all that they load.
    """

    code: Sequence[Instruction]
    parameters: Parameters
    grid: tuple[int, int, int]
    num_warps: int
    registers: int
    shared_bytes: int
    signature: Mapping[str, str]
    values: Mapping[str, int | Sequence[int | None]] = field(default_factory=dict)
    read_bytes: float | None = None

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


@dataclass(frozen=True)
class Simulated:
    """What the model says of a launch.
    ``waits``: shares of all warps' time, the largest first; ``ipc``: instructions a clock and multiprocessor, of 4;
    ``tensor_share``: how long tensor cores multiply; ``dram_share``: of the bytes that programs load, those that come
    from memory; ``assumed``: whether some branch depends on numbers in memory, so that what it may skip was taken to
    happen."""

    us: float
    programs_per_processor: int
    ipc: float
    waits: dict[str, float]
    loaded_bytes: float
    stored_bytes: float
    instructions: float
    tensor_share: float
    dram_share: float
    extrapolated: bool
    assumed: bool

    @property
    def reason(self) -> str:
        """What warps wait for longest."""
        return next(iter(self.waits), "")


def programs_per_processor(launch: Launch) -> int:
    """How many programs a multiprocessor holds at once.
    They are as many as registers (given out by 8 a thread and 256 a warp), shared memory and warps allow."""
    per_warp = math.ceil(max(launch.registers, 16) / 8) * 8 * LANES
    by_registers = REGISTERS // (per_warp * launch.num_warps)
    by_shared = SHARED_BYTES // (launch.shared_bytes + 1024)
    return max(1, min(by_registers, by_shared, WARPS // launch.num_warps, PROGRAMS))


def box_bytes(kind: str) -> int:
    """Bytes of one copy by a ``tensordesc<type[a, b]>``.
    Triton swizzles rows of 128 bytes at most, so wider boxes take several."""
    matched = re.fullmatch(r"tensordesc<(\w+)\[([\d, ]+)\].*>", kind)
    if matched is None:
        raise NotSimulated(f"the type {kind} is not one of a descriptor")
    *rows, inner = (int(n) for n in matched[2].split(","))
    return math.prod(rows) * min(inner * _BYTES[matched[1]], 128)


def address(number: int) -> int:
    """Where the buffer lies that is the argument of this number, from 1 on."""
    return number << 36


def content(launch: Launch) -> Any:
    """The address of a launch's table and the words of 32 bits that lie there; of a launch without one, a 0."""
    for number, (name, kind) in enumerate(launch.signature.items(), 1):
        value = launch.values.get(name)
        if kind == "*i64" and isinstance(value, Sequence):
            words = np.array(value, np.int64).view(np.uint32).astype(np.int64)
            return np.concatenate([np.array([address(number)]), words])
    return np.zeros(1, np.int64)


def bound(launch: Launch) -> tuple[dict[int, int], dict[int, int]]:
    """Constant bank 0 as programs find it, by word; and the bytes of a box by each place where its descriptor may be.

    Triton passes a descriptor as 128 opaque bytes, its shape and its strides; pointers are given addresses far apart.
    """
    bank = {_PROGRAM_SIZE: launch.num_warps * LANES, 0x4: 1, 0x8: 1, _STACK: 0xFFFDE0}
    bank |= {_DESCRIPTOR: 0, _DESCRIPTOR + 4: 0}
    for axis in range(3):
        bank[_GRID + 4 * axis] = launch.grid[axis]
    for place in _BANK_ADDRESS:
        bank[place], bank[place + 4] = _ADDRESS & 0xFFFFFFFF, _ADDRESS >> 32
    words: list[int | None] = []
    boxes = {}
    for number, (name, kind) in enumerate(launch.signature.items(), 1):
        value = launch.values.get(name)
        if kind == "constexpr":
            continue
        if kind.startswith("tensordesc"):
            offset, rank = launch.parameters.places[len(words)][0], kind.count(",") + 1
            for base in (0, launch.parameters.base):
                boxes[_ADDRESS + base + offset] = box_bytes(kind)
            shape = list(value) if isinstance(value, Sequence) else []
            words += [None, *[None] * (rank - len(shape)), *shape, *[None] * rank]
        else:
            known = value if isinstance(value, int) else None
            words.append(address(number) if kind.startswith("*") and known is None else known)
    words += [0] * (len(launch.parameters.places) - len(words))  # Triton's own scratch pointers
    for (offset, size), word in zip(launch.parameters.places, words, strict=False):
        if word is not None and size in (4, 8):
            at = launch.parameters.base + offset
            bank[at] = word & 0xFFFFFFFF
            if size == 8:
                bank[at + 4] = word >> 32 & 0xFFFFFFFF
    return bank, boxes


def sampled(grid: tuple[int, int, int], unlike: bool = False) -> list[tuple[int, int, int]]:
    """Programs that stand for all, at most eight; of a row of ``unlike`` ones as many as ``UNLIKE``, evenly.
    An axis of four or fewer may count unlike parts of the work and is taken whole; of a longer one some from its
    inside, since few programs lie at the ends. Along x they are spread by the golden ratio, so that no stride of the
    grid falls in with them."""
    x, y, z = grid
    if unlike and y == z == 1:
        return [(int(x * (i + 0.5) / UNLIKE), 0, 0) for i in range(UNLIKE)]

    def inside(n: int) -> list[int]:
        return list(range(n)) if n <= 4 else [n // 5, n // 2, n * 4 // 5]

    others = [(j, k) for k in inside(z) for j in inside(y)]
    while len(others) < 3 and math.prod(grid) > 4:
        others.append((y // 2, z // 2))
    found = [(int(x * ((0.23 + 0.618 * i) % 1)), j, k) for i, (j, k) in enumerate(others)]
    return found[:: math.ceil(len(found) / 8)]


@dataclass(frozen=True)
class Traced:
    """A launch's code and the traces of its sampled programs, ready to be replayed with any figures of the GPU.
    ``last``: that of the first of these as the last to come, where programs count themselves."""

    launch: Launch
    costs: Any
    traces: list[Trace]
    last: Trace | None = None

    @property
    def loaded_bytes(self) -> float:
        """The bytes that all programs load, together."""
        return self._mean("loaded") * self.launch.programs

    @property
    def stored_bytes(self) -> float:
        return self._mean("stored") * self.launch.programs

    @property
    def instructions(self) -> float:
        """How many instructions a program executes, on average."""
        return self._mean("instructions")

    def _mean(self, what: str) -> float:
        return float(sum(getattr(trace, what) for trace in self.traces) / len(self.traces))


def traced(launch: Launch) -> Traced:
    """The traces of a launch's sampled programs. Raises NotSimulated for a path that cannot be followed."""
    code = list(launch.code)
    while code and code[-1].base == "NOP":
        code.pop()
    if not code or any(x.control is None for x in code):
        raise NotSimulated("there is no machine code with control bits")
    beside = SHARED_BYTES // programs_per_processor(launch) - launch.shared_bytes
    bank, boxes = bound(launch)
    rows, table = decoded(code, bank), content(launch)

    def followed(program: tuple[int, int, int], skips_from: int) -> Trace:
        values = rows.values.copy()
        values[PROGRAM : PROGRAM + 3] = program
        try:
            return Trace(rows.table, values, launch.num_warps, boxes, max(8192, beside), skips_from, table)
        except Refused as refused:
            x = code[refused.at]
            raise NotSimulated(f"{refused} (`{x.text}` at {x.address:#x})") from None

    traces: list[Trace] = []
    programs = sampled(launch.grid, len(table) > 1)
    counted = next((i for i, x in enumerate(code) if counts(x)), len(code))
    for program in programs:
        trace = followed(program, counted)
        traces.append(trace)
        if len(traces) > 1 and trace.instructions > 400_000 and launch.grid[1] == 1:
            break  # programs as long as this are alike
    last = followed(programs[0], len(code)) if counted < len(code) else None
    return Traced(launch, _costs(code), traces, last)


def _costs(code: Sequence[Instruction]) -> Any:
    """The instructions' costs, a record each."""
    table = np.zeros(len(code), state.INSTRUCTION)
    for row, x in zip(table, code, strict=True):
        control, known = x.control, cost(x)
        assert control is not None
        row["kind"], row["stall"], row["noted"] = known.kind, max(1, control.stall), known.kind in NOTED
        if known.kind is Kind.FREE:
            row["stall"] = max(row["stall"], known.latency)
        row["write"], row["read"], row["wait"] = min(control.write, 6), min(control.read, 6), control.wait
        row["busy"], row["latency"], row["shared"] = known.busy, known.latency, known.shared / 128
        if known.kind is Kind.BARRIER and x.operands[0][:1].isdigit():
            row["barrier"] = int(x.operands[0], 0) % state.NAMED
    return table


def simulate(launch: Launch | Traced, gpu: Hopper | None = None) -> Simulated:
    """The model's time of a launch. Raises NotSimulated where it cannot be known."""
    known = traced(launch) if isinstance(launch, Launch) else launch
    gpu = gpu or Hopper()
    launch = known.launch
    used = min(PROCESSORS, launch.programs)
    most = programs_per_processor(launch)
    slots = min(most, math.ceil(launch.programs / PROCESSORS))
    modelled = min(MODELLED, used)
    total = math.ceil(launch.programs * modelled / used)
    loaded = known.loaded_bytes
    read = loaded if launch.read_bytes is None else launch.read_bytes
    dram_share = min(1.0, read / max(1.0, loaded))
    part = modelled / used  # of L2 and DRAM
    given = np.zeros(1, state.GIVEN)
    for name in ("program_start", "dram_latency", "l2_latency", "l1_latency", "matrix_slowdown", "matrix_queue",
                 "matrix_shared", "copy_clocks"):  # fmt: skip
        given[name] = getattr(gpu, name)
    given["dram"] = gpu.dram_bytes_per_us / 1e3 / gpu.clock_ghz * part
    given["l2"] = gpu.l2_bytes_per_clock * PROCESSORS * part
    given["port"], given["load_share"], given["most_clocks"] = gpu.port_bytes_per_clock, dram_share, gpu.clocks
    given["spread"] = 1500 if launch.programs > PROCESSORS * slots else 300
    got, waits = _replayed(known, known.traces, (modelled, slots, total), given)
    clocks = got["last_end"]
    extrapolated = got["finished"] < total
    if extrapolated:
        rate = (got["issued"] - got["warm_issued"]) / (got["clocks"] - got["warm_clock"])
        clocks = known.instructions * total / rate
    clocks += _last(known, given, part)
    order = sorted(zip(core.WAITS, waits.tolist(), strict=True), key=lambda item: -item[1])
    whole = max(1.0, float(waits.sum()))
    return Simulated(
        gpu.launch_us + clocks / gpu.clock_ghz / 1e3, most, got["issued"] / got["clocks"] / modelled,
        {name: round(clocks_ / whole, 4) for name, clocks_ in order if clocks_}, loaded, known.stored_bytes,
        known.instructions, got["tensor"] / 4 / got["clocks"] / modelled, dram_share, extrapolated,
        any(trace.assumed for trace in known.traces),
    )  # fmt: skip


def _replayed(
    known: Traced, traces: Sequence[Trace], shape: tuple[int, int, int], given: Any
) -> tuple[dict[str, float], Any]:
    """What the model returns for so many multiprocessors, programs on each, and programs in all."""
    sms, slots, total = shape
    whole, waits = np.zeros(1, state.WHOLE), np.zeros(len(core.WAITS))
    whole["total"], whole["kinds"] = total, len(traces)
    core.replay(
        known.costs, *_joined([t.runs for t in traces]),
        np.concatenate([n for t in traces for n in t.notes]).astype(np.float64),
        np.concatenate([p for t in traces for p in t.phases]).astype(np.int64),
        _starts([t.notes for t in traces]),
        whole, given, *state.fresh(sms, slots, known.launch.num_warps), waits,
    )  # fmt: skip
    got = {name: whole[name][0].item() for name in state.FIGURES}
    if got["failed"]:
        raise NotSimulated("its warps wait for a barrier that none of them reaches" if got["failed"] == core.STUCK else
                           "a program's path ends without an exit")  # fmt: skip
    return got, waits


def _last(known: Traced, given: Any, part: float) -> float:
    """Clocks that the last of the programs takes longer than it would if others came later, alone on the GPU."""
    if known.last is None:
        return 0.0
    alone = given.copy()
    alone["dram"], alone["l2"] = given["dram"] / part, given["l2"] / part
    alone["spread"], alone["most_clocks"] = 1, core.NEVER
    ends = (_replayed(known, [trace], (1, 1, 1), alone)[0]["last_end"] for trace in (known.last, known.traces[0]))
    return next(ends) - next(ends)


def _starts(parts: Sequence[Sequence[Any]]) -> Any:
    """Where each warp's part begins when all are put behind one another: [program, warp], and behind it the end."""
    warps = len(parts[0])
    ends = np.concatenate([[0], np.cumsum([len(part) for program in parts for part in program])])
    return np.stack([ends[p * warps : p * warps + warps + 1] for p in range(len(parts))])


def _joined(runs: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    return np.concatenate([r for program in runs for r in program]).astype(np.int64), _starts(runs)
