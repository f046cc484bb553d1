"""Operations that look at one place of each input: activations, addition, scaling, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numpy_ops.memory import zero_where
from ..table import Kind, number, register, require
from ..types import TensorType


def same_shape(a: Any, *types: TensorType) -> TensorType:
    for other in types[1:]:
        require(
            other.shape == types[0].shape,
            f"inputs must have one shape, they have {' and '.join(str(t) for t in types)}",
        )
    return types[0]


def first_shape(a: Any, x: TensorType, *_: TensorType) -> TensorType:
    return x


def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _torch() -> Any:
    import torch

    return torch


_TWICE = "second derivatives are not supported"

register(
    "relu", Kind.POINTWISE, "x",
    shape=first_shape,
    numpy=lambda env, a, x: np.maximum(x, 0),
    gradient=lambda g, node, dy: [g.add("relu_grad", dy, node.name)],
    aten=lambda env, a, x: _torch().relu(x),
    elementwise=True, per_channel=True, keeps_zero=True, operations=2,
    doc="y = max(x, 0)",
)  # fmt: skip
register(
    "relu_grad", Kind.POINTWISE, "dy y",
    shape=same_shape,
    numpy=lambda env, a, dy, y: zero_where(y <= 0, dy),
    gradient=_TWICE,
    aten=lambda env, a, dy, y: _torch().ops.aten.threshold_backward(dy, y, 0),
    elementwise=True, keeps_zero=True, operations=4,
    doc="dx = 0 where y <= 0 (so at the kink too), else dy: a y that is NaN hides no gradient",
)  # fmt: skip
register(
    "sigmoid", Kind.POINTWISE, "x",
    shape=first_shape,
    numpy=lambda env, a, x: _sigmoid(x),
    gradient=lambda g, node, dy: [g.add("sigmoid_grad", dy, node.name)],
    aten=lambda env, a, x: _torch().sigmoid(x),
    unit=1.0,
    elementwise=True, per_channel=True, operations=16,
    doc="y = 1 / (1 + exp(-x))",
)  # fmt: skip
register(
    "sigmoid_grad", Kind.POINTWISE, "dy y",
    shape=same_shape,
    numpy=lambda env, a, dy, y: dy * y * (1 - y),
    gradient=_TWICE,
    aten=lambda env, a, dy, y: dy * y * (1 - y),
    elementwise=True, keeps_zero=True,
    doc="dx = dy * y * (1 - y)",
)  # fmt: skip
register(
    "tanh", Kind.POINTWISE, "x",
    shape=first_shape,
    numpy=lambda env, a, x: np.tanh(x),
    gradient=lambda g, node, dy: [g.add("tanh_grad", dy, node.name)],
    aten=lambda env, a, x: _torch().tanh(x),
    unit=1.0,
    elementwise=True, per_channel=True, keeps_zero=True, operations=16,
    doc="y = tanh(x)",
)  # fmt: skip
register(
    "tanh_grad", Kind.POINTWISE, "dy y",
    shape=same_shape,
    numpy=lambda env, a, dy, y: dy * (1 - y * y),
    gradient=_TWICE,
    aten=lambda env, a, dy, y: dy * (1 - y * y),
    elementwise=True, keeps_zero=True,
    doc="dx = dy * (1 - y^2)",
)  # fmt: skip
register(
    "add", Kind.POINTWISE, "a b",
    shape=same_shape,
    numpy=lambda env, a, x, y: x + y,
    gradient=lambda g, node, dy: [dy, dy],
    aten=lambda env, a, x, y: x + y,
    elementwise=True, operations=2,
    doc="y = a + b",
)  # fmt: skip
register(
    "scale", Kind.POINTWISE, "x",
    attrs={"factor": number()},
    shape=first_shape,
    numpy=lambda env, a, x: x * x.dtype.type(a["factor"]),
    gradient=lambda g, node, dy: [g.add("scale", dy, factor=node.attrs["factor"])],
    aten=lambda env, a, x: x * a["factor"],
    elementwise=True, keeps_zero=True, operations=2,
    doc="y = factor * x",
)  # fmt: skip
