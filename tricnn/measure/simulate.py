"""A built program's time on an H100 by the simulator, launch by launch, kept by content beside the compiled kernels."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..build.cache import Entry, KernelCache
from ..build.compile import CompiledKernel
from ..lower.names import SUM_TABLE, StepNumber
from ..lower.program import SUM_BLOCK, Descriptor, Program, step_numbers
from ..lower.program import Launch as ProgramLaunch
from ..machine import machines, sass, simulator
from ..machine.simulator import Hopper, Launch, NotSimulated, Simulated
from ..machine.simulator.compiled import sources
from ..system.cores import workers
from ..system.errors import TargetError
from ..system.paths import cache_folder

if TYPE_CHECKING:
    from ..build.build import Build

#: what kernels reach at best, of the data sheet's 3.35 TB/s and 989 TFLOP/s: docs/simulator.md
REACHED_BYTES_PER_US, REACHED_FLOPS_PER_US = 3.0e6, 660e6


@dataclass(frozen=True)
class Row:
    """One launch as the simulator sees it.
    ``result`` is None where it could not be simulated, and ``problem`` says why. ``limit_us``: max(bytes / 3.0 TB/s,
    operations / 660 TFLOP/s), what it would take if it did nothing else at the rates that kernels reach."""

    kernel: str
    kind: str
    bytes: int
    flops: int
    result: Simulated | None
    problem: str = ""

    @property
    def limit_us(self) -> float:
        return max(self.bytes / REACHED_BYTES_PER_US, self.flops / REACHED_FLOPS_PER_US)

    @property
    def limit(self) -> str:
        """What limits it at best: ``bytes`` or ``products``."""
        products = self.flops / REACHED_FLOPS_PER_US > self.bytes / REACHED_BYTES_PER_US
        return "products" if products else "bytes"


def summed(launches: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What the simulator says of each kernel, over all its launches.
    These are ``simulated_us``, ``limit_us``, ``limit`` (of its first launch), ``share`` = limit_us / simulated_us, and
    what its warps wait for longest, with the share of their time. All are None where it could not be simulated, but
    ``problem``, which says why."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row.kernel for row in launches):
        own = [row for row in launches if row.kernel == name]
        problem = next((row.problem for row in own if row.problem), None)
        results = [row.result for row in own if row.result is not None]
        us, limit_us = sum(r.us for r in results), sum(row.limit_us for row in own)
        main = max(results, key=lambda r: r.us, default=None)
        known = problem is None and main is not None
        found[name] = {
            "simulated_us": round(us, 3) if known else None,
            "limit_us": round(limit_us, 3),
            "limit": own[0].limit,
            "share": round(limit_us / us, 4) if known else None,
            "waits_for": main.reason if main is not None and known else None,
            "waits_share": main.waits.get(main.reason, 0.0) if main is not None and known else None,
            **({"problem": problem} if problem else {}),
        }
    return found


def check_target(target: str) -> None:
    """Raise TargetError for a target that the simulator has no model of."""
    if target != "sm_90":
        raise TargetError(f"only sm_90 (H100) can be simulated, not {target}")


def rows(
    built: Build, gpu: Hopper | None = None, cache_dir: Path | None = None,
    on_done: Callable[[], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Every launch of a build, simulated, in order. ``on_done``: called for each that is done.

    Raises TargetError for other targets than sm_90.
    """
    check_target(built.target)
    program, batch = built.program, built.program.batch
    jobs: dict[str, Future[Simulated | str]] = {}
    keys = []
    with ThreadPoolExecutor(workers()) as pool:  # the simulator's loops do not hold the interpreter's lock
        for launch in program.launches:
            how = how_launched(program, launch)
            key = json.dumps([launch.function, how], default=dict)
            if key not in jobs:
                jobs[key] = pool.submit(kept, built.compiled[launch.function], how, gpu, cache_dir)
            keys.append(key)
        found = []
        for launch, key in zip(program.launches, keys, strict=True):
            answer = jobs[key].result()
            result, problem = (answer, "") if isinstance(answer, Simulated) else (None, answer)
            figures = program.launch_bytes(launch, batch), launch.flops * batch
            found.append(Row(launch.function, launch.kind, *figures, result, problem))
            if on_done is not None:
                on_done()
    return found


class How(NamedTuple):
    """How a kernel is launched: see simulator.Launch."""

    grid: tuple[int, int, int]
    signature: Mapping[str, str]
    values: Mapping[str, int | Sequence[int | None]]
    read_bytes: float | None


def how_launched(program: Program, launch: ProgramLaunch) -> How:
    """A launch of a program as the simulator is told of it."""
    batch = program.batch
    x, y, z = [*(extent.at(batch) for extent in launch.grid), 1, 1][:3]
    signature = dict(next(f.parameters for f in program.functions if f.name == launch.function))
    numbers = step_numbers(batch, 1, 1)
    values: dict[str, int | Sequence[int | None]] = {}
    for argument, given in zip(signature, launch.arguments, strict=True):
        if isinstance(given, StepNumber):
            values[argument] = numbers[given]
        elif given in program.descriptors:
            values[argument] = _shape(program.descriptors[given])
        elif given == SUM_TABLE:
            values[argument] = _sums(program)
    return How((x, y, z), signature, values, sum(moved.read for moved in program.moved(launch, batch).values()))


def _sums(program: Program) -> list[int]:
    """The table by which one launch adds up partial sums, [blocks, 5], as `sum_partials_of_many` reads it.
    Its buffers lie far apart, at addresses that no argument has."""
    names = dict.fromkeys(name for s in program.sums for name in (s.source, s.target))
    buffers = {name: 1000 + i << 36 for i, name in enumerate(names)}
    return [
        number
        for s in program.sums
        for first in range(0, s.length, SUM_BLOCK)
        for number in (buffers[s.source] + 4 * (s.start + first), buffers[s.target] + 4 * first, s.parts, s.stride,
                       min(SUM_BLOCK, s.length - first))
    ]  # fmt: skip


def _shape(described: Descriptor) -> list[int | None]:
    """The shape of a descriptor's tensor as far as the program says it: images or rows are any number."""
    *images, channels = described.seen
    seen = [*images, None, channels] if described.images_last else [None, *described.seen]
    return seen[-len(described.box) :]


def kept(code: CompiledKernel, how: How, gpu: Hopper | None = None, cache_dir: Path | None = None) -> Simulated | str:
    """What the simulator says of a launch of a compiled kernel, or why it cannot; from the cache if it did before."""
    gpu = gpu or Hopper()
    facts = [*how, code.num_warps, code.registers, code.shared_bytes, asdict(gpu), simulator.VERSION, _model()]
    key = hashlib.sha256(code.binary + json.dumps(facts, default=dict).encode()).hexdigest()
    disk = KernelCache(cache_folder() if cache_dir is None else cache_dir)
    entry = disk.get(key)
    if entry is not None and set(entry.facts) == {"simulated"}:
        return Simulated(**entry.facts["simulated"])
    if entry is not None and set(entry.facts) == {"problem"}:
        return str(entry.facts["problem"])
    try:
        launch = launch_of(code.binary, how, code.num_warps, code.registers, code.shared_bytes)
        result = simulator.simulate(launch, gpu)
    except NotSimulated as problem:
        disk.put(key, Entry({"problem": str(problem)}, {}))
        return str(problem)
    disk.put(key, Entry({"simulated": asdict(result)}, {}))
    return result


def launch_of(cubin: bytes, how: How, num_warps: int, registers: int, shared_bytes: int) -> Launch:
    """A cubin's launch as the simulator takes it. Raises TargetError where the machine code cannot be read."""
    try:
        functions = sass.disassembled(cubin, _nvdisasm())
        parameters = sass.parameters(cubin)
    except (OSError, subprocess.CalledProcessError, sass.InspectionError) as error:
        raise TargetError(f"the machine code cannot be read: {error}") from None
    if len(functions) != 1:
        raise NotSimulated(f"the machine code has {len(functions)} functions, and calls are not followed")
    resources = num_warps, registers, shared_bytes
    return Launch(functions[0], parameters, how.grid, *resources, how.signature, how.values, how.read_bytes)


def _nvdisasm() -> str:
    import triton

    return str(triton.knobs.nvidia.nvdisasm.path)


@cache
def _model() -> str:
    """A digest of all that a result goes by beside the kernel, so that changing it makes the older results stale."""
    return sources(Path(sass.__file__), Path(machines.__file__))
