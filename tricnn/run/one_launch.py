"""One launch of a program by itself, as the emitted file's ``step`` makes it: to time it, to check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..lower.program import Launch, Program


def prepared(module: Any, program: Program, launch: Launch, values: Mapping[Any, Any], batch: int) -> Callable[[], Any]:
    """What makes one launch, any number of times.
    It is the kernel of the emitted ``module`` on ``values``, the tensors, descriptors and numbers that its arguments
    name."""
    function = next(f for f in program.functions if f.name == launch.function)
    grid = tuple(extent.at(batch) for extent in launch.grid)
    arguments = [values[a] for a in launch.arguments]

    def make() -> Any:
        # looked up now: whoever watches a module's kernels puts others in their place
        kernel = getattr(module, launch.function)[grid]
        return kernel(*arguments, num_warps=function.num_warps, num_stages=function.num_stages)

    return make
