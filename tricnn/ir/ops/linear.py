"""Dense layers: ``y[n,o] = b[o] + sum_f x[n,f] * w[o,f]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..table import Kind, register, require
from ..types import N, TensorType


def _shape(a: Any, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
    require(len(x.shape) == 2 and x.batched, f"input must be [N, features], it is {x}; flatten it first")
    require(
        len(w.shape) == 2 and w.per_image[1] == x.channels,
        f"weight {w} fits {w.per_image[-1]} input features, the input has {x.channels}",
    )
    if b is not None:
        require(b.shape == (w.per_image[0],), f"bias must be [{w.per_image[0]}], it is {b}")
    return TensorType((N, w.per_image[0]))


def _grad_input_shape(a: Any, dy: TensorType, w: TensorType) -> TensorType:
    outputs, features = w.per_image
    require(dy.shape == (N, outputs), f"dy must be [N, {outputs}], it is {dy}")
    return TensorType((N, features))


def _grad_weight_shape(a: Any, dy: TensorType, x: TensorType) -> TensorType:
    require(len(dy.shape) == len(x.shape) == 2, f"dy and x must be [N, features], they are {dy} and {x}")
    return TensorType((dy.channels, x.channels), "float32")


def _gradient(g: Any, node: Any, dy: str) -> Sequence[str | None]:
    x, w, *bias = node.inputs
    return [
        g.add("linear_grad_input", dy, w) if g.wanted(x) else None,
        g.add("linear_grad_weight", dy, x) if g.wanted(w) else None,
        *(g.add("channel_sum", dy) if g.wanted(b) else None for b in bias),
    ]


def _grad_input_gradient(g: Any, node: Any, dx: str) -> Sequence[str | None]:
    """dx = dy weight is linear in both."""
    dy, w = node.inputs
    return [
        g.add("linear", dx, w) if g.wanted(dy) else None,
        g.add("linear_grad_weight", dy, dx) if g.wanted(w) else None,
    ]


def _grad_weight_gradient(g: Any, node: Any, dw: str) -> Sequence[str | None]:
    """dw = dy^T x is linear in both."""
    dy, x = node.inputs
    return [
        g.add("linear", x, dw) if g.wanted(dy) else None,
        g.add("linear_grad_input", dy, dw) if g.wanted(x) else None,
    ]


def _numpy(env: Any, a: Any, x: Any, w: Any, b: Any = None) -> Any:
    y = x @ w.T
    return y if b is None else y + b


def _aten(env: Any, a: Any, x: Any, w: Any, b: Any = None) -> Any:
    import torch.nn.functional as F

    return F.linear(x, w.to(x.dtype), None if b is None else b.to(x.dtype))


register(
    "linear", Kind.CONTRACTION, "x weight bias?",
    shape=_shape,
    numpy=_numpy,
    gradient=_gradient,
    macs=lambda a, y, x, w, b=None: w.per_image[0] * w.per_image[1],
    aten=_aten,
    on_load=(0,),
    product="forward",
    doc="y = x weight^T + bias",
)  # fmt: skip
register(
    "linear_grad_input", Kind.CONTRACTION, "dy weight",
    shape=_grad_input_shape,
    numpy=lambda env, a, dy, w: dy @ w,
    gradient=_grad_input_gradient,
    macs=lambda a, dx, dy, w: w.per_image[0] * w.per_image[1],
    aten=lambda env, a, dy, w: dy @ w.to(dy.dtype),
    on_load=(0,),
    product="by_input",
    doc="dx[n,f] = sum_o dy[n,o] * w[o,f]",
)  # fmt: skip
register(
    "linear_grad_weight", Kind.CONTRACTION, "dy x",
    shape=_grad_weight_shape,
    numpy=lambda env, a, dy, x: dy.T @ x,
    gradient=_grad_weight_gradient,
    macs=lambda a, dw, dy, x: dw.per_image[0] * dw.per_image[1],
    aten=lambda env, a, dy, x: dy.t() @ x,
    on_load=(0, 1), product="by_weight",
    doc="dw[o,f] = sum_n dy[n,o] * x[n,f]",
)  # fmt: skip
