"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from ..system.errors import TricnnError

SCHEDULES = ("constant", "step", "cosine")


@dataclass(frozen=True)
class Schedule:
    """``schedule(step)``, step from 0, is the learning rate of that step.

    For the first ``warmup`` steps it is ``lr·(step + 1)/(warmup + 1)``: it grows evenly and reaches ``lr`` right after
    (Goyal et al. 2017, section 2.2). From then on

        constant   lr
        step       lr·gamma^k, k the number of ``milestones`` (steps) at or before the step
        cosine     lr·(1 + cos(π·(step - warmup)/(total - warmup)))/2, zero at ``total`` and after
                   (Loshchilov and Hutter 2017, eq. 5)
    """

    kind: str = "constant"
    lr: float = 0.1
    warmup: int = 0
    total: int | None = None
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise TricnnError(f"schedule {self.kind!r} is unknown; known are {', '.join(SCHEDULES)}")
        if not 0 < self.lr < math.inf:
            raise TricnnError(f"learning rate {self.lr} is not accepted; it is a positive number")
        if self.warmup < 0:
            raise TricnnError(f"warm-up of {self.warmup} steps is not accepted; it is 0 or more")
        if self.kind == "cosine" and (self.total is None or self.total <= self.warmup):
            raise TricnnError(f"schedule cosine: {self.total} steps in all leave none after {self.warmup} of warm-up")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise TricnnError(f"milestones {list(self.milestones)} are not accepted; they must increase")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.kind == "step":
            return self.lr * self.gamma ** bisect_right(self.milestones, step)
        if self.kind == "cosine":
            assert self.total is not None
            done = min(1.0, (step - self.warmup) / (self.total - self.warmup))
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr
