"""Images resampled along each axis by fixed weights: ``y[p] = sum over i of weight(p, i) * x[i]``, rows then columns.

One table says which positions each result is made of; the table read the other way round says where each position goes.
So a resampling and its gradient are the same loop over two tables.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tricnn.ir.numpy_ops.nhwc import to_nchw, to_nhwc


@dataclass(frozen=True, eq=False)
class Taps:
    """What each position of a result is made of: ``y[p] = sum over k of weight[p, k] * x[index[p, k]]``.

    index, weight: [results, K]. A weight of 0 says that there is no such tap; its index is 0.
    """

    index: np.ndarray
    weight: np.ndarray

    @property
    def most(self) -> int:
        """K, the number of taps that any result may have."""
        return self.index.shape[1]


@lru_cache(maxsize=1024)
def taps(kind: str, size: int, results: int) -> Taps:
    """The taps of an axis of ``size`` positions resampled to ``results``; see `weights` for the kinds."""
    p = np.arange(results, dtype=np.int64)
    first, most = {
        "nearest": lambda: (p * size // results, 1),
        "half": lambda: (np.maximum((2 * p + 1) * size - results, 0) // (2 * results), 2),
        "corners": lambda: (p * (size - 1) // max(results - 1, 1), 2),
        "mean": lambda: (p * size // results, -(-size // results) + 1),
    }[kind]()
    index = np.minimum(first[:, None], size - 1) + np.arange(most)
    weight = weights(kind, p[:, None], index, size, results) * (index < size)
    return _without_empty(np.where(weight > 0, index, 0), weight)


def weights(kind: str, p: np.ndarray, i: np.ndarray, size: int, results: int) -> np.ndarray:
    """How much of position i is in result p, in float64; 0 where nothing.

    nearest  1 where i = floor(p * size / results), else 0
    half     max(0, 1 - |s - i|), s = (p + 1/2) * size / results - 1/2, from 0 to size - 1: linear, pixels are areas
    corners  max(0, 1 - |s - i|), s = p * (size - 1) / (results - 1): linear, the corner pixels stay where they are
    mean     1 / count for the count positions from floor(p * size / results) to ceil((p + 1) * size / results) - 1
    """
    if kind == "nearest":
        return (i == p * size // results).astype(np.float64)
    if kind == "mean":
        start, stop = p * size // results, -(-(p + 1) * size // results)
        return ((start <= i) & (i < stop)) / (stop - start)
    if kind == "half":
        unit = 2 * results
        place = np.clip((2 * p + 1) * size - results, 0, (size - 1) * unit)
    else:
        unit = max(results - 1, 1)
        place = p * (size - 1)
    return np.maximum(unit - np.abs(place - i * unit), 0) / unit


@lru_cache(maxsize=1024)
def transposed_taps(kind: str, size: int, results: int) -> Taps:
    """The taps of the gradient: what each of ``size`` positions gets of the gradients of the ``results``."""
    ahead = taps(kind, size, results)
    p, k = np.nonzero(ahead.weight)
    i, weight = ahead.index[p, k], ahead.weight[p, k]
    order = np.lexsort((p, i))
    p, i, weight = p[order], i[order], weight[order]
    counts = np.bincount(i, minlength=size)
    slot = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    index, weights_ = np.zeros((size, max(counts.max(), 1)), np.int64), np.zeros((size, max(counts.max(), 1)))
    index[i, slot], weights_[i, slot] = p, weight
    return Taps(index, weights_)


def _without_empty(index: np.ndarray, weight: np.ndarray) -> Taps:
    """The taps without trailing ones that no result has."""
    used = max(1, int(np.max(np.nonzero(weight.any(axis=0))[0], initial=0)) + 1)
    return Taps(index[:, :used], weight[:, :used])


def resample(x: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Images [N, C, P, Q] whose pixels are weighted sums of those of x [N, C, H, W], by rows and by columns.

    y[n,c,p,q] = sum over i, j of rows.weight[p,i] * columns.weight[q,j] * x[n, c, rows.index[p,i], columns.index[q,j]].

    x: [N, C, H, W] -> y: [N, C, P, Q]. What has the weight 0 is not looked at, whatever it is.
    """
    y = to_nhwc(x)
    for axis, taps_ in ((1, rows), (2, columns)):
        y = _along(y, axis, taps_)
    return to_nchw(y)


def _along(x: np.ndarray, axis: int, taps_: Taps) -> np.ndarray:
    total = None
    for k in range(taps_.most):
        weight = taps_.weight[:, k]
        part = np.take(x, taps_.index[:, k], axis=axis)
        each = weight.reshape(-1, *[1] * (x.ndim - 1 - axis))
        if not np.all(weight == 1):
            part *= each.astype(x.dtype)
            part[(slice(None),) * axis + (weight == 0,)] = 0
        total = part if total is None else np.add(total, part, out=total)
    return np.ascontiguousarray(total)


def zero_pad2d(x: np.ndarray, padding: tuple[int, int, int, int]) -> np.ndarray:
    """y[n,c,h,w] = x[n, c, h - top, w - left], 0 where x has no such pixel; negative padding cuts pixels off.

    x: [N, C, H, W] -> y: [N, C, H + top + bottom, W + left + right], padding = (top, bottom, left, right).
    """
    x = to_nhwc(x)
    top, bottom, left, right = padding
    n, h, w, c = x.shape
    y = np.zeros((n, h + top + bottom, w + left + right, c), dtype=x.dtype)
    cut = x[:, max(-top, 0) : h - max(-bottom, 0), max(-left, 0) : w - max(-right, 0)]
    y[:, max(top, 0) : max(top, 0) + cut.shape[1], max(left, 0) : max(left, 0) + cut.shape[2]] = cut
    return to_nchw(y)
