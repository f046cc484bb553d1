"""Weights and their gradients, filter by filter: the factor that all of a filter's numbers have in common.

A layer whose result is multiplied by a number for each channel, ``y = s * conv(x, w, b)``, has the gradients

    G = wgrad(dy, x)    dw[k] = s[k] * G[k]    db = s * sum(dy)    ds[k] = sum of w[k] * G[k]  +  b[k] * sum(dy[k])

for ``sum of dy * conv(x, w, b)`` over pixels is linear in w and b. So nothing that is as large as an image has to be
kept for ds. G is of dy, not of s * dy, which 16-bit numbers may not hold where s is small (1e-6 in ConvNeXt).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ...system.errors import GraphError
from ...system.limits import WIDEST
from ..scalar import Value
from ..table import Kind, integer, number, register, require
from ..types import TensorType
from .norm import EPS

if TYPE_CHECKING:
    import torch


def _scaled_shape(a: Any, w: TensorType, scale: TensorType) -> TensorType:
    require(scale.shape == w.shape[:1], f"the scale of {w} must be [{w.per_image[0]}], it is {scale}")
    return TensorType(w.shape, "float32")


def _gradient_shape(
    a: Any, dw: TensorType, w: TensorType, db: TensorType | None = None, bias: TensorType | None = None
) -> TensorType:
    require(dw.shape == w.shape, f"dw and weight must have one shape, they are {dw} and {w}")
    require((db is None) == (bias is None), "db and bias come together")
    for vector in (db, bias):
        require(
            vector is None or vector.shape == w.shape[:1], f"db and bias must be [{w.per_image[0]}], one is {vector}"
        )
    return TensorType(w.shape[:1], "float32")


def _rows(scale: Any, w: Any) -> Any:
    return scale.reshape(-1, *[1] * (w.ndim - 1))


def _dots(dw: Any, w: Any) -> Any:
    return (dw * w).sum(axis=tuple(range(1, w.ndim)))


def _scale_gradient(g: Any, node: Any, dy: str) -> Sequence[str | None]:
    """The adjoint in each operand: the scale's gradient is the sum of dy * w over a filter."""
    w, scale = node.inputs
    return [
        g.add("scale_filters", dy, scale) if g.wanted(w) else None,
        g.add("filter_scale_grad", dy, w) if g.wanted(scale) else None,
    ]


def _scale_again(g: Any, node: Any, dds: str) -> list[str | None]:
    """The gradients of filter_scale_grad, which is bilinear: of each factor the other one times dds.
    ds[k] = sum of dw[k] * w[k] + db[k] * bias[k], and dds is what comes back for ds."""
    dw, w, *vectors = node.inputs
    pairs = [("scale_filters", dw, w), ("scale_filters", w, dw)]
    if vectors:
        pairs += [("mul", vectors[0], vectors[1]), ("mul", vectors[1], vectors[0])]
    return [g.add(op, other, dds) if g.wanted(value) else None for op, value, other in pairs]


def _sum_again(g: Any, node: Any, dy: str) -> list[str]:
    """The gradient of filter_sum: every number of filter k has dy[k], what comes back for the filter's sum."""
    ones = g.add("shift", g.add("scale", node.inputs[0], factor=0.0), amount=1.0)
    return [g.add("scale_filters", ones, dy)]


def _standard_again(g: Any, node: Any, ddx: str) -> list[str | None]:
    """The gradients of standardize_filters_grad, J dw with a symmetric matrix J: by dw it is J ddx, this row again.
    By the weight, which J is made of, it is composed of no rows. Raises GraphError where that is wanted."""
    dw, weight = node.inputs
    if g.wanted(weight):
        raise GraphError(
            f"layer {node.name}: standardize_filters_grad cannot be differentiated by the weight: freeze it"
        )
    return [g.add(node.op, ddx, weight, **node.attrs) if g.wanted(dw) else None, None]


def _numpy_grad(env: Any, a: Any, dw: Any, w: Any, *vectors: Any) -> Any:
    return _dots(dw, w) + (vectors[0] * vectors[1] if vectors else 0)


def _moved(a: Any, errors: Sequence[Any], dw: Any, w: Any, *vectors: Any) -> Any:
    """Each product moves by the error of either factor; a filter's move alike at worst."""
    found = _dots(errors[0], np.abs(w)) + _dots(np.abs(dw), errors[1])
    if vectors:
        found = found + errors[2] * np.abs(vectors[1]) + np.abs(vectors[0]) * errors[3]
    return found


# --- in PyTorch: functions whose text emitted files have, so that each needs nothing but torch ------------------------


def scale_filters(w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Each filter of a weight times a number of its own."""
    return w * scale.reshape(-1, *[1] * (w.dim() - 1))


def filter_scale_grad(
    dw: torch.Tensor, w: torch.Tensor, db: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of dw * w over each filter, plus db * bias."""
    found = (dw * w).flatten(1).sum(1) if w.dim() > 1 else dw * w
    return found if db is None or bias is None else found + db * bias


def repeat_number(w: torch.Tensor, channels: int) -> torch.Tensor:
    """One number as many times as there are channels."""
    return w.repeat(channels)


def standardize_filters(w: torch.Tensor, eps: float, factor: float) -> torch.Tensor:
    """Each filter of a weight with mean 0 and variance 1, times a factor."""
    rows = w.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    return (factor * centred * (centred.square().mean(1, keepdim=True) + eps).rsqrt()).reshape(w.shape)


def _repeated_shape(a: Any, w: TensorType) -> TensorType:
    require(w.shape == (1,), f"what is repeated is one number, [1], it is {w}")
    return TensorType((a["channels"],), "float32")


def _repeat_gradient(g: Any, node: Any, dy: str) -> list[str]:
    """The sum over the channels: that of one filter."""
    return [g.add("filter_sum", g.add("view_weight", dy, shape=(1, node.attrs["channels"])))]


STANDARD = {**EPS, "factor": number(1.0)}


# --- standardised weights ---------------------------------------------------------------------------------------------


def _standard_shape(a: Any, w: TensorType) -> TensorType:
    require(not w.batched and len(w.shape) > 1, f"a weight must be [K, ...], it is {w}")
    return TensorType(w.shape, "float32")


def _standard_grad_shape(a: Any, dy: TensorType, w: TensorType) -> TensorType:
    require(dy.shape == w.shape, f"dy and weight must have one shape, they are {dy} and {w}")
    return TensorType(w.shape, "float32")


def _mean(x: Any) -> Any:
    return x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)


def _standard(a: Any, w: Any) -> tuple[Any, Any]:
    """xhat, and 1 / sqrt(var + eps)."""
    centred = w - _mean(w)
    rstd = 1 / np.sqrt(_mean(centred * centred) + w.dtype.type(a["eps"]))
    return centred * rstd, rstd


def _numpy_standard_grad(env: Any, a: Any, dy: Any, w: Any) -> Any:
    x, rstd = _standard(a, w)
    return (dy - _mean(dy) - x * _mean(dy * x)) * (rstd * a["factor"])


def _standard_steps(x: Any, rstd: Any, error: Any) -> Any:
    """How far xhat moves where each number of a filter moves by its error.
    Its derivative is dxhat = rstd * (dw - mean(dw) - xhat * mean(xhat * dw))."""
    return rstd * (error + _mean(error) + np.abs(x) * _mean(np.abs(x) * error))


def _standard_moved(a: Any, errors: Sequence[Any], w: Any) -> Any:
    """The mean and the deviation move with every number of the filter."""
    return abs(a["factor"]) * _standard_steps(*_standard(a, w), errors[0])


def _standard_grad_moved(a: Any, errors: Sequence[Any], dy: Any, w: Any) -> Any:
    """It is linear in dy; the weight moves xhat and rstd, drstd = -rstd^2 * mean(xhat * dw)."""
    (x, rstd), (of_dy, of_w) = _standard(a, w), errors
    steps, slope = _standard_steps(x, rstd, of_w), _mean(dy * x)
    inner = np.abs(dy - _mean(dy) - x * slope)
    found = _standard_steps(x, rstd, of_dy) + rstd**2 * _mean(np.abs(x) * of_w) * inner
    return abs(a["factor"]) * (found + rstd * (steps * np.abs(slope) + np.abs(x) * _mean(np.abs(dy) * steps)))


def _units(w: Any) -> float:
    """How far a sum over a filter in fp32 may be off, of its absolute terms (check/error_bounds.py)."""
    terms = prod(w.shape[1:])
    return (8 + min(terms, 4 * sqrt(terms))) * 2.0**-24


def _off(a: Any, w: Any) -> tuple[Any, Any, Any]:
    """xhat, 1 / sqrt(var + eps), and how far xhat may be off: by its mean's error, and its deviation's."""
    x, rstd = _standard(a, w)
    return x, rstd, _units(w) * (_mean(np.abs(w)) * rstd * (1 + np.abs(x)) + 2 * np.abs(x))


def _standard_grad_rounding(a: Any, dy: Any, w: Any) -> Any:
    (x, rstd, off), gamma = _off(a, w), _units(w)
    slope = np.abs(_mean(dy * x))
    moved = gamma * _mean(np.abs(dy * x)) + _mean(np.abs(dy) * off)
    inner = gamma * (np.abs(dy) + _mean(np.abs(dy)) + np.abs(x) * slope) + off * slope + np.abs(x) * moved
    whole = np.abs(dy) + np.abs(_mean(dy)) + np.abs(x) * slope
    return rstd * abs(a["factor"]) * (inner + 2 * gamma * (1 + _mean(np.abs(w)) * rstd) * whole)


def _aten_standard_grad(env: Any, a: Any, dy: Any, w: Any) -> Any:
    rows, g = w.flatten(1), dy.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    rstd = (centred.square().mean(1, keepdim=True) + a["eps"]).rsqrt()
    x = centred * rstd
    return ((g - g.mean(1, keepdim=True) - x * (g * x).mean(1, keepdim=True)) * (rstd * a["factor"])).reshape(w.shape)


register(
    "standardize_filters", Kind.POINTWISE, "weight",
    attrs=STANDARD,
    shape=_standard_shape,
    numpy=lambda env, a, w: _standard(a, w)[0] * a["factor"],
    gradient=lambda g, node, dy: [g.add("standardize_filters_grad", dy, node.inputs[0], **node.attrs)],
    torch=standardize_filters,
    rounding=lambda a, w: _off(a, w)[2] * abs(a["factor"]),
    moved=_standard_moved,
    copies=True, prepared=True, operations=8,
    doc="each filter of a weight with mean 0 and variance 1: factor * (weight - mean) / sqrt(var + eps) over (c,r,s) "
    "(Qiao et al., 2019)",
)  # fmt: skip
register(
    "standardize_filters_grad", Kind.POINTWISE, "dw weight",
    attrs=STANDARD,
    shape=_standard_grad_shape,
    numpy=_numpy_standard_grad,
    gradient=_standard_again,
    aten=_aten_standard_grad,
    rounding=_standard_grad_rounding,
    moved=_standard_grad_moved,
    copies=True, operations=12,
    doc="factor * (dw - mean(dw) - xhat * mean(dw * xhat)) / sqrt(var + eps) over (c,r,s), xhat the standardised one",
)  # fmt: skip
register(
    "scale_filters", Kind.POINTWISE, "weight scale",
    shape=_scaled_shape,
    numpy=lambda env, a, w, scale: w * _rows(scale, w),
    gradient=_scale_gradient,
    torch=scale_filters,
    copies=True, of_filters=True, prepared=True, operations=1,
    doc="each filter of a weight, or of its gradient, times a number of its own: y[k] = weight[k] * scale[k]",
)  # fmt: skip
register(
    "filter_scale_grad", Kind.REDUCTION, "weight_gradient weight bias_gradient? bias?",
    shape=_gradient_shape,
    numpy=_numpy_grad,
    gradient=_scale_again,
    torch=filter_scale_grad,
    moved=_moved,
    collapses=True, of_filters=True, operations=2,
    doc="gradient of a number that a filter's results are multiplied by: ds[k] = sum over (c,r,s) of "
    "weight_gradient[k] * weight[k], plus bias_gradient[k] * bias[k]",
)  # fmt: skip
register(
    "repeat_number", Kind.POINTWISE, "w",
    attrs={"channels": integer(least=1, most=WIDEST)},
    shape=_repeated_shape,
    numpy=lambda env, a, w: np.repeat(w, a["channels"]),
    gradient=_repeat_gradient,
    torch=repeat_number,
    copies=True, prepared=True,
    doc="a number that all channels have in common, [1], for each of them: y[c] = w[0]",
)  # fmt: skip
register(
    "filter_sum", Kind.REDUCTION, "weight_gradient",
    shape=lambda a, dw: TensorType(dw.shape[:1], "float32"),
    numpy=lambda env, a, dw: dw.sum(axis=tuple(range(1, dw.ndim))),
    gradient=_sum_again,
    aten=lambda env, a, dw: dw.flatten(1).sum(1),
    collapses=True, operations=1,
    doc="y[k] = sum over (c,r,s) of weight_gradient[k]: the gradient of a number that is repeated",
)  # fmt: skip
register(
    "round_weight", Kind.POINTWISE, "w",
    shape=lambda a, w: TensorType(w.shape, "float"),
    numpy=lambda env, a, w: w,
    gradient="weights are rounded only after differentiation",
    aten=lambda env, a, w: w,
    scalar=Value("w"),
    keeps_zero=True, elementwise=True, operations=0,
    doc="a weight that is computed at every step, in the type of activations, as products take it",
)  # fmt: skip
