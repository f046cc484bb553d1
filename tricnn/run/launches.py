"""What is done between the launches of an emitted step: tests poison memory there, many processes send gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..compiler.plan import Plan
from ..lower.names import ARRIVALS
from ..lower.program import Program

#: is told a name and what is so called, in the middle of a step and as it is stored; what it changes of it stays
Told = Callable[[str, Any], None]


def _nobody(name: str, x: Any) -> None:
    """Is told, and does nothing."""


@dataclass(frozen=True)
class Watcher:
    """What is done in the middle of a step, as soon as a gradient or a sum is finished.
    ``gradient`` is told each parameter and its gradient; ``sums`` each value of :func:`sums_of_batch`, before anything
    reads it, as rows [2, C]."""

    gradient: Told = _nobody
    sums: Told = _nobody


def _nothing(launch: int) -> None:
    """Do nothing."""


@contextmanager
def between_launches(
    module: Any,
    program: Program,
    before: Callable[[int], None] = _nothing,
    after: Callable[[int], None] = _nothing,
    first: int = 0,
) -> Iterator[None]:
    """A context in which the ``step`` of an emitted module calls ``before`` and ``after`` around each launch.
    They are given the launch's number, from number ``first`` in the order of ``program.launches``."""
    numbers = iter(range(first, len(program.launches)))

    class Launched:
        def __init__(self, function: Any):
            self.function = function

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def launch(*arguments: Any, **options: Any) -> None:
                number = next(numbers)
                before(number)
                self.function[grid](*arguments, **options)
                after(number)

            return launch

    functions = {f.name: getattr(module, f.name) for f in program.functions}
    vars(module).update({name: Launched(function) for name, function in functions.items()})
    try:
        yield
    finally:
        vars(module).update(functions)


@contextmanager
def counting_programs(tensors: Mapping[str, Any]) -> Iterator[None]:
    """Inside, launches count their programs, and each leaves zeros.
    One that was interrupted (under Triton's interpreter: a GPU makes every launch to its end) finds zeros again when
    the step is made anew."""
    try:
        yield
    except BaseException:
        if ARRIVALS in tensors:
            tensors[ARRIVALS].zero_()
        raise


def finished_after(
    plan: Plan, written: Sequence[Sequence[str]], values: Sequence[tuple[str, str]]
) -> list[list[tuple[str, str]]]:
    """For each launch, or kernel, the pairs of ``values`` whose value nothing changes after it.
    A pair is a name and the value that it is told with. ``written`` are the buffers that each launch writes. A gradient
    that lies in one buffer with others (weights of merged layers) is finished when the whole buffer is; one that
    nothing computes, at the end."""
    last: dict[str, int] = {}
    for number, buffers in enumerate(written):
        last.update(dict.fromkeys(buffers, number))
    found: list[list[tuple[str, str]]] = [[] for _ in written]
    for name, value in values:
        found[last.get(plan.place(value).buffer, len(written) - 1)].append((name, value))
    return found


def sums_of_batch(plan: Plan) -> list[str]:
    """The statistics, and sums of gradients, that normalising needs of the whole batch, in the order of the plan."""
    return [value for kernel in plan.kernels for value in kernel.writes if plan.graph.by_name[value].row.of_batch]


def summed_after(plan: Plan, owners: Sequence[str], written: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each launch the values of :func:`sums_of_batch` that it finishes.
    It is the last one of a value's own kernel that writes to its buffer, in which other kernels may have values beside
    it. ``owners`` names the kernel that each launch is of, ``written`` the buffers that it writes."""
    found: list[list[str]] = [[] for _ in written]
    by_value = {value: kernel.name for kernel in plan.kernels for value in kernel.writes}
    for value in sums_of_batch(plan):
        buffer = plan.place(value).buffer
        writing = [i for i, buffers in enumerate(written) if buffer in buffers]
        own = [i for i in writing if owners[i] == by_value[value]]
        found[(own or writing)[-1]].append(value)
    return found
