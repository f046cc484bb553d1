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


class CudaClock:
    """Seconds on the device's own clock, by events, the mean of ``repeats`` calls in a row."""

    def __init__(self, repeats: int = 10):
        import torch

        self.torch, self.repeats = torch, repeats

    def __call__(self, work: Work) -> float:
        torch = self.torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(self.repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / self.repeats
