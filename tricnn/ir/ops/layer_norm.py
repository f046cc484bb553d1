"""Layer normalisation over the channels of each pixel (Ba, Kiros & Hinton, 2016), in parts that kernels are made of.

``y = (x - mean) * rsqrt(var + eps) * weight + bias``, with the mean and the biased variance of a pixel's C channels. In
channels-last memory these lie side by side. With xhat = (x - mean) * rstd and g = dy * weight the gradients are

    dbias = sum(dy)    dweight = sum(dy * xhat)    dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

sums over all pixels, means over the channels of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..table import Kind, register, require
from ..types import N, TensorType
from .norm import EPS, per_channel
from .pointwise import same_shape

#: whose channels are those of the image: one number for each
_BATCHED = {"stats": True}


def _of_each_pixel(a: Any, x: TensorType) -> TensorType:
    """Two numbers for each pixel."""
    require(len(x.shape) == 4, f"x must be [N, C, H, W], it is {x}")
    return TensorType((N, 2, *x.spatial), "float32")


def _fits(a: Any, x: TensorType, *pairs: TensorType) -> None:
    wanted = _of_each_pixel(a, x)
    for pair in pairs:
        require(pair.shape == wanted.shape, f"of {x}, statistics must be {wanted}, they are {pair}")


def _vectors(x: TensorType, *vectors: TensorType) -> None:
    for v in vectors:
        require(v.shape == (x.channels,), f"weight and bias must be [{x.channels}] for input {x}, one is {v}")


def _normalized(a: Any, x: TensorType, stats: TensorType, *vectors: TensorType) -> TensorType:
    _fits(a, x, stats)
    _vectors(x, *vectors)
    return x


def _channels_summed(a: Any, dy: TensorType, x: TensorType, stats: TensorType) -> TensorType:
    _fits(a, same_shape(a, dy, x), stats)
    return TensorType((2, x.channels), "float32")


def _input_gradient(a: Any, dy: TensorType, x: TensorType, stats: TensorType, weight: TensorType) -> TensorType:
    return _normalized(a, same_shape(a, dy, x), stats, weight)


def _pair(first: Any, second: Any) -> Any:
    return np.concatenate([first, second], axis=1)


def _stats(env: Any, a: Any, x: Any) -> Any:
    mean = x.mean(axis=1, keepdims=True)
    return _pair(mean, np.square(x - mean).mean(axis=1, keepdims=True))


def _xhat(x: Any, stats: Any, eps: float) -> Any:
    return (x - stats[:, :1]) * (stats[:, 1:] + eps) ** -0.5


def _grad_input(a: Any, dy: Any, x: Any, stats: Any, weight: Any) -> Any:
    """For arrays and tensors."""
    g, xhat = dy * per_channel(weight, dy), _xhat(x, stats, a["eps"])
    inner = g - g.mean(1, keepdims=True) - xhat * (g * xhat).mean(1, keepdims=True)
    return inner * (stats[:, 1:] + a["eps"]) ** -0.5


def _stats_moved(a: Any, errors: Any, x: Any) -> Any:
    """d mean = mean(dx), d var = 2 mean((x - mean) dx): deviations from the mean add up to 0."""
    (ex,) = errors
    deviation = np.abs(x - x.mean(axis=1, keepdims=True))
    return _pair(ex.mean(axis=1, keepdims=True), (2 * deviation * ex + ex * ex).mean(axis=1, keepdims=True))


def _xhat_moved(a: Any, x: Any, ex: Any, stats: Any, estats: Any) -> tuple[Any, Any]:
    """|xhat|, and by how much it may move."""
    rstd = (stats[:, 1:] + a["eps"]) ** -0.5
    xhat = np.abs(_xhat(x, stats, a["eps"]))
    return xhat, (ex + estats[:, :1]) * rstd + xhat * estats[:, 1:] * rstd * rstd / 2


def _grad_input_moved(a: Any, errors: Any, dy: Any, x: Any, stats: Any, weight: Any) -> Any:
    """Each of the three terms by itself, and rstd, by which all are multiplied."""
    edy, ex, estats, eweight = errors
    xhat, exhat = _xhat_moved(a, x, ex, stats, estats)
    g = np.abs(dy * per_channel(weight, dy))
    eg = edy * per_channel(np.abs(weight), dy) + np.abs(dy) * per_channel(eweight, dy)
    product, eproduct = (p.mean(axis=1, keepdims=True) for p in (g * xhat, eg * xhat + g * exhat))
    inner = g + g.mean(axis=1, keepdims=True) + xhat * product
    einner = eg + eg.mean(axis=1, keepdims=True) + exhat * product + xhat * eproduct
    rstd = (stats[:, 1:] + a["eps"]) ** -0.5
    return einner * rstd + inner * estats[:, 1:] * rstd**3 / 2


def _channel_sums(env: Any, a: Any, dy: Any, x: Any, stats: Any) -> Any:
    return np.stack([dy.sum(axis=(0, 2, 3)), (dy * _xhat(x, stats, a["eps"])).sum(axis=(0, 2, 3))])


def _channel_sums_moved(a: Any, errors: Any, dy: Any, x: Any, stats: Any) -> Any:
    edy, ex, estats = errors
    xhat, exhat = _xhat_moved(a, x, ex, stats, estats)
    return np.stack([edy.sum(axis=(0, 2, 3)), (edy * xhat + np.abs(dy) * exhat).sum(axis=(0, 2, 3))])


def _gradient(g: Any, node: Any, dy: str) -> list[str | None]:
    x, stats, weight, _bias = node.inputs
    eps = {"eps": node.attrs["eps"]}
    dx = None
    if g.wanted(x):  # first: the sums are taken along by its kernel
        dx = g.add("layer_normalize_grad_input", dy, x, stats, weight, **eps)
    sums = g.add("layer_normalize_grad_sums", dy, x, stats, **eps)
    return [dx, None, g.add("row", sums, index=1), g.add("row", sums, index=0)]


def _sums_again(g: Any, node: Any, dsums: str) -> list[str | None]:
    """The gradients of layer_normalize_grad_sums, [sum(dy), sum(dy * xhat)], given [u, v].
    dy has u + v * xhat, and xhat has v * dy, which layer_normalize passes on to x."""
    dy, x, stats = node.inputs
    u, v = (g.add("row", dsums, index=i) for i in (0, 1))
    return [
        g.add("layer_normalize", x, stats, v, u, **node.attrs) if g.wanted(dy) else None,
        g.add("layer_normalize_grad_input", dy, x, stats, v, **node.attrs) if g.wanted(x) else None,
        None,
    ]


def _input_again(g: Any, node: Any, ddx: str) -> list[str | None]:
    """The gradients of layer_normalize_grad_input, dx = J (weight * dy), given u for dx.
    J is symmetric; means are over the channels.

        of dy       weight * J u
        of weight   sum(dy * J u)
        of x        by xhat: J q with q = -(u * mean(h * xhat) + h * mean(u * xhat)), h = weight * dy, times rstd
                    by rstd: -mean(u * dx) * rstd * xhat, for d rstd / dx = -rstd^2 * xhat/C

    Those of the statistics are in that of x.
    """
    dy, x, stats, weight = node.inputs
    nothing = g.add("scale", weight, factor=0.0)
    ones = g.add("shift", nothing, amount=1.0)
    ju = g.add("layer_normalize_grad_input", ddx, x, stats, ones, **node.attrs)
    by_x = None
    if g.wanted(x):
        xhat = g.add("layer_normalize", x, stats, ones, nothing, **node.attrs)
        var = g.add("slice_channels", stats, start=1, stop=2)
        rstd = g.add("reciprocal", g.add("sqrt", g.add("shift", var, amount=node.attrs["eps"])))
        h = g.add("mul", dy, weight)
        parts = [g.add("mul", a, _mean(g, g.add("mul", other, xhat))) for a, other in ((ddx, h), (h, ddx))]
        q = g.add("neg", g.add("mul", g.add("add", *parts), rstd))
        along = g.add("mul", _mean(g, g.add("mul", ddx, node.name)), rstd)
        by_x = g.add(
            "sub", g.add("layer_normalize_grad_input", q, x, stats, ones, **node.attrs), g.add("mul", xhat, along)
        )
    by_dy = g.add("mul", ju, weight) if g.wanted(dy) else None
    return [by_dy, by_x, None, g.add("channel_sum", g.add("mul", dy, ju)) if g.wanted(weight) else None]


def _mean(g: Any, x: str) -> str:
    """The layer of the mean over the channels of each pixel."""
    return str(g.add("scale", g.add("sum_channels", x), factor=1 / g.type(x).channels))


def _wide(x: Any) -> Any:
    import torch

    return x if x.dtype == torch.float64 else x.float()


def _t_stats(env: Any, a: Any, x: Any) -> Any:
    import torch

    var, mean = torch.var_mean(_wide(x), dim=1, correction=0, keepdim=True)
    return torch.cat([mean, var], 1)


def _t_normalize(env: Any, a: Any, x: Any, stats: Any, weight: Any, bias: Any) -> Any:
    return (_xhat(_wide(x), stats, a["eps"]) * per_channel(weight, x) + per_channel(bias, x)).to(x.dtype)


def _t_channel_sums(env: Any, a: Any, dy: Any, x: Any, stats: Any) -> Any:
    import torch

    wide = _wide(dy)
    return torch.stack([wide.sum((0, 2, 3)), (wide * _xhat(_wide(x), stats, a["eps"])).sum((0, 2, 3))])


register(
    "pixel_stats", Kind.REDUCTION, "x",
    shape=_of_each_pixel,
    numpy=_stats,
    gradient="its share is in layer_normalize's gradient",
    aten=_t_stats,
    moved=_stats_moved,
    on_load=(0,), collapses=True,
    doc="[mean, biased variance] of the channels of each pixel, [N, 2, H, W]",
)  # fmt: skip
register(
    "layer_normalize", Kind.POINTWISE, "x stats weight bias",
    attrs=EPS,
    shape=_normalized,
    numpy=lambda env, a, x, stats, w, b: _xhat(x, stats, a["eps"]) * per_channel(w, x) + per_channel(b, x),
    gradient=_gradient,
    aten=_t_normalize,
    batched=_BATCHED,
    finds_vectors=True, operations=12,
    doc="y = (x - mean) * rsqrt(var + eps) * weight + bias with the statistics of each pixel",
)  # fmt: skip
register(
    "layer_normalize_grad_sums", Kind.REDUCTION, "dy x stats",
    attrs=EPS,
    shape=_channels_summed,
    numpy=_channel_sums,
    gradient=_sums_again,
    aten=_t_channel_sums,
    moved=_channel_sums_moved,
    batched=_BATCHED,
    on_load=(0, 1), collapses=True, side_sum="stored",
    sibling_of="layer_normalize_grad_input", loop_over=0,
    doc="[sum dy, sum dy * xhat] of each channel: the gradients of bias and weight",
)  # fmt: skip
register(
    "layer_normalize_grad_input", Kind.REDUCTION, "dy x stats weight",
    attrs=EPS,
    shape=_input_gradient,
    numpy=lambda env, a, dy, x, stats, w: _grad_input(a, dy, x, stats, w),
    gradient=_input_again,
    aten=lambda env, a, dy, x, stats, w: _grad_input(a, _wide(dy), _wide(x), stats, w).to(x.dtype),
    moved=_grad_input_moved, terms=lambda a, y, *arrays: int(y.shape[1]),
    batched=_BATCHED,
    on_load=(0, 1),
    doc="dx = rstd * (dy * weight - mean(dy * weight) - xhat * mean(dy * weight * xhat)), means over the channels",
)  # fmt: skip
