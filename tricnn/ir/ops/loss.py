"""Softmax and the loss.

``loss = weight * mean_n( -sum_k t[n,k] * log softmax(x)[n,k] )`` with the target
``t[n,k] = (1 - e) * [k == label_n] + e / K`` and label smoothing e (Szegedy et al., "Rethinking the Inception
architecture", 2016, section 7). Its gradient is ``dx = dloss * weight * (softmax(x) - t) / N``.
"""

from __future__ import annotations

from typing import Any

from ..numpy_ops import loss as np_loss
from ..table import Kind, number, register, require
from ..types import TensorType
from .pointwise import same_shape

LOSS = {"label_smoothing": number(0.0, 0.0, 1.0), "weight": number(1.0, 0.0)}


def _check(x: TensorType, labels: TensorType) -> None:
    require(len(x.shape) == 2, f"logits must be [N, classes], they are {x}")
    require(len(labels.shape) == 1 and labels.dtype == "int64", f"labels must be int64[N], they are {labels}")


def _softmax_shape(a: Any, x: TensorType, *same: TensorType) -> TensorType:
    require(len(x.shape) == 2, f"input must be [N, classes], it is {x}")
    return same_shape(a, x, *same)


def _loss_shape(a: Any, x: TensorType, labels: TensorType) -> TensorType:
    _check(x, labels)
    return TensorType((), "float32")


def _grad_shape(a: Any, dloss: TensorType, x: TensorType, labels: TensorType) -> TensorType:
    _check(x, labels)
    require(dloss.shape == (), f"dloss must be a scalar, it is {dloss}")
    return x


def _gradient(g: Any, node: Any, dy: str) -> list[str | None]:
    return [g.add("cross_entropy_grad", dy, *node.inputs, **node.attrs), None]


def _aten_loss(env: Any, a: Any, x: Any, labels: Any) -> Any:
    import torch.nn.functional as F

    wide = x if x.element_size() == 8 else x.float()
    if a["label_smoothing"] == 1:  # where PyTorch multiplies what has no weight by 0, and infinity becomes NaN
        return -F.log_softmax(wide, 1).mean() * a["weight"]
    return F.cross_entropy(wide, labels, label_smoothing=a["label_smoothing"]) * a["weight"]


def _aten_grad(env: Any, a: Any, dloss: Any, x: Any, labels: Any) -> Any:
    import torch

    wide = x if x.element_size() == 8 else x.float()
    e, k = a["label_smoothing"], x.shape[1]
    target = torch.full_like(wide, e / k)
    target.scatter_add_(1, labels[:, None], torch.full_like(labels[:, None], 1 - e, dtype=wide.dtype))
    dx = (wide.softmax(1) - target) * (dloss.to(x.device) * a["weight"] / x.shape[0])
    return dx.to(x.dtype)


def _softmax_moved(a: Any, errors: Any, x: Any) -> Any:
    """dy[k] = y[k] * (dx[k] - sum_j y[j]*dx[j])."""
    (ex,), y = errors, np_loss.softmax(x, axis=1)
    return y * (ex + (y * ex).sum(axis=1, keepdims=True))


def _softmax_grad_moved(a: Any, errors: Any, dy: Any, y: Any) -> Any:
    edy, ey = errors
    inner = (edy * abs(y) + abs(dy) * ey).sum(axis=1, keepdims=True)
    return ey * abs(dy - (dy * y).sum(axis=1, keepdims=True)) + abs(y) * (edy + inner)


def _loss_moved(a: Any, errors: Any, x: Any, labels: Any) -> Any:
    """log sum exp x moves by softmax(x)*dx, what is expected of the logits by t*dx; each is computed by itself."""
    p, smoothing = np_loss.softmax(x, axis=1), a["label_smoothing"]
    target = p - len(x) * np_loss.cross_entropy_grad(x, labels, label_smoothing=smoothing)
    return a["weight"] * ((p + target) * errors[0]).sum(axis=1).mean()


def _loss_grad_moved(a: Any, errors: Any, dloss: Any, x: Any, labels: Any) -> Any:
    eloss, ex = errors[:2]
    scale = abs(a["weight"] * float(dloss)) / len(x)
    grad = abs(np_loss.cross_entropy_grad(x, labels, label_smoothing=a["label_smoothing"]))
    return scale * _softmax_moved(a, (ex,), x) + a["weight"] * float(eloss) * grad


def _classes(a: Any, *arrays: Any) -> int:
    """Each sum is over the classes; the loss adds up the images, too."""
    largest = max(arrays[1:], key=lambda x: x.ndim)
    return int(largest.size if arrays[0].ndim == 0 else largest.shape[1])


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
    gradient="second derivatives are not supported",
    aten=lambda env, a, dy, y: y * (dy - (dy * y).sum(dim=1, keepdim=True)),
    moved=_softmax_grad_moved, terms=_classes,
    doc="dx = y * (dy - sum_k dy*y)",
)  # fmt: skip
register(
    "cross_entropy", Kind.REDUCTION, "logits labels",
    attrs=LOSS,
    shape=_loss_shape,
    numpy=lambda env, a, x, labels: x.dtype.type(a["weight"])
    * np_loss.cross_entropy(x, labels, label_smoothing=a["label_smoothing"]),
    gradient=_gradient,
    aten=_aten_loss,
    moved=_loss_moved, terms=_classes, unit=1.0,
    collapses=True,
    doc="the mean over the batch of -sum_k t[k] * log softmax(x)[k], times weight",
)  # fmt: skip
register(
    "cross_entropy_grad", Kind.REDUCTION, "dloss logits labels",
    attrs=LOSS,
    shape=_grad_shape,
    numpy=lambda env, a, dloss, x, labels: x.dtype.type(a["weight"] * float(dloss))
    * np_loss.cross_entropy_grad(x, labels, label_smoothing=a["label_smoothing"]),
    gradient="second derivatives are not supported",
    aten=_aten_grad,
    moved=_loss_grad_moved, terms=_classes, unit=1.0,
    collapses=True, sibling_of="cross_entropy",
    loop_over=-1,
    begins_backward=True,
    doc="dx = dloss * weight * (softmax(x) - t) / N",
)  # fmt: skip
