"""Images of another size: upsampling, adaptive pooling, and their gradients.

Along each axis an output p is made of inputs i by a weight that depends on the two numbers only, so one loop computes
the operation, and with the roles of the two exchanged its gradient.
"""

import triton
import triton.language as tl

from .window import image_position


@triton.jit
def axis_weight(p, i, IN: tl.constexpr, OUT: tl.constexpr, KIND: tl.constexpr):
    """How much of input i, of IN, is in output p, of OUT, in fp32.

    nearest  1 where i = floor(p * IN / OUT)
    mean     1 / count, for the inputs from floor(p * IN / OUT) to ceil((p + 1) * IN / OUT) - 1
    half     1 - |s - i| where that is positive, s = (p + 1/2) * IN / OUT - 1/2, kept within the image
    corners  the same with s = p * (IN - 1) / (OUT - 1)

    All in integers, of which only the last quotient is rounded.
    """
    if KIND == "nearest":
        return (i == p * IN // OUT).to(tl.float32)
    if KIND == "mean":
        start = p * IN // OUT
        stop = ((p + 1) * IN + OUT - 1) // OUT
        return tl.where((start <= i) & (i < stop), 1.0 / (stop - start).to(tl.float32), 0.0)
    if KIND == "half":
        unit: tl.constexpr = 2 * OUT
        place = tl.minimum(tl.maximum((2 * p + 1) * IN - OUT, 0), (IN - 1) * unit)
        return tl.maximum(unit - tl.abs(place - i * unit), 0).to(tl.float32) / unit
    steps: tl.constexpr = max(OUT - 1, 1)
    return tl.maximum(steps - tl.abs(p * (IN - 1) - i * steps), 0).to(tl.float32) / steps


@triton.jit
def first_input(p, IN: tl.constexpr, OUT: tl.constexpr, KIND: tl.constexpr):
    """The first input that is in output p; those that follow it come one after another."""
    if KIND == "half":
        return tl.maximum((2 * p + 1) * IN - OUT, 0) // (2 * OUT)
    if KIND == "corners":
        return p * (IN - 1) // max(OUT - 1, 1)
    return p * IN // OUT


@triton.jit
def first_output(i, IN: tl.constexpr, OUT: tl.constexpr, KIND: tl.constexpr):
    """The first output that input i may be in; those that follow it come one after another."""
    if KIND == "nearest":
        return (i * OUT + IN - 1) // IN
    if KIND == "half":
        return tl.where(i > 0, ((2 * i - 1) * OUT + IN) // (2 * IN), 0)
    if KIND == "corners":
        return tl.where(i > 0, ((i - 1) * (OUT - 1) + IN - 1) // max(IN - 1, 1), 0)
    return i * OUT // IN


@triton.jit
def resample(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, KIND: tl.constexpr, GRAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = sum over h,w of rows(p, h) * columns(q, w) * x[n,h,w,c], the weights by `axis_weight`.

    GRAD: of an operation from P to H and from Q to W, so that the weights are rows(h, p) and columns(w, q). R and S are
    the most rows and columns that a result is made of. Grid: (cdiv(N*P*Q, BLOCK_M), cdiv(C, BLOCK_N)). load_x(pixel of
    x, channel, mask, args); store_y(acc, pixel, channel, mask, part, args).
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (P * Q)) & (channel < C)
    n, p, q = image_position(pixel, P, Q)
    if GRAD:
        top, left = first_output(p, P, H, KIND), first_output(q, Q, W, KIND)
    else:
        top, left = first_input(p, H, P, KIND), first_input(q, W, Q, KIND)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for r in range(R):
        for s in range(S):
            h, v = top + r, left + s
            if GRAD:
                weight = axis_weight(h, p, P, H, KIND) * axis_weight(v, q, Q, W, KIND)
            else:
                weight = axis_weight(p, h, H, P, KIND) * axis_weight(q, v, W, Q, KIND)
            inside = mask & (h < H) & (v < W) & (weight > 0.0)
            x = load_x((n * H + h) * W + v, channel, inside, x_args).to(tl.float32)
            acc += tl.where(inside, weight * x, 0.0)
    store_y(acc, pixel, channel, mask, part, y_args)
