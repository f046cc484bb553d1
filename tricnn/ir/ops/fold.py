"""What becomes of a layer's weights when the batch norm after it is folded into them (``compiler/fold.py``).

batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..table import Kind, register, require
from ..types import TensorType
from .norm import EPS


def _scale(gamma: Any, var: Any, eps: float) -> Any:
    return gamma / np.sqrt(var + var.dtype.type(eps))


def _weight_shape(a: Any, w: TensorType, *vectors: TensorType) -> TensorType:
    for vector in vectors:
        require(vector.shape == w.shape[:1], f"statistics of {w} must be [{w.shape[0]}], one is {vector}")
    return w


def _bias_shape(a: Any, gamma: TensorType, *vectors: TensorType) -> TensorType:
    for vector in (gamma, *vectors):
        require(vector.shape == gamma.shape[:1], f"all must be [{gamma.shape[0]}], one is {vector}")
    return gamma


def _rows(s: Any, w: Any) -> Any:
    return s.reshape(-1, *[1] * (w.ndim - 1))


_PREPARED = "folded weights are for inference, which has no gradient"

register(
    "fold_weight", Kind.POINTWISE, "weight gamma var",
    attrs=EPS,
    shape=_weight_shape,
    numpy=lambda env, a, w, gamma, var: w * _rows(_scale(gamma, var, a["eps"]), w),
    gradient=_PREPARED,
    aten=lambda env, a, w, gamma, var: w * _rows(gamma * (var + a["eps"]).rsqrt(), w),
    prepared=True,
    doc="weight * gamma * rsqrt(var + eps), per filter",
)  # fmt: skip
register(
    "fold_bias", Kind.POINTWISE, "gamma beta mean var bias?",
    attrs=EPS,
    shape=_bias_shape,
    numpy=lambda env, a, gamma, beta, mean, var, b=0: (b - mean) * _scale(gamma, var, a["eps"]) + beta,
    gradient=_PREPARED,
    aten=lambda env, a, gamma, beta, mean, var, b=0: (b - mean) * gamma * (var + a["eps"]).rsqrt() + beta,
    prepared=True,
    doc="(bias - mean) * gamma * rsqrt(var + eps) + beta",
)  # fmt: skip
