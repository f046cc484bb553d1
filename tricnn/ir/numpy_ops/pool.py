"""Max and average pooling: a loop over the positions in the window (taps), vectorised over everything else."""

from collections.abc import Callable

import numpy as np

from tricnn.ir.numpy_ops.nhwc import to_nchw, to_nhwc, zero_where
from tricnn.ir.numpy_ops.parallel import for_tiles
from tricnn.ir.numpy_ops.windows import Axis, Padding, Pair, Reach, axes


def max_pool2d(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, ceil_mode: bool = False
) -> np.ndarray:
    """y[n,c,p,q] = max over r, s of x[n, c, p*sh + r - top, q*sw + s - left], padding excluded; a NaN wins.

    x: [N, C, H, W] -> y: [N, C, P, Q].
    """
    x = to_nhwc(x)
    n, h, w, c = x.shape
    rows, cols = axes((h, w), kernel_size, stride, padding, ceil_mode)
    y = np.empty((n, rows.count, cols.count, c), dtype=x.dtype)
    for_tiles(lambda images: _fold(np.maximum, -np.inf, x[images], rows, cols, y[images]), n, h * w * c)
    return to_nchw(y)


def max_pool2d_index(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, ceil_mode: bool = False
) -> np.ndarray:
    """The position r*S + s of the maximum in its window: uint8, or uint16 for windows over 255 elements.

    The first of equal maxima wins, and the last NaN if there is one, as in PyTorch. x: [N, C, H, W] -> [N, C, P, Q].
    """
    x = to_nhwc(x)
    n, h, w, c = x.shape
    rows, cols = axes((h, w), kernel_size, stride, padding, ceil_mode)
    area = kernel_size[0] * kernel_size[1]
    taps = {r.position * cols.kernel + s.position: (r, s) for r in rows.reaches() for s in cols.reaches()}
    index = np.empty((n, rows.count, cols.count, c), dtype=np.uint8 if area <= 255 else np.uint16)

    def work(images: slice) -> None:
        # The index is the number of taps before the first that equals the maximum: bytes only, and no branches.
        part, passed = x[images], index[images]
        y = np.empty(passed.shape, dtype=x.dtype)
        _fold(np.maximum, -np.inf, part, rows, cols, y)
        missing = np.ones(y.shape, dtype=bool)
        passed.fill(0)
        for t in range(area):
            if t in taps:
                r, s = taps[t]
                missing[:, r.out, s.out] &= part[:, r.inp, s.inp] != y[:, r.out, s.out]
            passed += missing.view(np.uint8)
        if missing.any():  # these windows hold a NaN, which equals nothing
            passed[missing] = 0
            for t, (r, s) in taps.items():
                passed[:, r.out, s.out][np.isnan(part[:, r.inp, s.inp])] = t

    for_tiles(work, n, h * w * c)
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
    rows, cols = axes(input_size, kernel_size, stride, padding, ceil_mode)
    dx = np.empty((dy.shape[0], *input_size, dy.shape[3]), dtype=dy.dtype)

    def work(images: slice) -> None:
        part, at = dy[images], index[images]
        room = np.empty_like(part)

        def at_tap(r: Reach, s: Reach) -> np.ndarray:
            return zero_where(at != at.dtype.type(r.position * cols.kernel + s.position), part, out=room)

        _unfold(at_tap, rows, cols, dx[images])

    for_tiles(work, *_images_and_size(dx))
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
    rows, cols = axes((h, w), kernel_size, stride, padding, ceil_mode)
    count = _counts(rows, cols, count_include_pad, x.dtype)
    y = np.empty((n, rows.count, cols.count, c), dtype=x.dtype)

    def work(images: slice) -> None:
        _fold(np.add, 0, x[images], rows, cols, y[images])
        y[images] /= count

    for_tiles(work, n, h * w * c)
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
    """dx[n,c,h,w] = sum of dy / count over the windows that hold (h, w).

    dy: [N, C, P, Q] -> dx: [N, C, H, W] with (H, W) = input_size.
    """
    dy = to_nhwc(dy)
    rows, cols = axes(input_size, kernel_size, stride, padding, ceil_mode)
    count = _counts(rows, cols, count_include_pad, dy.dtype)
    dx = np.empty((dy.shape[0], *input_size, dy.shape[3]), dtype=dy.dtype)

    def work(images: slice) -> None:
        share = dy[images] / count
        _unfold(lambda r, s: share, rows, cols, dx[images])

    for_tiles(work, *_images_and_size(dx))
    return to_nchw(dx)


def _fold(operation: np.ufunc, start: float, x: np.ndarray, rows: Axis, cols: Axis, y: np.ndarray) -> None:
    """y = operation over each window of x, first down its columns (long contiguous runs), then along its rows.

    x: [n, H, W, C], y: [n, P, Q, C].
    """
    down = np.empty((*y.shape[:2], *x.shape[2:]), dtype=x.dtype)
    _fold_axis(operation, start, x, rows, 1, down)
    _fold_axis(operation, start, down, cols, 2, y)


def _fold_axis(operation: np.ufunc, start: float, x: np.ndarray, axis: Axis, number: int, y: np.ndarray) -> None:
    every = (slice(None),) * number
    reaches = axis.reaches()
    complete = next((r for r in reaches if r.out == slice(0, axis.count)), None)
    if complete is None:
        y.fill(start)
    else:  # it reaches every window, so it can go first
        reaches.remove(complete)
        np.copyto(y, x[*every, complete.inp])
    for r in reaches:
        part = y[*every, r.out]
        operation(part, x[*every, r.inp], out=part)


def _unfold(values: Callable[[Reach, Reach], np.ndarray], rows: Axis, cols: Axis, dx: np.ndarray) -> None:
    """dx[n,h,w,c] = sum of values(r, s)[n,p,q,c] over the windows (p, q) that have (h, w) at their tap (r, s).

    `values` may reuse its result's memory. One residue of (h, w) modulo the stride at a time, so that the sums run over
    contiguous memory, and only the finished ones go to strided places.
    """
    for a in range(rows.stride):
        for b in range(cols.stride):
            part = dx[:, a :: rows.stride, b :: cols.stride]
            taps = [(r, s) for r in _of_residue(rows, a) for s in _of_residue(cols, b)]
            if len(taps) == 1 and part.shape[1:3] == (_length(taps[0][0].out), _length(taps[0][1].out)):
                r, s = taps[0]
                _copy_pixels(values(r, s)[:, r.out, s.out], part)
                continue
            total = part if part.size == dx.size else np.empty(part.shape, dtype=dx.dtype)
            total.fill(0)
            for r, s in taps:
                i, j = r.inp.start // rows.stride, s.inp.start // cols.stride
                found = values(r, s)[:, r.out, s.out]
                total[:, i : i + found.shape[1], j : j + found.shape[2]] += found
            if total is not part:
                _copy_pixels(total, part)


def _length(part: slice) -> int:
    return part.stop - part.start


def _of_residue(axis: Axis, residue: int) -> list[Reach]:
    return [r for r in axis.reaches() if r.inp.start % axis.stride == residue]


def _copy_pixels(source: np.ndarray, target: np.ndarray) -> None:
    """Copy [n, h, w, C] with a pixel's C numbers as one item: fast for few channels too."""
    if source.size:
        pixel = f"V{source.shape[3] * source.itemsize}"
        np.copyto(target.view(pixel), source.view(pixel))


def _counts(rows: Axis, cols: Axis, include_pad: bool, dtype: np.dtype) -> np.ndarray:
    """Elements in each window, [P, Q, 1], at least 1."""
    counts = rows.counts(include_pad)[:, None, None] * cols.counts(include_pad)[None, :, None]
    return np.maximum(counts, 1).astype(dtype)


def _images_and_size(x: np.ndarray) -> tuple[int, int]:
    return x.shape[0], x[:1].size
