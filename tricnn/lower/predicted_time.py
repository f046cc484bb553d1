"""How long a program is predicted to take: the one prediction that is shown anywhere.
It goes by the model of compiler/cost.py, from the program's own bytes, flop and grids. There is also the least time
that bytes and products alone allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from ..compiler.cost import Cost, Work, by_channel
from ..compiler.plan import Kernel
from ..ir.table import OPS, Kind
from ..machine.machines import machine_of
from .program import Launch, Program


@dataclass(frozen=True)
class Time:
    """Seconds of one launch, and what most of them go to: ``launch``, ``bytes`` or ``operations``."""

    seconds: float
    bound: str


def predicted(program: Program) -> tuple[Time, ...]:
    """The time of each launch, in order, at the batch size the program was lowered for."""
    cost = Cost(program.batch, program.dtype, program.target)
    kernels = {kernel.name: kernel for kernel in program.plan.kernels}
    found, begun = [], set()
    for launch in program.launches:
        work = _work(program, launch, kernels, cost, launch.kernel not in begun)
        begun.add(launch.kernel)
        found.append(Time(cost.seconds(work), cost.bound(work)))
    return tuple(found)


def predicted_seconds(program: Program) -> tuple[float, ...]:
    return tuple(time.seconds for time in predicted(program))


def least_us(program: Program, launch: Launch, batch: int | None = None, device: str = "") -> float:
    """Microseconds that a launch needs at least, at the program's batch size, or at another.
    They come of its bytes, the operations of its products (all else may hide behind them) and the data sheet of the
    target's GPU, or of ``device``."""
    batch = program.batch if batch is None else batch
    multiplies = launch.kind in OPS and OPS[launch.kind].product
    flops = launch.flops * batch if multiplies else 0
    return machine_of(program.target, device).least_us(program.dtype, program.launch_bytes(launch, batch), flops)


def microseconds(seconds: Iterable[float]) -> float:
    """The sum of times in seconds, as microseconds, to a nanosecond."""
    return round(sum(seconds) * 1e6, 3)


def _work(program: Program, launch: Launch, kernels: Mapping[str, Kernel], cost: Cost, main: bool) -> Work:
    """A kernel's first launch does all it computes; those behind it add up partial results."""
    batch, total = program.batch, program.launch_bytes(launch, program.batch)
    moved = program.moved(launch, batch)
    parameters = sum(moved[b].read for b in dict.fromkeys(launch.reads) if program.buffers[b].persistent)
    programs = prod(extent.at(batch) for extent in launch.grid)
    kernel = kernels[launch.kernel]
    plan = program.plan
    multiplies = kernel.anchor.kind is Kind.CONTRACTION and not by_channel(kernel.anchor, plan.graph)
    products = launch.flops * batch if main and multiplies else 0
    arithmetic = cost.arithmetic(kernel, plan.graph, plan.storage) if main else total / 2
    waiting = cost.waiting(kernel, plan.graph, plan.storage) if main else 0.0
    return Work(min(parameters, total), max(total - parameters, 0), products, arithmetic, programs, waiting)
