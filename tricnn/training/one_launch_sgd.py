"""SGD for parameters on a GPU: all of them updated in one launch, 20 bytes moved per parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .optim import SGD

BLOCK = 1024


@dataclass
class OneLaunchSGD(SGD):
    """:class:`SGD`, the same equations, on contiguous fp32 torch tensors, by ``kernels/sgd.py``.

    Velocities start as zeros, which gives v = d at the first step. The addresses are written down once, and again when
    a tensor is another one.
    """

    _addresses: tuple[Any, ...] = field(default=(), repr=False)
    _table: Any = field(default=None, repr=False)

    def step(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], lr: float) -> None:
        """One update of every parameter that has a gradient: one launch."""
        import torch

        from ..kernels.sgd import sgd_of_many

        for name in gradients:
            if name not in self.velocity:
                self.velocity[name] = torch.zeros_like(parameters[name])
        addresses = tuple(
            (p.data_ptr(), g.data_ptr(), self.velocity[name].data_ptr(), p.numel(), int(name not in self.no_decay))
            for name, g in gradients.items()
            for p in [parameters[name]]
        )
        if addresses != self._addresses:
            rows = [
                (p + 4 * first, g + 4 * first, v + 4 * first, min(BLOCK, count - first), decays)
                for p, g, v, count, decays in addresses
                for first in range(0, count, BLOCK)
            ]
            device = next(iter(gradients.values())).device
            self._table, self._addresses = torch.tensor(rows, dtype=torch.int64, device=device), addresses
        sgd_of_many[(len(self._table),)](
            self._table, float(lr), float(self.momentum), float(self.weight_decay), NESTEROV=self.nesterov, BLOCK=BLOCK
        )
