"""Channels-last memory."""

import numpy as np


def to_nhwc(x: np.ndarray) -> np.ndarray:
    """x: [N, C, H, W], any strides -> C-contiguous [N, H, W, C]; no copy if x is channels-last already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def to_nchw(x: np.ndarray) -> np.ndarray:
    """x: [N, H, W, C] -> logical [N, C, H, W] over the same memory."""
    return x.transpose(0, 3, 1, 2)
