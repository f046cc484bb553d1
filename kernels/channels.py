"""Sums and statistics along the channels of each pixel."""

import triton
import triton.language as tl


@triton.jit
def sum_channels(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[pixel, 0] = sum over c of x[pixel, c], for x: [N*PIXELS, C].

    Grid: (cdiv(N*PIXELS, BLOCK_M),). Lane n of a program sums channels n, n + BLOCK_N, ... first. load_x(pixel,
    channel, mask, args); store_y(tile, pixel, channel = 0, mask, part, args), the tile [BLOCK_M, 1] in fp32.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, C, BLOCK_N):
        channel = first + tl.arange(0, BLOCK_N)[None, :]
        total += load_x(pixel, channel, (pixel < N * PIXELS) & (channel < C), x_args).to(tl.float32)
    store_y(tl.sum(total, axis=1)[:, None], pixel, tl.arange(0, 1)[None, :], pixel < N * PIXELS, part, y_args)


@triton.jit
def pixel_stats(
    load_x: tl.constexpr, x_args, store: tl.constexpr, store_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The mean and the biased variance of x[pixel, c] over c, for x: [N*PIXELS, C].

    Grid: (cdiv(N*PIXELS, BLOCK_M),); BLOCK_N is at least C, so the deviations are of what is in registers.
    load_x(pixel, channel, mask, args); store(mean, var, pixel, mask, part, args), both [BLOCK_M, 1] in fp32.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    x = load_x(pixel, channel, mask, x_args).to(tl.float32)
    mean = tl.sum(x, axis=1)[:, None] / C
    deviation = tl.where(mask, x - mean, 0.0)
    var = tl.sum(deviation * deviation, axis=1)[:, None] / C
    store(mean, var, pixel, pixel < N * PIXELS, part, store_args)


@triton.jit
def pixel_mean_pair(
    load_both: tl.constexpr, load_args, store: tl.constexpr, store_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The means over c of two values at [pixel, c], which load_both(pixel, channel, mask, args) gives in fp32.

    Grid and store as in `pixel_stats`.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    first, second = load_both(pixel, channel, (pixel < N * PIXELS) & (channel < C), load_args)
    first = tl.sum(first, axis=1)[:, None] / C
    second = tl.sum(second, axis=1)[:, None] / C
    store(first, second, pixel, pixel < N * PIXELS, part, store_args)
