"""Max and average pooling, one pass over the input per window position (tap) and vectorised over everything else."""

from collections.abc import Iterator

import numpy as np

from tricnn.ir.numpy_ops.memory import to_nchw, to_nhwc
from tricnn.ir.numpy_ops.sizes import output_size

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def max_pool2d(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, ceil_mode: bool = False
) -> np.ndarray:
    """y[n,c,p,q] = max over r, s of x[n, c, p*sh + r - top, q*sw + s - left], padding excluded; a NaN wins.

    x: [N, C, H, W] -> y: [N, C, P, Q].
    """
    x = to_nhwc(x)
    n, h, w, c = x.shape
    p, q = _output_hw(h, w, kernel_size, stride, padding, ceil_mode)
    y = np.full((n, p, q, c), -np.inf, dtype=x.dtype)
    for _, out, inp in _taps(h, w, p, q, kernel_size, stride, padding):
        np.maximum(y[out], x[inp], out=y[out])
    return to_nchw(y)


def max_pool2d_index(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, ceil_mode: bool = False
) -> np.ndarray:
    """The position r*S + s of the maximum in its window: uint8, or uint16 for windows over 255 elements.

    The first of equal maxima wins, and the last NaN if there is one, as in PyTorch. x: [N, C, H, W] -> [N, C, P, Q].
    """
    y = to_nhwc(
        max_pool2d(x, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    )
    x = to_nhwc(x)
    _, h, w, _ = x.shape
    n, p, q, c = y.shape
    taps = list(_taps(h, w, p, q, kernel_size, stride, padding))
    area = kernel_size[0] * kernel_size[1]
    index = np.zeros(y.shape, dtype=np.uint8 if area <= 255 else np.uint16)
    # Count the taps before the first that equals the maximum: byte-wide arithmetic only.
    found = np.zeros(y.shape, dtype=bool)
    valid = {t: (out, inp) for t, out, inp in taps}
    for t in range(area):
        if t in valid:
            out, inp = valid[t]
            found[out] |= x[inp] == y[out]
        index += ~found
    if not found.all():
        index[~found] = 0
        for t, out, inp in taps:
            index[out][np.isnan(x[inp])] = t
    return to_nchw(index)


def max_pool2d_grad(
    dy: np.ndarray,
    index: np.ndarray,
    *,
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    ceil_mode: bool = False,
) -> np.ndarray:
    """dx[n,c,h,w] = sum of dy over the windows whose maximum (`index`) lies there.

    dy, index: [N, C, P, Q] -> dx: [N, C, H, W] with (H, W) = input_size.
    """
    dy, index = to_nhwc(dy), to_nhwc(index)
    n, p, q, c = dy.shape
    h, w = input_size
    dx = np.zeros((n, h, w, c), dtype=dy.dtype)
    for t, out, inp in _taps(h, w, p, q, kernel_size, stride, padding):
        dx[inp] += np.where(index[out] == t, dy[out], dy.dtype.type(0))
    return to_nchw(dx)


def avg_pool2d(
    x: np.ndarray,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """y[n,c,p,q] = sum over r, s of x[n, c, p*sh + r - top, q*sw + s - left] / count.

    count is the window's area clipped to the padded input if `count_include_pad`, else to the input itself.
    x: [N, C, H, W] -> y: [N, C, P, Q].
    """
    x = to_nhwc(x)
    n, h, w, c = x.shape
    p, q = _output_hw(h, w, kernel_size, stride, padding, ceil_mode)
    y = np.zeros((n, p, q, c), dtype=x.dtype)
    for _, out, inp in _taps(h, w, p, q, kernel_size, stride, padding):
        y[out] += x[inp]
    y /= _counts(h, w, p, q, kernel_size, stride, padding, count_include_pad).astype(x.dtype)
    return to_nchw(y)


def avg_pool2d_grad(
    dy: np.ndarray,
    *,
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """dx[n,c,h,w] = sum of dy / count over the windows that hold (h, w). dy: [N, C, P, Q] -> dx: [N, C, H, W]."""
    dy = to_nhwc(dy)
    n, p, q, c = dy.shape
    h, w = input_size
    share = dy / _counts(h, w, p, q, kernel_size, stride, padding, count_include_pad).astype(dy.dtype)
    dx = np.zeros((n, h, w, c), dtype=dy.dtype)
    for _, out, inp in _taps(h, w, p, q, kernel_size, stride, padding):
        dx[inp] += share[out]
    return to_nchw(dx)


def _output_hw(h: int, w: int, kernel: Pair, stride: Pair, padding: Padding, ceil_mode: bool) -> Pair:
    top, bottom, left, right = padding
    return (
        output_size(h, kernel[0], stride[0], top, bottom, ceil_mode=ceil_mode),
        output_size(w, kernel[1], stride[1], left, right, ceil_mode=ceil_mode),
    )


def _taps(
    h: int, w: int, p: int, q: int, kernel: Pair, stride: Pair, padding: Padding
) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """(r*S + s, slices of the output, slices of the input it reads through that tap), row-major; NHWC."""
    everything = slice(None)
    for r in range(kernel[0]):
        out_h, in_h = _reach(h, p, stride[0], r - padding[0])
        for s in range(kernel[1]):
            out_w, in_w = _reach(w, q, stride[1], s - padding[2])
            if out_h.start < out_h.stop and out_w.start < out_w.stop:
                yield r * kernel[1] + s, (everything, out_h, out_w), (everything, in_h, in_w)


def _reach(size: int, count: int, stride: int, offset: int) -> tuple[slice, slice]:
    """The outputs i in 0..count-1 with 0 <= i*stride + offset < size, and those inputs, as slices."""
    first = max(0, -(offset // stride))
    last = min(count - 1, (size - 1 - offset) // stride)
    start = first * stride + offset
    return slice(first, last + 1), slice(start, start + max(0, last - first) * stride + 1, stride)


def _counts(
    h: int, w: int, p: int, q: int, kernel: Pair, stride: Pair, padding: Padding, include_pad: bool
) -> np.ndarray:
    """Elements in each window, [P, Q, 1], at least 1."""

    def along(size: int, count: int, k: int, step: int, before: int, after: int) -> np.ndarray:
        start = np.arange(count) * step - before
        stop = np.minimum(start + k, size + after)
        if not include_pad:
            start, stop = np.maximum(start, 0), np.minimum(stop, size)
        return np.maximum(stop - start, 0)

    top, bottom, left, right = padding
    rows = along(h, p, kernel[0], stride[0], top, bottom)
    columns = along(w, q, kernel[1], stride[1], left, right)
    return np.maximum(rows[:, None, None] * columns[None, :, None], 1)
