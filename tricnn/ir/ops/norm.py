"""Batch normalisation (Ioffe & Szegedy, 2015, algorithm 1), whole and in the parts a training step is made of.

Inference: ``y = (x - mean) * rsqrt(var + eps) * weight + bias`` with running statistics. For training the compiler
replaces ``batch_norm`` by ``batch_stats`` (mean and biased variance over N, H, W), ``normalize`` with them, and the
update of the running statistics (which take the unbiased variance, as PyTorch does). With m = N*H*W and
``xhat = (x - mean) * rstd`` the gradients are

    dbias = sum(dy)      dweight = sum(dy * xhat)      dx = weight * rstd * (dy - dbias/m - xhat * dweight/m)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numpy_ops.sums import pixel_rows, sum_rows
from ..table import Kind, boolean, integer, number, register, require
from ..types import TensorType
from .pointwise import same_shape

EPS = {"eps": number(1e-5, 0.0)}
MOMENTUM = {"momentum": number(0.1, 0.0, 1.0)}


def _axes(x: Any) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def per_channel(v: Any, like: Any) -> Any:
    """A ``[C]`` array shaped to broadcast over ``[N, C, ...]``."""
    return v.reshape(1, -1, *[1] * (like.ndim - 2))


def _bn_shape(a: Any, x: TensorType, *vectors: TensorType) -> TensorType:
    wrong = next((v for v in vectors if v.shape != (x.channels,)), None)
    require(
        wrong is None,
        lambda: f"weight, bias and running statistics must be [{x.channels}] for input {x}, one is {wrong}",
    )
    return x


def _per_channel_pair(x: TensorType, *pairs: TensorType) -> None:
    for pair in pairs:
        require(pair.shape == (2, x.channels), f"statistics must be [2, {x.channels}] for input {x}, one is {pair}")


def _normalize_shape(a: Any, x: TensorType, stats: TensorType, *vectors: TensorType) -> TensorType:
    _per_channel_pair(x, stats)
    return _bn_shape(a, x, *vectors)


def _sums_shape(a: Any, dy: TensorType, x: TensorType, stats: TensorType) -> TensorType:
    same_shape(a, dy, x)
    _per_channel_pair(x, stats)
    return TensorType((2, x.channels), "float32")


def _grad_shape(
    a: Any, dy: TensorType, x: TensorType, stats: TensorType, w: TensorType, sums: TensorType
) -> TensorType:
    same_shape(a, dy, x)
    _per_channel_pair(x, stats, sums)
    return _bn_shape(a, x, w)


def _row_shape(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) > 1 and a["index"] < x.per_image[0], f"{x} has no row {a['index']}")
    return TensorType(x.shape[1:], x.dtype)


def _running_shape(a: Any, running: TensorType, stats: TensorType, x: TensorType | None = None) -> TensorType:
    require(
        stats.shape == (2, *running.shape) and (x is None or x.channels >= stats.per_image[1]),
        f"statistics {stats} do not fit the running ones {running}",
    )
    return running


def _xhat(x: Any, stats: Any, eps: float) -> Any:
    rstd = 1 / np.sqrt(stats[1] + stats.dtype.type(eps))
    return (x - per_channel(stats[0], x)) * per_channel(rstd, x)


def _affine(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    scale = weight / np.sqrt(var + var.dtype.type(eps))
    return (x - per_channel(mean, x)) * per_channel(scale, x) + per_channel(bias, x)


def _batch_stats(env: Any, a: Any, x: Any) -> Any:
    rows = pixel_rows(x)
    count = x.dtype.type(len(rows))
    mean = sum_rows(rows) / count
    centred = rows - mean
    left = sum_rows(centred) / count  # by the rounding of the first sum: a mean of 1e6 is off by more than deviations
    centred -= left
    np.multiply(centred, centred, out=centred)
    return np.stack([mean + left, sum_rows(centred) / count])


def _sums(env: Any, a: Any, dy: Any, x: Any, stats: Any) -> Any:
    return np.stack([sum_rows(pixel_rows(dy)), sum_rows(pixel_rows(dy * _xhat(x, stats, a["eps"])))])


def _stats_moved(a: Any, errors: Any, x: Any) -> Any:
    """d mean = mean(dx), d var = 2 mean((x - mean) dx): deviations from the mean add up to 0."""
    (ex,), axes = errors, _axes(x)
    deviation = np.abs(x - per_channel(x.mean(axis=axes), x))
    return np.stack([ex.mean(axis=axes), (2 * deviation * ex + ex * ex).mean(axis=axes)])


def _sums_moved(a: Any, errors: Any, dy: Any, x: Any, stats: Any) -> Any:
    edy, ex, (emean, evar) = errors
    var = stats[1] + a["eps"]
    xhat = np.abs(_xhat(x, stats, a["eps"]))
    exhat = (ex + per_channel(emean, x)) * per_channel(var**-0.5, x) + xhat * per_channel(evar / (2 * var), x)
    return np.stack([edy.sum(axis=_axes(x)), (edy * xhat + np.abs(dy) * exhat).sum(axis=_axes(x))])


def _grad_input(env: Any, a: Any, dy: Any, x: Any, stats: Any, weight: Any, sums: Any) -> Any:
    m = x.dtype.type(x.size // x.shape[1])
    scale = weight / np.sqrt(stats[1] + stats.dtype.type(a["eps"]))
    inner = dy - per_channel(sums[0] / m, x) - _xhat(x, stats, a["eps"]) * per_channel(sums[1] / m, x)
    return per_channel(scale, x) * inner


def _running(old: Any, new: Any, momentum: float) -> Any:
    """As PyTorch has it; ``old + momentum * (new - old)`` would keep the rounding errors of a large old value."""
    return (1 - momentum) * old + momentum * new


def _unbiased(x: Any) -> float:
    shape = x.shape
    m = int(np.prod(shape)) // shape[1]
    return m / max(m - 1, 1)


def _bn_gradient(g: Any, node: Any, dy: str) -> list[str | None]:
    """With fixed statistics batch norm is an affine map: only x has a use for its gradient (frozen layers)."""
    x, weight, _bias, mean, var = node.inputs
    dx = g.add("batch_norm_grad_input", dy, weight, var, eps=node.attrs["eps"])
    stats = g.add("stack", mean, var)
    sums = g.add("normalize_grad_sums", dy, x, stats, eps=node.attrs["eps"])
    return [dx, g.add("row", sums, index=1), g.add("row", sums, index=0), None, None]


def _normalize_gradient(g: Any, node: Any, dy: str) -> list[str | None]:
    x, stats, weight, _bias = node.inputs
    sums = g.add("normalize_grad_sums", dy, x, stats, eps=node.attrs["eps"])
    dx = g.add("normalize_grad_input", dy, x, stats, weight, sums, eps=node.attrs["eps"]) if g.wanted(x) else None
    return [dx, None, g.add("row", sums, index=1), g.add("row", sums, index=0)]


def _frozen_again(g: Any, node: Any, ddx: str) -> list[str | None]:
    """The gradients of batch_norm_grad_input, dx = dy * weight * rstd, given ddx: by dy the same product of ddx.
    With S = sum(dy * ddx) of each channel, weight has S * rstd, and var has weight * S * -rstd^3/2."""
    dy, weight, var = node.inputs
    by_weight = by_var = None
    if g.wanted(weight) or g.wanted(var):
        along, rstd = g.add("channel_sum", g.add("mul", dy, ddx)), _rstd(g, var, node)
        by_weight = g.add("mul", along, rstd)
        slope = g.add("scale", g.add("mul", g.add("square", rstd), rstd), factor=-0.5)
        by_var = g.add("mul", g.add("mul", weight, along), slope)
    return [g.add("batch_norm_grad_input", ddx, weight, var, **node.attrs) if g.wanted(dy) else None, by_weight, by_var]


def _rstd(g: Any, var: str, node: Any) -> str:
    """The layer of 1 / sqrt(var + eps)."""
    return str(g.add("reciprocal", g.add("sqrt", g.add("shift", var, amount=node.attrs["eps"]))))


def _sums_again(g: Any, node: Any, dsums: str) -> list[str | None]:
    """The gradients of normalize_grad_sums, [sum(dy), sum(dy * xhat)], given [u, v].
    dy has u + v * xhat, and xhat has v * dy: with the weight v, normalize passes dy on to x, and to the statistics that
    x has."""
    dy, x, stats = node.inputs
    u, v = (g.add("row", dsums, index=i) for i in (0, 1))
    return [
        g.add("normalize", x, stats, v, u, **node.attrs) if g.wanted(dy) else None,
        g.add("normalize_grad_input", dy, x, stats, v, node.name, **node.attrs) if g.wanted(x) else None,
        None,
    ]


def _input_again(g: Any, node: Any, ddx: str) -> list[str | None]:
    """The gradients of normalize_grad_input, given u for its result dx; t are the sums of u and of u * xhat.

        dx          weight * rstd * (dy - s0/m - xhat * s1/m), whose gradients are

        of dy       weight * rstd * u
        of weight   rstd * (sum(u * dy) - t0 * s0/m - t1 * s1/m)
        of sums     -weight * rstd/m * [t0, t1]
        of x        by xhat: as normalize passes u on, with the weight -weight * rstd * s1/m
                    by rstd: -rstd/m * sum(u * dx) * xhat, for d rstd / dx = -rstd^2 * xhat/m

    Those of the statistics are in that of x. m has the images in it, so it is counted: a sum of ones.
    """
    dy, x, stats, weight, sums = node.inputs
    attrs, var = node.attrs, g.add("row", stats, index=1)
    rstd = _rstd(g, var, node)
    scale = g.add("mul", weight, rstd)
    ones = g.add("shift", g.add("scale", x, factor=0.0), amount=1.0)
    share = g.add("reciprocal", g.add("channel_sum", ones))
    t = g.add("normalize_grad_sums", ddx, x, stats, **attrs)
    t0, t1, s0, s1 = (g.add("row", rows, index=i) for rows in (t, sums) for i in (0, 1))
    by_x = by_weight = by_sums = None
    if g.wanted(x):
        by_xhat = g.add("neg", g.add("mul", g.add("mul", scale, s1), share))
        along = g.add("channel_sum", g.add("mul", ddx, node.name))
        by_rstd = g.add("neg", g.add("mul", g.add("mul", along, rstd), share))
        nothing = g.add("scale", weight, factor=0.0)
        by_x = g.add(
            "add", g.add("normalize_grad_input", ddx, x, stats, by_xhat, t, **attrs),
            g.add("normalize", x, stats, by_rstd, nothing, **attrs),
        )  # fmt: skip
    if g.wanted(weight):
        products = g.add("add", g.add("mul", t0, s0), g.add("mul", t1, s1))
        whole = g.add("sub", g.add("channel_sum", g.add("mul", ddx, dy)), g.add("mul", products, share))
        by_weight = g.add("mul", whole, rstd)
    if g.wanted(sums):
        factor = g.add("neg", g.add("mul", scale, share))
        by_sums = g.add("stack", g.add("mul", factor, t0), g.add("mul", factor, t1))
    by_dy = g.add("batch_norm_grad_input", ddx, weight, var, **attrs) if g.wanted(dy) else None
    return [by_dy, by_x, None, by_weight, by_sums]


def _row_again(g: Any, node: Any, dy: str) -> list[str]:
    """The gradient of one of two rows: dy in its place, and 0 for the other row."""
    nothing = g.add("scale", dy, factor=0.0)
    return [g.add("stack", dy, nothing) if node.attrs["index"] == 0 else g.add("stack", nothing, dy)]


def _t() -> Any:
    import torch

    return torch


def _t_affine(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _t().nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _t_stats(env: Any, a: Any, x: Any) -> Any:
    wide = x if x.dtype == _t().float64 else x.float()
    var, mean = _t().var_mean(wide, dim=(0, *range(2, x.dim())), correction=0)
    return _t().stack([mean, var])


def _t_wide(x: Any) -> Any:
    return x if x.dtype == _t().float64 else x.float()


def _t_xhat(x: Any, stats: Any, eps: float) -> Any:
    return (_t_wide(x) - per_channel(stats[0], x)) * per_channel((stats[1] + eps).rsqrt(), x)


def _t_sums(env: Any, a: Any, dy: Any, x: Any, stats: Any) -> Any:
    dims, wide = (0, *range(2, x.dim())), _t_wide(dy)
    return _t().stack([wide.sum(dims), (wide * _t_xhat(x, stats, a["eps"])).sum(dims)])


def _t_grad_input(env: Any, a: Any, dy: Any, x: Any, stats: Any, weight: Any, sums: Any) -> Any:
    m = x.numel() // x.shape[1]
    scale = weight * (stats[1] + a["eps"]).rsqrt()
    inner = _t_wide(dy) - per_channel(sums[0] / m, x) - _t_xhat(x, stats, a["eps"]) * per_channel(sums[1] / m, x)
    return (per_channel(scale, x) * inner).to(x.dtype)


register(
    "batch_norm", Kind.POINTWISE, "x weight bias running_mean running_var",
    attrs={**EPS, **MOMENTUM, "frozen": boolean(False)},
    shape=_bn_shape,
    numpy=lambda env, a, x, w, b, mean, var: _affine(x, mean, var, w, b, a["eps"]),
    gradient=_bn_gradient,
    aten=lambda env, a, x, w, b, mean, var: _t_affine(x, mean, var, w, b, a["eps"]),
    running=True,
    doc="y = (x - running_mean) * rsqrt(running_var + eps) * weight + bias; training uses the batch's statistics "
    "unless it is frozen",
)  # fmt: skip
register(
    "batch_norm_grad_input", Kind.POINTWISE, "dy weight running_var",
    attrs=EPS,
    shape=_bn_shape,
    numpy=lambda env, a, dy, w, var: dy * per_channel(w / np.sqrt(var + var.dtype.type(a["eps"])), dy),
    gradient=_frozen_again,
    aten=lambda env, a, dy, w, var: (dy * per_channel(w * (var + a["eps"]).rsqrt(), dy)).to(dy.dtype),
    doc="dx = dy * weight * rsqrt(running_var + eps)",
)  # fmt: skip
register(
    "batch_stats", Kind.REDUCTION, "x",
    shape=lambda a, x: TensorType((2, x.channels), "float32"),
    numpy=_batch_stats,
    gradient="its share is in normalize's gradient",
    aten=_t_stats,
    moved=_stats_moved,
    on_load=(0,), collapses=True, side_sum="stored",
    moments=True, of_batch=True,
    doc="[mean, biased variance] of each channel over N, H, W; deviations from the mean, never E[x^2] - E[x]^2",
)  # fmt: skip
register(
    "normalize", Kind.POINTWISE, "x stats weight bias",
    attrs=EPS,
    shape=_normalize_shape,
    numpy=lambda env, a, x, stats, w, b: _affine(x, stats[0], stats[1], w, b, a["eps"]),
    gradient=_normalize_gradient,
    aten=lambda env, a, x, stats, w, b: _t_affine(x, stats[0], stats[1], w, b, a["eps"]),
    per_channel=True, finds_rows=True, finds_vectors=True,
    doc="y = (x - mean) * rsqrt(var + eps) * weight + bias with the batch's own statistics",
)  # fmt: skip
register(
    "normalize_grad_sums", Kind.REDUCTION, "dy x stats",
    attrs=EPS,
    shape=_sums_shape,
    numpy=_sums,
    gradient=_sums_again,
    aten=_t_sums,
    moved=_sums_moved,
    on_load=(0, 1), collapses=True, side_sum="stored", finds_rows=True, of_batch=True,
    doc="[sum dy, sum dy * xhat] of each channel: the gradients of bias and weight",
)  # fmt: skip
register(
    "normalize_grad_input", Kind.POINTWISE, "dy x stats weight sums",
    attrs=EPS,
    shape=_grad_shape,
    numpy=_grad_input,
    gradient=_input_again,
    aten=_t_grad_input,
    finds_rows=True, finds_vectors=True, operations=14,
    per_channel=True,
    doc="dx = weight * rstd * (dy - sum(dy)/m - xhat * sum(dy*xhat)/m), m = N*H*W",
)  # fmt: skip
register(
    "running_mean", Kind.POINTWISE, "running stats",
    attrs=MOMENTUM,
    shape=_running_shape,
    numpy=lambda env, a, running, stats: _running(running, stats[0], a["momentum"]),
    gradient="running statistics take no gradient",
    aten=lambda env, a, running, stats: _running(running, stats[0], a["momentum"]),
    copies=True, finds_rows=True, operations=0,
    loop_over=1, updates=True,
    doc="(1 - momentum) * running + momentum * mean",
)  # fmt: skip
register(
    "running_var", Kind.POINTWISE, "running stats x",
    attrs=MOMENTUM,
    shape=_running_shape,
    numpy=lambda env, a, running, stats, x: _running(
        running, stats[1] * stats.dtype.type(_unbiased(x)), a["momentum"]
    ),
    gradient="running statistics take no gradient",
    aten=lambda env, a, running, stats, x: _running(running, stats[1] * _unbiased(x), a["momentum"]),
    copies=True, finds_rows=True, operations=0,
    loop_over=1, updates=True, unread=(2,),
    doc="(1 - momentum) * running + momentum * variance * m/(m-1), m = N*H*W of x (whose values it does not read: it "
    "may have further channels)",
)  # fmt: skip
register(
    "row", Kind.VIEW, "rows",
    attrs={"index": integer(0)},
    shape=_row_shape,
    numpy=lambda env, a, x: x[a["index"]],
    gradient=_row_again,
    aten=lambda env, a, x: x[a["index"]],
    finds_rows=True,
    row_of=True,
    doc="rows[index]",
)  # fmt: skip
register(
    "stack", Kind.POINTWISE, "a b",
    shape=lambda a, x, y: TensorType((2, *same_shape(a, x, y).per_image), x.dtype),
    numpy=lambda env, a, x, y: np.stack([x, y]),
    gradient=lambda g, node, dy: [g.add("row", dy, index=i) for i in (0, 1)],
    aten=lambda env, a, x, y: _t().stack([x, y]),
    copies=True,
    doc="two [C] vectors as the rows of [2, C]",
)  # fmt: skip
