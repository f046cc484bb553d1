"""Dropout and stochastic depth with counter-based random numbers: seed and step give the mask, in every executor.

``y = x * keep / (1 - p)``, where ``keep`` is drawn by Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011) from a logical index, the layer's number and the step (docs/architecture.md): the index of each
element (Srivastava et al. 2014); that of image and channel, which goes as a whole (Tompson et al., "Efficient object
localization using convolutional networks", CVPR 2015); or that of the image (Huang et al., "Deep networks with
stochastic depth", ECCV 2016). Their gradient is the same operation on dy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..numpy_ops.random import keep_mask
from ..table import Attr, Kind, integer, number, register
from .pointwise import first_shape

#: p, and a number that no other layer of a network has (``GraphBuilder.add`` gives it)
DRAWS = {"p": number(0.5, 0.0, 0.999), "layer": integer(0)}


def _random(name: str, drawn: Callable[[Any], tuple[int, ...]], attrs: dict[str, Attr], *, operations: int,
            doc: str, elementwise: bool = True) -> None:  # fmt: skip
    """Add a row that keeps or drops; ``drawn`` is the shape of its mask by that of its operand."""

    def mask(env: Any, a: Any, x: Any) -> Any:
        return keep_mask(drawn(tuple(x.shape)), p=a["p"], seed=env.seed, layer=a["layer"], step=env.step)

    def aten(env: Any, a: Any, x: Any) -> Any:
        import torch

        return x * torch.as_tensor(mask(env, a, x)).to(x.device) * (1 / (1 - a["p"]))

    register(
        name, Kind.POINTWISE, "x",
        attrs=attrs,
        shape=first_shape,
        numpy=lambda env, a, x: x * mask(env, a, x) * x.dtype.type(1 / (1 - a["p"])),
        gradient=lambda g, node, dy: [g.add(name, dy, **node.attrs)],
        aten=aten,
        elementwise=elementwise, keeps_zero=True, operations=operations,
        random=True,
        doc=doc,
    )  # fmt: skip


_random("dropout", lambda shape: shape, DRAWS, operations=160, doc="y = x / (1 - p) where kept, else 0; inference "
        "leaves it out")  # fmt: skip
_random(
    "dropout2d",
    lambda shape: (*shape[:2], *[1] * (len(shape) - 2)),
    DRAWS,
    operations=160,
    elementwise=False,
    doc="y = x / (1 - p) for each image's channels that are kept, 0 for the others; inference leaves it out",
)
_random(
    "stochastic_depth", lambda shape: (shape[0], *[1] * (len(shape) - 1)), {**DRAWS, "p": number(0.2, 0.0, 0.999)},
    operations=2, doc="y = x / (1 - p) for the images that are kept, 0 for the others; inference leaves it out",
)  # fmt: skip
