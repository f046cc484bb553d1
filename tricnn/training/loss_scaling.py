"""Dynamic loss scaling: gradients of activations that fp16 would round to 0, moved to where it has numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..system.errors import TricnnError

#: below such a scale no step has been finite for so long that it is not the scale that is too large
LEAST = 2.0**-24


@dataclass(frozen=True)
class LossScaling:
    """How the factor of the loss changes from step to step.

    That is by the rule and the defaults of ``torch.amp.GradScaler`` (Micikevicius et al., "Mixed precision training",
    2018, section 3.2):

        scale · backoff_factor   after a step with a gradient that is infinite or NaN; that step updates nothing
        scale · growth_factor    after ``growth_interval`` finite steps on end
        scale                    otherwise

    Raises TricnnError for numbers that make no sense.
    """

    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        fits = {
            "init_scale": LEAST <= self.init_scale < math.inf,
            "growth_factor": 1 < self.growth_factor < math.inf,
            "backoff_factor": 0 < self.backoff_factor < 1,
            "growth_interval": self.growth_interval >= 1,
        }
        accepted = {
            "init_scale": f"a number of at least {LEAST:.1g}",
            "growth_factor": "a number above 1",
            "backoff_factor": "between 0 and 1",
            "growth_interval": "a number of steps, at least 1",
        }
        for name, right in fits.items():
            if not right:
                raise TricnnError(f"{name} {getattr(self, name)} is not accepted; it is {accepted[name]}")

    def after(self, scale: float, good: int, finite: bool) -> tuple[float, int]:
        """The scale for the next step, an fp32 number, and how many steps on end were finite since it last changed.

        Given are the same two before a step, and whether all its gradients were ``finite``.
        """
        if not finite:
            return float(np.float32(scale * self.backoff_factor)), 0
        if good + 1 < self.growth_interval:
            return scale, good + 1
        with np.errstate(over="ignore"):
            grown = float(np.float32(scale * self.growth_factor))
        return grown if math.isfinite(grown) else scale, 0


def finite(gradients: Mapping[str, Any]) -> bool:
    """Whether every number of every gradient is finite."""
    return all(bool(g.isfinite().all() if hasattr(g, "detach") else np.isfinite(g).all()) for g in gradients.values())
