"""Losses of outputs x, ``[N, K]`` or ``[N, K, H, W]``: the mean over the rows of what a row's K numbers cost.

A row is an image's or each pixel's, and the mean is multiplied by ``weight``. With R rows in all:

    cross_entropy         labels, int64 [N] or [N, 1, H, W], and class weights w, float32 [K], if there are any
                              t[r,k] = w[k] * ((1 - e) * [k == label_r] + e/K),  0 where the label is negative
    soft_cross_entropy    targets t, float32, as x          1/R * sum_rk -t[r,k] * log softmax(x)[r,k]
    binary_cross_entropy  targets t, float32, as x          1/(R*K) * sum_rk of the sigmoid's cross entropy with t
    squared_error         targets t, float32, as x          1/(R*K) * sum_rk (x - t)**2

with label smoothing e (Szegedy et al., "Rethinking the Inception architecture", 2016, section 7). A gradient is
``dx = dloss * weight * d(mean)/dx``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numpy_ops import loss as np_loss
from ..numpy_ops.loss import as_rows, of_rows
from ..table import Attr, Kind, number, register, require
from ..types import TensorType

WEIGHT = {"weight": number(1.0, 0.0)}
SMOOTHED = {"label_smoothing": number(0.0, 0.0, 1.0), **WEIGHT}
Array = Any


@dataclass(frozen=True)
class _Loss:
    """A loss of rows x and targets t, both [R, K], as its row needs it.
    These are its two NumPy functions, PyTorch's, and how much each moves where x and t do."""

    numpy: Callable[[Array, Array], Array]
    grad: Callable[[Array, Array], Array]
    aten: Callable[[Any, Any], Any]
    aten_grad: Callable[[Any, Any], Any]
    moved: Callable[[Array, Array, Array, Array], Array]
    grad_moved: Callable[[Array, Array, Array, Array], Array]
    doc: str
    grad_doc: str


# --- what fits


def _scores(x: TensorType) -> None:
    require(len(x.shape) in (2, 4), f"outputs must be [N, K] or [N, K, H, W], they are {x}")


def _targets_fit(x: TensorType, t: TensorType) -> None:
    _scores(x)
    require(t.shape == x.shape and t.dtype == "float32", f"targets must be float32{list(x.shape)}, they are {t}")


def _labels_fit(x: TensorType, labels: TensorType, weights: TensorType | None = None) -> None:
    _scores(x)
    wanted = TensorType((x.shape[0], *((1, *x.spatial) if len(x.shape) == 4 else ())), "int64")
    require(labels == wanted, f"labels of {x} must be {wanted}, they are {labels}")
    if weights is not None:
        require(weights.shape == (x.channels,), f"class weights of {x} must be [{x.channels}], they are {weights}")


def _loss_shape(fit: Callable[..., None]) -> Callable[..., TensorType]:
    def shape(a: Any, x: TensorType, *targets: TensorType) -> TensorType:
        fit(x, *targets)
        return TensorType((), "float32")

    return shape


def _grad_shape(fit: Callable[..., None]) -> Callable[..., TensorType]:
    def shape(a: Any, dloss: TensorType, x: TensorType, *targets: TensorType) -> TensorType:
        fit(x, *targets)
        require(dloss.shape == (), f"dloss must be a scalar, it is {dloss}")
        return x

    return shape


# --- the losses, of rows


def _wide(x: Any) -> Any:
    return x if x.element_size() == 8 else x.float()


def _aten_soft(x: Any, t: Any) -> Any:
    log_p = x.log_softmax(1)
    return -(t * log_p).where(t != 0, 0.0).sum(1).mean()


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _soft_moved(x: Array, t: Array, ex: Array, et: Array) -> Array:
    """log sum exp x moves by softmax(x)*dx, what is expected of the logits by t*dx; each is computed by itself."""
    p = np_loss.softmax(x, axis=1)
    return ((p * t.sum(axis=1, keepdims=True) + abs(t)) * ex + abs(np.log(np.maximum(p, 1e-38))) * et).sum() / len(x)


def _soft_grad_moved(x: Array, t: Array, ex: Array, et: Array) -> Array:
    p, total = np_loss.softmax(x, axis=1), abs(t).sum(axis=1, keepdims=True)
    by_x = p * (ex + (p * ex).sum(axis=1, keepdims=True))
    return (by_x * total + p * et.sum(axis=1, keepdims=True) + et) / len(x)


def _binary_moved(x: Array, t: Array, ex: Array, et: Array) -> Array:
    return ((np.maximum(_sigmoid(x), 0.5) + abs(t)) * ex + abs(x) * et).sum() / x.size


def _binary_grad_moved(x: Array, t: Array, ex: Array, et: Array) -> Array:
    p = _sigmoid(x)
    return (p * (1 - p) * ex + et) / x.size


LOSSES = {
    "soft_cross_entropy": _Loss(
        np_loss.soft_cross_entropy,
        np_loss.soft_cross_entropy_grad,
        _aten_soft,
        lambda x, t: (x.softmax(1) * t.sum(1, keepdim=True) - t) / x.shape[0],
        _soft_moved,
        _soft_grad_moved,
        "the mean over images (and pixels) of -sum_k t[k] * log softmax(x)[k], times weight",
        "dx = dloss * weight * (softmax(x) * sum_k t[k] - t) / rows",
    ),
    "binary_cross_entropy": _Loss(
        np_loss.binary_cross_entropy,
        np_loss.binary_cross_entropy_grad,
        lambda x, t: (x.clamp(min=0) - x * t + (-x.abs()).exp().log1p()).mean(),
        lambda x, t: (x.sigmoid() - t) / x.numel(),
        _binary_moved,
        _binary_grad_moved,
        "the mean of max(x, 0) - x*t + log(1 + exp(-|x|)), times weight",
        "dx = dloss * weight * (sigmoid(x) - t) / numbers",
    ),
    "squared_error": _Loss(
        np_loss.squared_error,
        np_loss.squared_error_grad,
        lambda x, t: ((x - t) ** 2).mean(),
        lambda x, t: 2 * (x - t) / x.numel(),
        lambda x, t, ex, et: (2 * abs(x - t) * (ex + et)).sum() / x.size,
        lambda x, t, ex, et: 2 * (ex + et) / x.size,
        "the mean of (x - t)**2, times weight",
        "dx = dloss * weight * 2*(x - t) / numbers",
    ),
}


# --- their rows of the table

#: (attributes, x, what it is compared with) -> the targets [R, K]
Targets = Callable[..., Array]


def _given(a: Any, x: Array, t: Array) -> Array:
    return as_rows(t)


def _of_labels(a: Any, x: Array, labels: Array, weights: Array | None = None) -> Array:
    return np_loss.smoothed(as_rows(x), labels.reshape(-1), weights, label_smoothing=a["label_smoothing"])


def _aten_targets(a: Any, x: Any, labels: Any, weights: Any = None) -> Any:
    """Targets of labels, tensors [R, K]."""
    import torch

    flat, e, k = labels.reshape(-1, 1), a["label_smoothing"], x.shape[1]
    t = torch.full((len(flat), k), e / k, dtype=_wide(x).dtype, device=x.device)
    t.scatter_add_(1, flat.clamp(min=0), torch.full_like(flat, 1 - e, dtype=t.dtype))
    return t if weights is None else (t * weights).where(flat >= 0, 0.0)


def _terms(a: Any, *arrays: Any) -> int:
    """Each sum is over a row; the loss adds up the rows, too."""
    largest = max(arrays[1:], key=lambda x: x.size)
    return int(largest.size if arrays[0].ndim == 0 else largest.shape[1])


def _register(
    name: str, loss: _Loss, inputs: str, attrs: Mapping[str, Attr], fit: Callable[..., None],
    targets: Targets = _given, aten_targets: Targets = _given, batched: Mapping[str, bool] | None = None,
) -> None:  # fmt: skip
    def numpy(env: Any, a: Any, x: Any, *other: Any) -> Any:
        return x.dtype.type(a["weight"]) * loss.numpy(as_rows(x), targets(a, x, *other))

    def numpy_grad(env: Any, a: Any, dloss: Any, x: Any, *other: Any) -> Any:
        scale = x.dtype.type(a["weight"] * float(dloss))
        return of_rows((scale * loss.grad(as_rows(x), targets(a, x, *other))).astype(x.dtype), x)

    def aten(env: Any, a: Any, x: Any, *other: Any) -> Any:
        return loss.aten(as_rows(_wide(x)), aten_targets(a, x, *other)) * a["weight"]

    def aten_grad(env: Any, a: Any, dloss: Any, x: Any, *other: Any) -> Any:
        grad = loss.aten_grad(as_rows(_wide(x)), aten_targets(a, x, *other))
        return of_rows((grad * (dloss.to(x.device) * a["weight"])).to(x.dtype), x)

    def target_errors(errors: Any, a: Any, x: Array, t: Array, *other: Array) -> Array:
        """Targets of labels are linear in the weights of classes, so they move as those of the weights' errors."""
        if targets is _given:
            return as_rows(errors[0])
        return abs(targets(a, x, other[0], errors[1])) if len(other) > 1 else np.zeros_like(t)

    def moved(a: Any, errors: Any, x: Any, *other: Any) -> Any:
        t = targets(a, x, *other)
        return a["weight"] * loss.moved(as_rows(x), t, as_rows(errors[0]), target_errors(errors[1:], a, x, t, *other))

    def grad_moved(a: Any, errors: Any, dloss: Any, x: Any, *other: Any) -> Any:
        rows, t = as_rows(x), targets(a, x, *other)
        by_operands = loss.grad_moved(rows, t, as_rows(errors[1]), target_errors(errors[2:], a, x, t, *other))
        by_all = abs(float(dloss)) * by_operands + float(errors[0]) * abs(loss.grad(rows, t))
        return of_rows(a["weight"] * by_all, x)

    def gradient(g: Any, node: Any, dy: str) -> list[str | None]:
        return [g.add(f"{name}_grad", dy, *node.inputs, **node.attrs), *[None] * (len(node.inputs) - 1)]

    facts: dict[str, Any] = {"batched": batched or {"targets": True}, "terms": _terms, "unit": 1.0, "collapses": True}
    register(
        name,
        Kind.REDUCTION,
        inputs,
        attrs=attrs,
        shape=_loss_shape(fit),
        numpy=numpy,
        gradient=lambda g, node, dy: [
            g.add(f"{name}_grad", dy, *node.inputs, **node.attrs),
            *[None] * (len(node.inputs) - 1),
        ],
        aten=aten,
        moved=moved,
        doc=loss.doc,
        **facts,
    )
    register(
        f"{name}_grad",
        Kind.REDUCTION,
        f"dloss {inputs}",
        attrs=attrs,
        shape=_grad_shape(fit),
        numpy=numpy_grad,
        gradient="second derivatives are not supported",
        aten=aten_grad,
        moved=grad_moved,
        sibling_of=name,
        loop_over=-1,
        begins_backward=True,
        doc=loss.grad_doc,
        **facts,
    )


_register(
    "cross_entropy", LOSSES["soft_cross_entropy"], "logits labels weights?", SMOOTHED, _labels_fit, _of_labels,
    _aten_targets, {"weights": False},
)  # fmt: skip
for _name, _loss in LOSSES.items():
    _register(_name, _loss, "logits targets", WEIGHT, _targets_fit)
