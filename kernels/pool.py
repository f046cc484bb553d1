"""Maximum and average pooling, and their gradients in gather form: each input pixel sums the windows that cover it.

Ceil mode shows only in P and Q. Global average pooling is `avg_pool2d` with the window as large as the image.
"""

import triton
import triton.language as tl

from .window import image_position


@triton.jit
def max_pool2d(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = max over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c], padding left out.

    Grid: (cdiv(N*P*Q, BLOCK_M), cdiv(C, BLOCK_N)). store_y(value, index, pixel, channel, mask, part, args): value in
    fp32, index = r*S + s of the maximum in int32: the first of equals, but the last NaN if there is one, as in PyTorch.
    A result that store_y leaves alone costs nothing.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (P * Q)) & (channel < C)
    n, p, q = image_position(pixel, P, Q)

    best = tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32)
    # Where all are -inf, the first of them that is not padding.
    index = tl.maximum(PT - p * SH, 0) * S + tl.maximum(PL - q * SW, 0) + tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for r in range(R):
        for s in range(S):
            h = p * SH + (r - PT)
            v = q * SW + (s - PL)
            inside = mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            x = load_x((n * H + h) * W + v, channel, inside, x_args).to(tl.float32)
            better = inside & ((x > best) | (x != x))
            best = tl.where(better, x, best)
            index = tl.where(better, r * S + s, index)
    store_y(best, index, pixel, channel, mask, part, y_args)


@triton.jit
def max_pool2d_grad(
    load_dy: tl.constexpr, dy_args, index, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr = False,
):  # fmt: skip
    """dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p, q) whose maximum was at (h, w).

    dy: [N, P, Q, C]; index: [N, P, Q, C] integers, r*S + s as `max_pool2d` gives them. Grid: (cdiv(N*H*W, BLOCK_M),
    cdiv(C, BLOCK_N)). load_dy(pixel of y, channel, mask, args); store_dx(acc, pixel, channel, mask, part, args).
    WIDE: index may have 2**31 elements or more.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (H * W)) & (channel < C)
    n, h, v = image_position(pixel, H, W)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for i in range((R + SH - 1) // SH):  # at most this many windows cover a row, the last of them first
        p = (h + PT) // SH - i
        r = h + PT - p * SH
        for j in range((S + SW - 1) // SW):
            q = (v + PL) // SW - j
            s = v + PL - q * SW
            covers = mask & (r < R) & (p >= 0) & (p < P) & (s < S) & (q >= 0) & (q < Q)
            source = (n * P + p) * Q + q
            where = source.to(tl.int64) if WIDE else source
            chosen = tl.load(index + where * C + channel, mask=covers, other=0).to(tl.int32) == r * S + s
            acc += tl.where(covers & chosen, load_dy(source, channel, covers, dy_args).to(tl.float32), 0.0)
    store_dx(acc, pixel, channel, mask, part, dx_args)


@triton.jit
def window_length(start, KERNEL: tl.constexpr, SIZE: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
                  INCLUDE_PAD: tl.constexpr):  # fmt: skip
    """How many positions of one axis an averaging window divides by, as PyTorch counts them.

    start is its first position (negative in the padding). With INCLUDE_PAD the padding counts, but not what a
    ceil-mode window has beyond it; else only the image does.
    """
    if INCLUDE_PAD:
        return tl.minimum(start + KERNEL, SIZE + AFTER) - start
    return tl.minimum(start + KERNEL, SIZE) - tl.maximum(start, 0)


@triton.jit
def avg_pool2d(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = sum over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c] / count(p, q), in fp32.

    Grid: (cdiv(N*P*Q, BLOCK_M), cdiv(C, BLOCK_N)). INCLUDE_PAD: does the padding PT, PB, PL, PR count (see
    `window_length`)? load_x(pixel of x, channel, mask, args); store_y(mean, pixel, channel, mask, part, args).
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (P * Q)) & (channel < C)
    n, p, q = image_position(pixel, P, Q)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for r in range(R):
        for s in range(S):
            h = p * SH + (r - PT)
            v = q * SW + (s - PL)
            inside = mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            acc += load_x((n * H + h) * W + v, channel, inside, x_args).to(tl.float32)
    count = (window_length(p * SH - PT, R, H, PT, PB, INCLUDE_PAD)
             * window_length(q * SW - PL, S, W, PL, PR, INCLUDE_PAD))  # fmt: skip
    store_y(acc / count.to(tl.float32), pixel, channel, mask, part, y_args)


@triton.jit
def avg_pool2d_grad(
    load_dy: tl.constexpr, dy_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[n,h,w,c] = sum of dy[n,p,q,c] / count(p, q) over the windows (p, q) that cover (h, w).

    Grid: (cdiv(N*H*W, BLOCK_M), cdiv(C, BLOCK_N)). load_dy(pixel of y, channel, mask, args); store_dx(acc, pixel,
    channel, mask, part, args).
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (H * W)) & (channel < C)
    n, h, v = image_position(pixel, H, W)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for i in range((R + SH - 1) // SH):  # at most this many windows cover a row, the last of them first
        p = (h + PT) // SH - i
        r = h + PT - p * SH
        for j in range((S + SW - 1) // SW):
            q = (v + PL) // SW - j
            s = v + PL - q * SW
            covers = mask & (r < R) & (p >= 0) & (p < P) & (s < S) & (q >= 0) & (q < Q)
            count = (window_length(p * SH - PT, R, H, PT, PB, INCLUDE_PAD)
                     * window_length(q * SW - PL, S, W, PL, PR, INCLUDE_PAD))  # fmt: skip
            dy = load_dy((n * P + p) * Q + q, channel, covers, dy_args).to(tl.float32)
            # Where no window is, its count may be 0.
            acc += tl.where(covers, dy / tl.maximum(count, 1).to(tl.float32), 0.0)
    store_dx(acc, pixel, channel, mask, part, dx_args)
