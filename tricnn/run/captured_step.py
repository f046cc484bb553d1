"""A whole step as one CUDA graph: where kernels are so short that launching them takes longer than running them.

A graph replays the same launches on the same addresses with the same numbers. So only steps whose launches take no
seed and no step number (networks without dropout in training) are captured, and inputs are copied to where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..lower.names import StepNumber
from ..lower.predicted_time import least_us
from ..lower.program import Program

WARM_UPS = 3
#: microseconds that a launch from Python takes, about; a kernel that runs longer hides the next launch behind itself
LAUNCH_US = 20.0


def worth_capturing(program: Program, batch: int) -> bool:
    """Is the step shorter than its launches, and the same every time?"""
    if any(({*StepNumber} - {StepNumber.BATCH}) & {*launch.arguments} for launch in program.launches):
        return False
    least = sum(least_us(program, launch, batch) for launch in program.launches)
    return least < LAUNCH_US * len(program.launches)


def capture(
    work: Callable[[], Any], cuda: Any, changed: Iterable[Any] = (), warm_ups: int = WARM_UPS
) -> Callable[[], Any]:
    """What launches ``work`` as one CUDA graph, however often it is called.
    It is run a few times first, so that nothing is compiled while it is recorded; what that changes for good
    (``changed``: running statistics) is put back as it was. ``cuda`` is torch.cuda. Raises RuntimeError for work that
    cannot be recorded."""
    before = [(tensor, tensor.clone()) for tensor in changed]
    aside = cuda.Stream()
    aside.wait_stream(cuda.current_stream())
    with cuda.stream(aside):
        for _ in range(warm_ups):
            work()
    cuda.current_stream().wait_stream(aside)
    for tensor, copy in before:
        tensor.copy_(copy)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device meanwhile
        work()
    return graph.replay
