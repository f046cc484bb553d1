"""What becomes of a layer's weights when others are folded into them (``compiler/fold.py``).

batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)
conv2d(x, w) + conv2d(x, v) = conv2d(x, w + zeros around v)
batch_norm(x)               = conv2d(x, diagonal of s, beta - mean * s)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..table import Kind, integer, padding, register, require
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


def _window_shape(a: Any, w: TensorType) -> TensorType:
    require(len(w.shape) == 4 and not w.batched, f"it must be [K, C, R, S], it is {w}")
    k, c, r, s = w.per_image
    top, bottom, left, right = a["padding"]
    return TensorType((k, c, r + top + bottom, s + left + right), w.dtype)


def _diagonal_shape(a: Any, gamma: TensorType, var: TensorType) -> TensorType:
    _bias_shape(a, gamma, var)
    channels = gamma.per_image[0]
    require(channels % a["groups"] == 0, f"{channels} channels are not {a['groups']} groups")
    return TensorType((channels, channels // a["groups"], 1, 1), gamma.dtype)


def _diagonal(a: Any, s: Any, zeros: Any) -> Any:
    """``s[c]`` at [c, c modulo the channels of a group]."""
    each = len(s) // a["groups"]
    for c in range(len(s)):
        zeros[c, c % each, 0, 0] = s[c]
    return zeros


def _torch_pad(w: Any, around: Any) -> Any:
    import torch.nn.functional as F

    top, bottom, left, right = around
    return F.pad(w, (left, right, top, bottom))


register(
    "pad_window", Kind.POINTWISE, "weight",
    attrs={"padding": padding()},
    shape=_window_shape,
    numpy=lambda env, a, w: np.pad(w, ((0, 0), (0, 0), a["padding"][:2], a["padding"][2:])),
    gradient=_PREPARED,
    aten=lambda env, a, w: _torch_pad(w, a["padding"]),
    prepared=True,
    doc="weights for a larger window: zeros above, below, left and right of those of each filter and channel",
)  # fmt: skip
register(
    "diagonal_weight", Kind.POINTWISE, "gamma var",
    attrs={**EPS, "groups": integer(1, 1)},
    shape=_diagonal_shape,
    numpy=lambda env, a, gamma, var: _diagonal(
        a, _scale(gamma, var, a["eps"]), np.zeros((len(gamma), len(gamma) // a["groups"], 1, 1), gamma.dtype)
    ),
    gradient=_PREPARED,
    aten=lambda env, a, gamma, var: _diagonal(
        a, gamma * (var + a["eps"]).rsqrt(), gamma.new_zeros(len(gamma), len(gamma) // a["groups"], 1, 1)
    ),
    prepared=True,
    doc="the weight of a 1x1 convolution that multiplies each channel by gamma * rsqrt(var + eps)",
)  # fmt: skip
