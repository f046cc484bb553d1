"""Losses of outputs ``x [N, K]`` and targets ``t [N, K]`` that are numbers: cross entropy of probabilities or mixed
labels, binary cross entropy of logits, squared error. Each is the mean over the batch times ``weight``; its gradient is
``dx = dloss * weight * d(mean)/dx``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numpy_ops import loss as np_loss
from ..table import Kind, number, register, require
from ..types import TensorType

WEIGHT = {"weight": number(1.0, 0.0)}
Array = Any


@dataclass(frozen=True)
class _Loss:
    """A loss by its two NumPy functions, PyTorch's, and by how much each moves where x and t do."""

    numpy: Callable[[Array, Array], Array]
    grad: Callable[[Array, Array], Array]
    aten: Callable[[Any, Any], Any]
    aten_grad: Callable[[Any, Any], Any]
    moved: Callable[[Array, Array, Array, Array], Array]
    grad_moved: Callable[[Array, Array, Array, Array], Array]
    doc: str
    grad_doc: str


def _check(x: TensorType, t: TensorType) -> None:
    require(len(x.shape) == 2, f"outputs must be [N, K], they are {x}")
    require(t.shape == x.shape and t.dtype == "float32", f"targets must be float32{list(x.shape)}, they are {t}")


def _loss_shape(a: Any, x: TensorType, t: TensorType) -> TensorType:
    _check(x, t)
    return TensorType((), "float32")


def _grad_shape(a: Any, dloss: TensorType, x: TensorType, t: TensorType) -> TensorType:
    _check(x, t)
    require(dloss.shape == (), f"dloss must be a scalar, it is {dloss}")
    return x


def _wide(x: Any) -> Any:
    return x if x.element_size() == 8 else x.float()


def _aten_soft(x: Any, t: Any) -> Any:
    log_p = x.log_softmax(1)
    return -(t * log_p).where(t != 0, 0.0).sum(1).mean()


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _soft_moved(x: Array, t: Array, ex: Array, et: Array) -> Array:
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
        "the mean over the batch of -sum_k t[k] * log softmax(x)[k], times weight",
        "dx = dloss * weight * (softmax(x) * sum_k t[k] - t) / N",
    ),
    "binary_cross_entropy": _Loss(
        np_loss.binary_cross_entropy,
        np_loss.binary_cross_entropy_grad,
        lambda x, t: (x.clamp(min=0) - x * t + (-x.abs()).exp().log1p()).mean(),
        lambda x, t: (x.sigmoid() - t) / x.numel(),
        _binary_moved,
        _binary_grad_moved,
        "the mean of max(x, 0) - x*t + log(1 + exp(-|x|)), times weight",
        "dx = dloss * weight * (sigmoid(x) - t) / (N*K)",
    ),
    "squared_error": _Loss(
        np_loss.squared_error,
        np_loss.squared_error_grad,
        lambda x, t: ((x - t) ** 2).mean(),
        lambda x, t: 2 * (x - t) / x.numel(),
        lambda x, t, ex, et: (2 * abs(x - t) * (ex + et)).sum() / x.size,
        lambda x, t, ex, et: 2 * (ex + et) / x.size,
        "the mean of (x - t)**2, times weight",
        "dx = dloss * weight * 2*(x - t) / (N*K)",
    ),
}


def _terms(a: Any, *arrays: Any) -> int:
    """Each sum is over a row; the loss adds up the images, too."""
    largest = max(arrays[1:], key=lambda x: x.ndim)
    return int(largest.size if arrays[0].ndim == 0 else largest.shape[1])


def _register(name: str, loss: _Loss) -> None:
    def grad_moved(a: Any, errors: Any, dloss: Any, x: Any, t: Any) -> Any:
        by_operands = loss.grad_moved(x, t, errors[1], errors[2])
        return a["weight"] * (abs(float(dloss)) * by_operands + float(errors[0]) * abs(loss.grad(x, t)))

    register(
        name,
        Kind.REDUCTION,
        "logits targets",
        attrs=WEIGHT,
        shape=_loss_shape,
        batched={"targets": True},
        numpy=lambda env, a, x, t: x.dtype.type(a["weight"]) * loss.numpy(x, t),
        gradient=lambda g, node, dy: [g.add(f"{name}_grad", dy, *node.inputs, **node.attrs), None],
        aten=lambda env, a, x, t: loss.aten(_wide(x), t) * a["weight"],
        moved=lambda a, errors, x, t: a["weight"] * loss.moved(x, t, *errors),
        terms=_terms,
        unit=1.0,
        collapses=True,
        doc=loss.doc,
    )
    register(
        f"{name}_grad",
        Kind.REDUCTION,
        "dloss logits targets",
        attrs=WEIGHT,
        shape=_grad_shape,
        batched={"targets": True},
        numpy=lambda env, a, dloss, x, t: (x.dtype.type(a["weight"] * float(dloss)) * loss.grad(x, t)).astype(x.dtype),
        gradient="second derivatives are not supported",
        aten=lambda env, a, dloss, x, t: (loss.aten_grad(_wide(x), t) * (dloss.to(x.device) * a["weight"])).to(x.dtype),
        moved=grad_moved,
        terms=_terms,
        unit=1.0,
        collapses=True,
        sibling_of=name,
        loop_over=-1,
        begins_backward=True,
        doc=loss.grad_doc,
    )


for _name, _loss in LOSSES.items():
    _register(_name, _loss)
