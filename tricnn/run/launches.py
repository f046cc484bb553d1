"""What is done between the launches of an emitted step: tests poison memory there, many processes send gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..compiler.plan import Plan
from ..lower.program import Program

#: is told a parameter whose gradient is finished, and the gradient in the layout that it is stored in
Watcher = Callable[[str, Any], None]


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
    """Inside, the ``step`` of an emitted module calls ``before`` and ``after`` with each launch's number, from number
    ``first`` in the order of ``program.launches``."""
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


def finished_after(plan: Plan, written: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each launch, or kernel, the parameters whose gradient nothing changes after it. ``written`` are the buffers
    that each one writes. A gradient that lies in one buffer with others (weights of merged layers) is finished when the
    whole buffer is; one that nothing computes, at the end."""
    last: dict[str, int] = {}
    for number, buffers in enumerate(written):
        last.update(dict.fromkeys(buffers, number))
    found: list[list[str]] = [[] for _ in written]
    for parameter, value in plan.graph.gradients:
        found[last.get(plan.place(value).buffer, len(written) - 1)].append(parameter)
    return found
