"""Correlation channel by channel: one multiply-add per tap, with runs of whole image rows where the stride is 1."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tricnn.ir.numpy_ops.im2col import Axis, crop
from tricnn.ir.numpy_ops.parallel import for_tiles


def correlate_depthwise(src: np.ndarray, taps: np.ndarray, rows: Axis, cols: Axis, out: np.ndarray) -> None:
    """out[n,p,q,c] = sum over r, s of src[n, rows(p, r), cols(q, s), c] * taps[r,s,c].

    src: [N, H, W, C], taps: [R, S, C], out: [N, P, Q, C] (any strides).
    """
    _, p, q, c = out.shape
    run = _run(q, c, cols)
    repeated = np.ascontiguousarray(np.broadcast_to(taps[:, :, None], (*taps.shape[:2], run // c, c)))
    repeated = repeated.reshape(*taps.shape[:2], run)

    def work(images: slice) -> None:
        windows = _windows(src[images], rows, cols, p, q, run)
        out[images] = np.einsum("nphrsm,rsm->nphm", windows, repeated).reshape(-1, p, q, c)

    for_tiles(work, out.shape[0], p * q * c)


def correlate_depthwise_grad(src: np.ndarray, grad: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """Gradient with respect to taps, [R, S, C], given that of out, [N, P, Q, C]: summed per image, then over images."""
    n, p, q, c = grad.shape
    run = _run(q, c, cols)
    grad = grad.reshape(n, p, q * c // run, run)
    sums = np.empty((n, rows.taps, cols.taps, c), dtype=grad.dtype)

    def work(images: slice) -> None:
        for i in range(images.start, images.stop):
            windows = _windows(src[i : i + 1], rows, cols, p, q, run)[0]
            for r in range(rows.taps):
                for s in range(cols.taps):
                    along_row = np.einsum("phm,phm->m", windows[:, :, r, s], grad[i])
                    sums[i, r, s] = along_row.reshape(-1, c).sum(axis=0)

    for_tiles(work, n, p * q * c)
    return sums.sum(axis=0)


def _run(q: int, c: int, cols: Axis) -> int:
    """How many numbers of an output row to treat as one vector: with stride 1 the inputs of all of it are a run too."""
    return q * c if cols.stride == 1 else c


def _windows(src: np.ndarray, rows: Axis, cols: Axis, p: int, q: int, run: int) -> np.ndarray:
    """src: [n, H, W, C] -> [n, P, Q*C/run, R, S, run], a view of the padded images."""
    part = crop(src, *rows.reach(0, p), *cols.reach(0, q))
    n, c = part.shape[0], part.shape[3]
    sn, sh, sw, sc = part.strides
    shape = (n, p, q * c // run, rows.taps, cols.taps, run)
    strides = (sn, sh * rows.stride, sw * cols.stride, sh * rows.step, sw * cols.step, sc)
    return as_strided(part, shape, strides, writeable=False)
