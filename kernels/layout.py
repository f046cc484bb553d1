"""Between channels-last memory and the logical NCHW order: at `flatten`, and where a user's tensor comes in."""

import triton
import triton.language as tl


@triton.jit
def to_nchw(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n, c, h, w] = x[n, h, w, c], with PIXELS = H*W. Grid: (cdiv(N*PIXELS, BLOCK_M), cdiv(C, BLOCK_N)).

    load_x(pixel, channel, mask, args); store_y(tile, pixel, channel, mask, part, args) gets pixel = n and channel =
    (c*H + h)*W + w, the position in y: [N, C*PIXELS], both [BLOCK_M, BLOCK_N].
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    feature = channel * PIXELS + pixel % PIXELS
    store_y(load_x(pixel, channel, mask, x_args), pixel // PIXELS + channel * 0, feature, mask, part, y_args)


@triton.jit
def from_nchw(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n, h, w, c] = x[n, c, h, w], with PIXELS = H*W. Grid: (cdiv(N*PIXELS, BLOCK_M), cdiv(C, BLOCK_N)).

    load_x(pixel, channel, mask, args) gets pixel = n and channel = (c*H + h)*W + w, the position in x: [N, C*PIXELS],
    both [BLOCK_M, BLOCK_N]; store_y(tile, pixel, channel, mask, part, args).
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    feature = channel * PIXELS + pixel % PIXELS
    store_y(load_x(pixel // PIXELS + channel * 0, feature, mask, x_args), pixel, channel, mask, part, y_args)
