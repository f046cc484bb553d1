"""Seconds that a piece of work takes: by the wall, or on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..run.captured_step import capture

Work = Callable[[], Any]
Clock = Callable[[Work], float]


def wall_clock(work: Work) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


#: seconds: what takes less may have taken only the time that Python needs to launch it
LAUNCHING = 60e-6
#: seconds: of calls in a row, so that the clock's own steps do not count
ENOUGH = 0.02


class CudaClock:
    """Seconds on the device's own clock, by events.
    They are the mean of ``repeats`` calls in a row (None: as many as take :data:`ENOUGH` seconds, fifty at most, of
    work that ran before). Unless ``as_launched``, short work is recorded as a CUDA graph, so that launching it takes no
    time."""

    def __init__(self, repeats: int | None = 10, as_launched: bool = False):
        import torch

        self.torch, self.repeats, self.as_launched = torch, repeats, as_launched

    def __call__(self, work: Work) -> float:
        repeats = self.repeats or self.enough(work)

        def repeated() -> None:
            for _ in range(repeats):
                work()

        seconds = self.timed(repeated)
        if seconds < LAUNCHING * repeats and not self.as_launched:
            replay = capture(repeated, self.torch.cuda, warm_ups=0)
            replay()
            seconds = self.timed(replay)
        return seconds / repeats

    def enough(self, work: Work) -> int:
        return max(1, min(50, int(ENOUGH / max(self.timed(work), 1e-5))))

    def timed(self, work: Work) -> float:
        """Seconds of one call, from its first kernel to its last."""
        torch = self.torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3
