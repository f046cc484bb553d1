"""Softmax and its gradient, ``dx = y * (dy - sum_k dy*y)``."""

from __future__ import annotations

from typing import Any

from ..numpy_ops import loss as np_loss
from ..table import Kind, register, require
from ..types import TensorType
from .pointwise import same_shape


def _softmax_shape(a: Any, x: TensorType, *same: TensorType) -> TensorType:
    require(len(x.shape) == 2, f"input must be [N, classes], it is {x}")
    return same_shape(a, x, *same)


def _softmax_moved(a: Any, errors: Any, x: Any) -> Any:
    """dy[k] = y[k] * (dx[k] - sum_j y[j]*dx[j])."""
    (ex,), y = errors, np_loss.softmax(x, axis=1)
    return y * (ex + (y * ex).sum(axis=1, keepdims=True))


def _softmax_grad_moved(a: Any, errors: Any, dy: Any, y: Any) -> Any:
    edy, ey = errors
    inner = (edy * abs(y) + abs(dy) * ey).sum(axis=1, keepdims=True)
    return ey * abs(dy - (dy * y).sum(axis=1, keepdims=True)) + abs(y) * (edy + inner)


def _again(g: Any, node: Any, ddx: str) -> list[str | None]:
    """The gradients of softmax_grad, dx = J dy with a symmetric matrix J, given ddx: by dy it is J ddx, this row again.
    By y it is ddx * (dy - sum dy*y) - dy * sum ddx*y."""
    dy, y = node.inputs
    by_y = None
    if g.wanted(y):
        inner = g.add("sub", dy, _dot(g, dy, y))
        by_y = g.add("sub", g.add("mul", ddx, inner), g.add("mul", dy, _dot(g, ddx, y)))
    return [g.add("softmax_grad", ddx, y) if g.wanted(dy) else None, by_y]


def _dot(g: Any, a: str, b: str) -> str:
    """The sum of a*b over the classes, beside each of them."""
    classes = g.type(b).channels
    images = g.add("unflatten", g.add("mul", a, b), shape=(classes, 1, 1))
    return str(g.add("flatten", g.add("spread_channels", g.add("sum_channels", images), channels=classes)))


def _classes(a: Any, result: Any, *arrays: Any) -> int:
    """Each sum is over the classes."""
    return int(arrays[0].shape[1])


register(
    "softmax", Kind.REDUCTION, "x",
    shape=_softmax_shape,
    numpy=lambda env, a, x: np_loss.softmax(x, axis=1),
    gradient=lambda g, node, dy: [g.add("softmax_grad", dy, node.name)],
    aten=lambda env, a, x: x.softmax(1),
    moved=_softmax_moved, terms=_classes, unit=1.0,
    probabilities=True,
    doc="y[n,k] = exp(x[n,k]) / sum_j exp(x[n,j])",
)  # fmt: skip
register(
    "softmax_grad", Kind.REDUCTION, "dy y",
    shape=_softmax_shape,
    numpy=lambda env, a, dy, y: y * (dy - (dy * y).sum(axis=1, keepdims=True)),
    gradient=_again,
    aten=lambda env, a, dy, y: y * (dy - (dy * y).sum(dim=1, keepdim=True)),
    moved=_softmax_grad_moved, terms=_classes,
    doc="dx = y * (dy - sum_k dy*y)",
)  # fmt: skip
