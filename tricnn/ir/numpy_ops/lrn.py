"""Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3)."""

import numpy as np

from tricnn.ir.numpy_ops.nhwc import to_nchw, to_nhwc
from tricnn.ir.numpy_ops.parallel import for_tiles


def local_response_norm(x: np.ndarray, *, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """y_c = x_c * d_c^-beta,  d_c = k + alpha / size * (sum of x_j^2 over the window of c).

    The window is j = c - size//2 .. c + (size-1)//2, clipped to the channels there are; alpha is divided by the whole
    size even where the window is clipped, as PyTorch does (the paper does not divide). x, y: [N, C, H, W].
    """
    x = to_nhwc(x)
    y = np.empty_like(x)

    def work(images: slice) -> None:
        part = x[images]
        np.multiply(part, _power(_denominator(part, size, alpha, k), -beta), out=y[images])

    for_tiles(work, len(x), x[:1].size)
    return to_nchw(y)


def local_response_norm_grad(
    dy: np.ndarray, x: np.ndarray, *, size: int, alpha: float, beta: float, k: float
) -> np.ndarray:
    """dx_c = dy_c d_c^-beta - 2 alpha beta / size * x_c * sum over {j : c in window of j} of dy_j x_j d_j^-(beta+1)."""
    dy, x = to_nhwc(dy), to_nhwc(x)
    dx = np.empty_like(x)

    def work(images: slice) -> None:
        part = x[images]
        d = _denominator(part, size, alpha, k)
        scaled = _power(d, -beta)
        scaled *= dy[images]
        t = scaled * part
        t /= d
        t = window_sum(t, (size - 1) // 2, size // 2)
        t *= part
        t *= part.dtype.type(2 * alpha * beta / size)
        np.subtract(scaled, t, out=dx[images])

    for_tiles(work, len(x), x[:1].size)
    return to_nchw(dx)


def _denominator(x: np.ndarray, size: int, alpha: float, k: float) -> np.ndarray:
    d = window_sum(x * x, size // 2, (size - 1) // 2)
    d *= x.dtype.type(alpha / size)
    d += x.dtype.type(k)
    return d


def window_sum(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """out[..., c] = sum of x[..., c - before .. c + after], nearest channels first."""
    out = x.copy()
    channels = x.shape[-1]
    for shift in range(1, min(before, channels - 1) + 1):
        out[..., shift:] += x[..., :-shift]
    for shift in range(1, min(after, channels - 1) + 1):
        out[..., :-shift] += x[..., shift:]
    return out


def _power(d: np.ndarray, exponent: float) -> np.ndarray:
    return d ** d.dtype.type(exponent)
