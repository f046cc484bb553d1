"""Seconds that a piece of work takes: by the wall, or on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]
Clock = Callable[[Work], float]


def wall_clock(work: Work) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


#: seconds: what takes less may have taken only the time that Python needs to launch it
LAUNCHING = 60e-6


class CudaClock:
    """Seconds on the device's own clock, by events, the mean of ``repeats`` calls in a row; of short work recorded as a
    CUDA graph, so that launching it takes no time."""

    def __init__(self, repeats: int = 10):
        import torch

        self.torch, self.repeats = torch, repeats

    def __call__(self, work: Work) -> float:
        seconds = self.timed(lambda: [work() for _ in range(self.repeats)])
        if seconds < LAUNCHING * self.repeats:
            seconds = self.timed(self.recorded(work))
        return seconds / self.repeats

    def timed(self, work: Work) -> float:
        torch = self.torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def recorded(self, work: Work) -> Work:
        """All the calls as one launch, made once already."""
        cuda = self.torch.cuda
        graph, stream = cuda.CUDAGraph(), cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(self.repeats):
                    work()
            finally:
                graph.capture_end()
        graph.replay()
        return lambda: graph.replay()
