"""What becomes of a layer's weights when others are folded into them (``compiler/fold.py``).

batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)
conv2d(x, w) + conv2d(x, v) = conv2d(x, w + zeros around v)
batch_norm(x)               = conv2d(x, diagonal of s, beta - mean * s)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..table import Kind, integer, padding, register, require
from ..types import TensorType
from .norm import EPS

if TYPE_CHECKING:
    import torch


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


# --- in PyTorch: functions whose text emitted files have, so that each needs nothing but torch ------------------------


def fold_weight(w: torch.Tensor, gamma: torch.Tensor, var: torch.Tensor, eps: float) -> torch.Tensor:
    """The weight of a layer with the batch norm after it: w * gamma * rsqrt(var + eps), filter by filter."""
    return w * (gamma * (var + eps).rsqrt()).reshape(-1, *[1] * (w.dim() - 1))


def fold_bias(
    gamma: torch.Tensor, beta: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """The bias of a layer with the batch norm after it: (bias - mean) * gamma * rsqrt(var + eps) + beta."""
    return (sum(bias) - mean) * gamma * (var + eps).rsqrt() + beta


def pad_window(w: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """A weight [K, C, R, S] for a larger window: zeros above, below, left and right, as many as padding says."""
    top, bottom, left, right = padding
    k, c, r, s = w.shape
    wide = w.new_zeros(k, c, top + r + bottom, left + s + right)
    wide[:, :, top : top + r, left : left + s] = w
    return wide


def diagonal_weight(gamma: torch.Tensor, var: torch.Tensor, eps: float, groups: int) -> torch.Tensor:
    """The weight of a 1x1 convolution that multiplies each channel by gamma * rsqrt(var + eps)."""
    each = len(gamma) // groups
    w = gamma.new_zeros(len(gamma), each, 1, 1)
    for c, scale in enumerate(gamma * (var + eps).rsqrt()):
        w[c, c % each] = scale
    return w


register(
    "fold_weight", Kind.POINTWISE, "weight gamma var",
    attrs=EPS,
    shape=_weight_shape,
    numpy=lambda env, a, w, gamma, var: w * _rows(_scale(gamma, var, a["eps"]), w),
    gradient=_PREPARED,
    torch=fold_weight,
    prepared=True,
    doc="weight * gamma * rsqrt(var + eps), per filter",
)  # fmt: skip
register(
    "fold_bias", Kind.POINTWISE, "gamma beta mean var bias?",
    attrs=EPS,
    shape=_bias_shape,
    numpy=lambda env, a, gamma, beta, mean, var, b=0: (b - mean) * _scale(gamma, var, a["eps"]) + beta,
    gradient=_PREPARED,
    torch=fold_bias,
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


register(
    "pad_window", Kind.POINTWISE, "weight",
    attrs={"padding": padding()},
    shape=_window_shape,
    numpy=lambda env, a, w: np.pad(w, ((0, 0), (0, 0), a["padding"][:2], a["padding"][2:])),
    gradient=_PREPARED,
    torch=pad_window,
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
    torch=diagonal_weight,
    prepared=True,
    doc="the weight of a 1x1 convolution that multiplies each channel by gamma * rsqrt(var + eps)",
)  # fmt: skip
