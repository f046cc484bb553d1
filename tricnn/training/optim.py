"""Stochastic gradient descent, on NumPy arrays and torch tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.errors import TricnnError


@dataclass
class SGD:
    """PyTorch's definition (torch.optim.SGD, dampening 0), with ``d = g + weight_decay·p``:

        v = d at a parameter's first step, then v = momentum·v + d
        p = p - lr·v,   with Nesterov's momentum   p = p - lr·(d + momentum·v)

    Parameters are changed in place, gradients are left as they are. Parameters in ``no_decay`` get no weight decay.
    ``velocity`` holds v by parameter, in the parameters' own layout.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    no_decay: frozenset[str] = frozenset()
    velocity: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise TricnnError(f"momentum {self.momentum} is not accepted; it is at least 0 and less than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise TricnnError(f"weight decay {self.weight_decay} is not accepted; it is 0 or a positive number")
        if self.nesterov and not self.momentum:
            raise TricnnError("nesterov needs a momentum greater than 0")

    def step(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], lr: float) -> None:
        """One update of every parameter that has a gradient."""
        for name, gradient in gradients.items():
            p = parameters[name]
            decay = 0.0 if name in self.no_decay else self.weight_decay
            update = gradient + decay * p if decay else gradient
            if self.momentum:
                v = self.velocity.get(name)
                if v is None:
                    v = self.velocity[name] = update + 0  # its own memory, whatever becomes of the gradient's
                else:
                    v *= self.momentum
                    v += update
                update = update + self.momentum * v if self.nesterov else v
            p -= lr * update
