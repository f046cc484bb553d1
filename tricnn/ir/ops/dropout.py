"""Dropout with counter-based random numbers: seed and step give the mask, in every executor.

``y = x * keep / (1 - p)``, where ``keep`` is drawn by Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011) from the element's logical index, the layer's number and the step (docs/architecture.md). Its
gradient is the same operation on dy.
"""

from __future__ import annotations

from typing import Any

from ..numpy_ops.random import keep_mask
from ..table import Kind, integer, number, register
from .pointwise import first_shape


def _numpy(env: Any, a: Any, x: Any) -> Any:
    keep = keep_mask(x.shape, p=a["p"], seed=env.seed, layer=a["layer"], step=env.step)
    return x * keep * x.dtype.type(1 / (1 - a["p"]))


def _aten(env: Any, a: Any, x: Any) -> Any:
    import torch

    keep = keep_mask(tuple(x.shape), p=a["p"], seed=env.seed, layer=a["layer"], step=env.step)
    return x * torch.as_tensor(keep).to(x.device) * (1 / (1 - a["p"]))


register(
    "dropout", Kind.POINTWISE, "x",
    attrs={"p": number(0.5, 0.0, 0.999), "layer": integer(0)},
    shape=first_shape,
    numpy=_numpy,
    gradient=lambda g, node, dy: [g.add("dropout", dy, **node.attrs)],
    aten=_aten,
    elementwise=True, keeps_zero=True, operations=160,
    random=True,
    doc="y = x / (1 - p) where kept, else 0; inference leaves it out",
)  # fmt: skip
