"""Sums over pixels: NumPy adds rows one after another, and the error of such a sum grows with their number."""

import numpy as np

from tricnn.ir.numpy_ops.nhwc import to_nhwc

BLOCK = 128


def pixel_rows(x: np.ndarray) -> np.ndarray:
    """x: [N, C] or [N, C, H, W], any strides -> [pixels, C]; no copy if x is channels-last already."""
    return x if x.ndim == 2 else to_nhwc(x).reshape(-1, x.shape[1])


def sum_rows(x: np.ndarray) -> np.ndarray:
    """[M, C] -> [C]: sums of blocks of rows, then sums of those, and so on, in one order whatever the machine.

    Each level rounds at most BLOCK times, so the error is below BLOCK * log(M) / log(BLOCK) units of the last place of
    the sum of magnitudes, not M.
    """
    while len(x) > BLOCK:
        whole = len(x) // BLOCK
        sums = np.add.reduce(x[: whole * BLOCK].reshape(whole, BLOCK, -1), axis=1)
        rest = x[whole * BLOCK :]
        x = np.concatenate([sums, rest]) if len(rest) else sums
    return np.add.reduce(x, axis=0)
