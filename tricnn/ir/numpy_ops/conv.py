"""2-D convolution and its two gradients. All three are correlations of one array with another (see `correlate`)."""

import numpy as np

from tricnn.ir.numpy_ops.correlate import correlate, correlate_grad
from tricnn.ir.numpy_ops.im2col import Axis, residues
from tricnn.ir.numpy_ops.nhwc import to_nchw, to_nhwc
from tricnn.ir.numpy_ops.sizes import output_size

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


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
    n, h, wd, _ = x.shape
    k, _, r, s = w.shape
    top, bottom, left, right = padding
    p = output_size(h, r, stride[0], top, bottom, dilation[0])
    q = output_size(wd, s, stride[1], left, right, dilation[1])
    y = np.empty((n, p, q, k), dtype=x.dtype)
    rows, cols = Axis(r, stride[0], dilation[0], -top), Axis(s, stride[1], dilation[1], -left)
    correlate(x, w.transpose(2, 3, 1, 0), rows, cols, groups, y)
    if bias is not None:
        y += bias
    return to_nchw(y)


def conv2d_grad_input(
    dy: np.ndarray, w: np.ndarray, *, input_size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """dgrad. dx[n,c,h,w] = sum of dy[n,k,p,q] * w[k,c,r,s] over p*sh + r*dh - top = h, q*sw + s*dw - left = w.

    dy: [N, K, P, Q], w: [K, C/groups, R, S] -> dx: [N, C, H, W] with (H, W) = input_size. A strided dgrad is done as
    sh*sw dense ones, one for each residue of (h, w) modulo the stride; no zeros are multiplied.
    """
    dy = to_nhwc(dy)
    k, cg, r, s = w.shape
    kg = k // groups
    taps = w.reshape(groups, kg, cg, r, s).transpose(3, 4, 1, 0, 2).reshape(r, s, kg, groups * cg)
    rows = residues(r, stride[0], dilation[0], padding[0])
    cols = residues(s, stride[1], dilation[1], padding[2])
    every_pixel_reached = len(rows) == stride[0] and len(cols) == stride[1]
    new = np.empty if every_pixel_reached else np.zeros
    dx = new((dy.shape[0], *input_size, groups * cg), dtype=dy.dtype)
    for a in rows:
        for b in cols:
            part = dx[:, a.offset :: stride[0], b.offset :: stride[1]]
            correlate(dy, taps[a.taps, b.taps], a.axis, b.axis, groups, part)
    return to_nchw(dx)


def conv2d_grad_weight(
    dy: np.ndarray, x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """wgrad. dw[k,c,r,s] = sum over n, p, q of dy[n,k,p,q] * x[n, c, p*sh + r*dh - top, q*sw + s*dw - left].

    dy: [N, K, P, Q], x: [N, C, H, W] -> dw: [K, C/groups, R, S] with (R, S) = kernel_size.
    """
    rows = Axis(kernel_size[0], stride[0], dilation[0], -padding[0])
    cols = Axis(kernel_size[1], stride[1], dilation[1], -padding[2])
    dw = correlate_grad(to_nhwc(x), to_nhwc(dy), rows, cols, groups)
    return np.ascontiguousarray(dw.transpose(3, 2, 0, 1))
