"""Sums, means and maxima over the channels of each pixel, as masks of images are made of (CBAM, Woo et al. 2018).

    sum: y[n,0,h,w] = sum of x[n,c,h,w] over c    its gradient: dx[n,c,h,w] = dy[n,0,h,w], the other way round

The gradient of a maximum is looked for in x again. Of channels that are equal, ``first`` gives it to the first one, as
``torch.max(x, dim)`` does, and ``shared`` gives each the same part of it, as ``torch.amax`` does. A maximum is NaN
where a channel is: then ``first`` gives the gradient to the first NaN, and ``shared`` makes it NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scalar import Value
from ..table import Kind, integer, register, require, text
from ..types import N, TensorType

_TWICE = "second derivatives are not supported"
TIES = {"ties": text("first", choices=("first", "shared"))}


def _mask(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) == 4, lambda: f"x must be [N, C, H, W], it is {x}")
    return TensorType((N, 1, *x.spatial))


def _spread(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) == 4 and x.channels == 1, lambda: f"x must be [N, 1, H, W], it is {x}")
    return TensorType((N, a["channels"], *x.spatial))


def _max_spread(a: Any, dy: TensorType, x: TensorType) -> TensorType:
    wanted = _mask(a, x)
    require(dy.shape == wanted.shape, lambda: f"of {x}, dy must be {wanted}, it is {dy}")
    return x


def _sum_gradient(g: Any, node: Any, dy: str) -> list[str]:
    return [g.add("spread_channels", dy, channels=g.type(node.inputs[0]).channels)]


def _mean_gradient(g: Any, node: Any, dy: str) -> list[str]:
    channels = g.type(node.inputs[0]).channels
    return [g.add("spread_channels", g.add("scale", dy, factor=1 / channels), channels=channels)]


def _max_gradient(g: Any, node: Any, dy: str) -> list[str]:
    return [g.add("max_channels_grad", dy, node.inputs[0], **node.attrs)]


def _spread_numpy(env: Any, a: Any, x: Any) -> Any:
    """Channels-last in memory."""
    n, _, h, w = x.shape
    return np.broadcast_to(x.transpose(0, 2, 3, 1), (n, h, w, a["channels"])).copy().transpose(0, 3, 1, 2)


def _max_grad(env: Any, a: Any, dy: Any, x: Any) -> Any:
    largest = x == x.max(axis=1, keepdims=True)
    if a["ties"] == "shared":
        with np.errstate(invalid="ignore"):  # none of those beside a NaN is the largest
            return largest * dy / largest.sum(axis=1, keepdims=True, dtype=dy.dtype)
    first = (largest | np.isnan(x)).argmax(axis=1)[:, None]
    return np.where(np.arange(x.shape[1]).reshape(-1, 1, 1) == first, dy, dy.dtype.type(0))


def _aten_max_grad(env: Any, a: Any, dy: Any, x: Any) -> Any:
    import torch

    largest = x == x.amax(1, keepdim=True)
    if a["ties"] == "shared":
        return largest * dy / largest.sum(1, keepdim=True)
    first = (largest | x.isnan()).to(torch.uint8).argmax(1, keepdim=True)
    return torch.where(torch.arange(x.shape[1], device=x.device).view(-1, 1, 1) == first, dy, 0)


def _max_grad_moved(a: Any, errors: Any, dy: Any, x: Any) -> Any:
    """All of dy where another channel may be the largest, being computed: it goes there, or is shared otherwise."""
    edy, ex = errors
    near = x + ex >= (x - ex).max(axis=1, keepdims=True)
    contested = near & (near.sum(axis=1, keepdims=True) > 1)
    return np.where(contested, np.abs(dy) + edy, np.where(near, edy, 0.0))


register(
    "sum_channels", Kind.REDUCTION, "x",
    shape=_mask,
    numpy=lambda env, a, x: x.sum(axis=1, keepdims=True),
    gradient=_sum_gradient,
    aten=lambda env, a, x: x.sum(dim=1, keepdim=True),
    on_load=(0,),
    doc="y[n,0,h,w] = sum of x[n,c,h,w] over c",
)  # fmt: skip
register(
    "mean_channels", Kind.REDUCTION, "x",
    shape=_mask,
    numpy=lambda env, a, x: x.mean(axis=1, keepdims=True),
    gradient=_mean_gradient,
    aten=lambda env, a, x: x.mean(dim=1, keepdim=True),
    means=lambda a, x: [("sum_channels", {}), ("scale", {"factor": 1 / x.channels})],
    on_load=(0,),
    doc="y[n,0,h,w] = mean of x[n,c,h,w] over c",
)  # fmt: skip
register(
    "spread_channels", Kind.POINTWISE, "x",
    attrs={"channels": integer(least=1)},
    shape=_spread,
    numpy=_spread_numpy,
    gradient=lambda g, node, dx: [g.add("sum_channels", dx)],
    aten=lambda env, a, x: x.expand(-1, a["channels"], -1, -1),
    scalar=Value("x"),
    keeps_zero=True, operations=0,
    doc="y[n,c,h,w] = x[n,0,h,w] for each of so many channels",
)  # fmt: skip
register(
    "max_channels", Kind.REDUCTION, "x",
    attrs=TIES,
    shape=_mask,
    numpy=lambda env, a, x: x.max(axis=1, keepdims=True),
    gradient=_max_gradient,
    aten=lambda env, a, x: x.amax(dim=1, keepdim=True),
    on_load=(0,),
    doc="y[n,0,h,w] = max of x[n,c,h,w] over c; of equal channels the first has the gradient, or all share it",
)  # fmt: skip
register(
    "max_channels_grad", Kind.REDUCTION, "dy x",
    attrs=TIES,
    shape=_max_spread,
    numpy=_max_grad,
    gradient=_TWICE,
    aten=_aten_max_grad,
    moved=_max_grad_moved,
    on_load=(0, 1),
    doc="dx[n,c,h,w] = dy[n,0,h,w] where x[n,c,h,w] is the largest over c, or its part of it, else 0",
)  # fmt: skip
