"""2-D convolution and its two gradients by chunked im2col and GEMM."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tricnn.ir.numpy_ops.layout import to_nchw, to_nhwc
from tricnn.ir.numpy_ops.sizes import output_size

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
_CHUNK_BYTES = 4 << 20


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """y[n,k,p,q] = bias[k] + sum over c, r, s of x[n, c, p*sh + r*dh - top, q*sw + s*dw - left] * w[k,c,r,s].

    x: [N, C, H, W], w: [K, C/groups, R, S], bias: [K] -> y: [N, K, P, Q]. Outside x counts as zero. Group g reads
    channels g*C/groups .. and writes filters g*K/groups .. .
    """
    x = to_nhwc(x)
    n, h, wd, c = x.shape
    k, cg, r, s = w.shape
    kg = k // groups
    p, q = _output_hw(h, wd, (r, s), stride, padding, dilation)
    y = np.empty((n, p, q, k), dtype=x.dtype)
    wm = w.reshape(groups, kg, cg, r, s).transpose(0, 3, 4, 2, 1).reshape(groups, r * s * cg, kg)
    for part in _chunks(n, p * q * r * s * c * x.itemsize):
        cols = _columns(x[part], (r, s), (p, q), stride, padding, dilation, groups)
        for g in range(groups):
            y[part, ..., g * kg : (g + 1) * kg] = (cols[g] @ wm[g]).reshape(-1, p, q, kg)
    if bias is not None:
        y += bias
    return to_nchw(y)


def conv2d_grad_input(
    dy: np.ndarray, w: np.ndarray, *, input_size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """dgrad. dx[n,c,h,w] = sum of dy[n,k,p,q] * w[k,c,r,s] over p*sh + r*dh - top = h, q*sw + s*dw - left = w.

    dy: [N, K, P, Q], w: [K, C/groups, R, S] -> dx: [N, C, H, W] with (H, W) = input_size.
    """
    dy = to_nhwc(dy)
    n, p, q, k = dy.shape
    _, cg, r, s = w.shape
    kg, c = k // groups, cg * groups
    (h, wd), (top, _, left, _) = input_size, padding
    dx = np.zeros((n, h, wd, c), dtype=dy.dtype)
    wm = w.reshape(groups, kg, cg, r, s).transpose(0, 1, 3, 4, 2).reshape(groups, kg, r * s * cg)
    hp = max((p - 1) * stride[0] + (r - 1) * dilation[0] + 1, top + h)
    wp = max((q - 1) * stride[1] + (s - 1) * dilation[1] + 1, left + wd)
    for part in _chunks(n, p * q * r * s * c * dy.itemsize):
        count = len(range(*part.indices(n)))
        padded = np.zeros((count, hp, wp, c), dtype=dy.dtype)
        for g in range(groups):
            rows = np.ascontiguousarray(dy[part, ..., g * kg : (g + 1) * kg]).reshape(-1, kg)
            cols = (rows @ wm[g]).reshape(count, p, q, r, s, cg)
            for i in range(r):
                for j in range(s):
                    hs, ws = i * dilation[0], j * dilation[1]
                    padded[
                        :,
                        hs : hs + (p - 1) * stride[0] + 1 : stride[0],
                        ws : ws + (q - 1) * stride[1] + 1 : stride[1],
                        g * cg : (g + 1) * cg,
                    ] += cols[:, :, :, i, j]
        dx[part] = padded[:, top : top + h, left : left + wd]
    return to_nchw(dx)


def conv2d_grad_weight(
    dy: np.ndarray, x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """wgrad. dw[k,c,r,s] = sum over n, p, q of dy[n,k,p,q] * x[n, c, p*sh + r*dh - top, q*sw + s*dw - left].

    dy: [N, K, P, Q], x: [N, C, H, W] -> dw: [K, C/groups, R, S] with (R, S) = kernel_size.
    """
    dy, x = to_nhwc(dy), to_nhwc(x)
    n, p, q, k = dy.shape
    c = x.shape[3]
    r, s = kernel_size
    cg, kg = c // groups, k // groups
    dw = np.zeros((groups, r * s * cg, kg), dtype=dy.dtype)
    for part in _chunks(n, p * q * r * s * c * dy.itemsize):
        cols = _columns(x[part], (r, s), (p, q), stride, padding, dilation, groups)
        for g in range(groups):
            dw[g] += cols[g].T @ np.ascontiguousarray(dy[part, ..., g * kg : (g + 1) * kg]).reshape(-1, kg)
    return np.ascontiguousarray(dw.reshape(groups, r, s, cg, kg).transpose(0, 4, 3, 1, 2).reshape(k, cg, r, s))


def _chunks(n: int, bytes_each: int) -> list[slice]:
    step = max(1, _CHUNK_BYTES // max(1, bytes_each))
    return [slice(i, i + step) for i in range(0, n, step)]


def _columns(x, kernel, out_hw, stride, padding, dilation, groups) -> np.ndarray:
    """x: [n, H, W, C] -> [groups, n*P*Q, R*S*C/groups]."""
    n, h, w, c = x.shape
    (r, s), (p, q), (top, _, left, _) = kernel, out_hw, padding
    hp = max((p - 1) * stride[0] + (r - 1) * dilation[0] + 1, top + h)
    wp = max((q - 1) * stride[1] + (s - 1) * dilation[1] + 1, left + w)
    padded = np.zeros((n, hp, wp, c), dtype=x.dtype)
    padded[:, top : top + h, left : left + w] = x
    sn, sh, sw, sc = padded.strides
    cg = c // groups
    view = as_strided(
        padded,
        (groups, n, p, q, r, s, cg),
        (cg * sc, sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
    )
    return np.ascontiguousarray(view).reshape(groups, n * p * q, r * s * cg)


def _output_hw(h: int, w: int, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Pair:
    top, bottom, left, right = padding
    return (
        output_size(h, kernel[0], stride[0], top, bottom, dilation[0]),
        output_size(w, kernel[1], stride[1], left, right, dilation[1]),
    )
