"""SGD for parameters on a GPU, all of them updated in one launch.
It moves 20 bytes per parameter, or 22 where products read a 16-bit copy of it, which is written in the same pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..run.rounded_weights import RoundedWeights
from .optim import SGD

BLOCK = 1024


@dataclass
class OneLaunchSGD(SGD):
    """:class:`SGD`, the same equations, on contiguous fp32 torch tensors, by ``kernels/sgd.py``.

    Velocities start as zeros, which gives v = d at the first step. The addresses are written down once, and again when
    a tensor is another one. ``rounded`` (:meth:`tricnn.run.model.Model.rounded_weights`) has the copies to write.
    """

    rounded: RoundedWeights | None = None
    _addresses: tuple[Any, ...] = field(default=(), repr=False)
    _table: Any = field(default=None, repr=False)

    def step(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], lr: float) -> None:
        """One update of every parameter that has a gradient: one launch."""
        import torch
        import triton.language as tl

        from ..kernels.sgd import sgd_of_many

        copies = self.rounded.copies if self.rounded is not None else {}
        for name in gradients:
            if name not in self.velocity:
                self.velocity[name] = torch.zeros_like(parameters[name])
        addresses = tuple(
            (p.data_ptr(), g.data_ptr(), self.velocity[name].data_ptr(), p.numel(), int(name not in self.no_decay),
             copies[name].data_ptr() if name in copies else 0)
            for name, g in gradients.items()
            for p in [parameters[name]]
        )  # fmt: skip
        if addresses != self._addresses:
            rows = [
                (p + 4 * i, g + 4 * i, v + 4 * i, min(BLOCK, count - i), decays, copy and copy + 2 * i)
                for p, g, v, count, decays, copy in addresses
                for i in range(0, count, BLOCK)
            ]
            device = next(iter(gradients.values())).device
            self._table, self._addresses = torch.tensor(rows, dtype=torch.int64, device=device), addresses
        kind = next((getattr(tl, str(copy.dtype).removeprefix("torch.")) for copy in copies.values()), None)
        sgd_of_many[(len(self._table),)](
            self._table, float(lr), float(self.momentum), float(self.weight_decay), NESTEROV=self.nesterov, BLOCK=BLOCK,
            ROUNDED=kind,
        )  # fmt: skip
        if self.rounded is not None:
            self.rounded.written(gradients)
