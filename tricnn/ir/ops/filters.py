"""Weights and their gradients, filter by filter: the factor that all of a filter's numbers have in common.

A layer whose result is multiplied by a number for each channel, ``y = s * conv(x, w, b)``, has the gradients

    G = wgrad(dy, x)    dw[k] = s[k] * G[k]    db = s * sum(dy)    ds[k] = sum of w[k] * G[k]  +  b[k] * sum(dy[k])

for ``sum of dy * conv(x, w, b)`` over pixels is linear in w and b. So nothing that is as large as an image has to be
kept for ds. G is of dy, not of s * dy, which 16-bit numbers may not hold where s is small (1e-6 in ConvNeXt).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..table import Kind, register, require
from ..types import TensorType


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


def _numpy_grad(env: Any, a: Any, dw: Any, w: Any, *vectors: Any) -> Any:
    return _dots(dw, w) + (vectors[0] * vectors[1] if vectors else 0)


def _moved(a: Any, errors: Sequence[Any], dw: Any, w: Any, *vectors: Any) -> Any:
    """Each product moves by the error of either factor; a filter's move alike at worst."""
    found = _dots(errors[0], np.abs(w)) + _dots(np.abs(dw), errors[1])
    if vectors:
        found = found + errors[2] * np.abs(vectors[1]) + np.abs(vectors[0]) * errors[3]
    return found


def _aten_grad(env: Any, a: Any, dw: Any, w: Any, *vectors: Any) -> Any:
    found = (dw * w).flatten(1).sum(1) if w.dim() > 1 else dw * w
    return found + vectors[0] * vectors[1] if vectors else found


register(
    "scale_filters", Kind.POINTWISE, "weight scale",
    shape=_scaled_shape,
    numpy=lambda env, a, w, scale: w * _rows(scale, w),
    gradient=_scale_gradient,
    aten=lambda env, a, w, scale: w * _rows(scale, w),
    copies=True, of_filters=True, operations=1,
    doc="each filter of a weight, or of its gradient, times a number of its own: y[k] = weight[k] * scale[k]",
)  # fmt: skip
register(
    "filter_scale_grad", Kind.REDUCTION, "weight_gradient weight bias_gradient? bias?",
    shape=_gradient_shape,
    numpy=_numpy_grad,
    gradient="second derivatives are not supported",
    aten=_aten_grad,
    moved=_moved,
    collapses=True, of_filters=True, operations=2,
    doc="gradient of a number that a filter's results are multiplied by: ds[k] = sum over (c,r,s) of "
    "weight_gradient[k] * weight[k], plus bias_gradient[k] * bias[k]",
)  # fmt: skip
