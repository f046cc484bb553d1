"""Sums, maxima and statistics along the channels of each pixel."""

import triton
import triton.language as tl

from .window import larger, largest_along


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
def max_channels(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[pixel, 0] = max over c of x[pixel, c], NaN where there is one, for x: [N*PIXELS, C].

    Grid and functions as in `sum_channels`.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    best = tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32)
    for first in range(0, C, BLOCK_N):
        channel = first + tl.arange(0, BLOCK_N)[None, :]
        x = load_x(pixel, channel, (pixel < N * PIXELS) & (channel < C), x_args).to(tl.float32)
        best = larger(best, tl.where(channel < C, x, float("-inf")))
    store_y(largest_along(best, 1)[:, None], pixel, tl.arange(0, 1)[None, :], pixel < N * PIXELS, part, y_args)


@triton.jit
def max_channels_grad(
    load_dy: tl.constexpr, dy_args, load_x: tl.constexpr, x_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, SHARED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[pixel, c] = dy[pixel, 0] where x[pixel, c] is the largest over c, else 0, for x: [N*PIXELS, C].

    Of several that are the largest, the first has all of it, or each the same part if SHARED. Beside a NaN none is the
    largest: the first NaN has it, or all of dx is NaN (0 / 0) if SHARED.

    Grid: (cdiv(N*PIXELS, BLOCK_M),); BLOCK_N is at least C. load_dy(pixel, channel = 0, mask, args) and load_x(pixel,
    channel, mask, args); store_dx(tile, pixel, channel, mask, part, args), the tile in fp32.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    dy = load_dy(pixel, tl.arange(0, 1)[None, :], pixel < N * PIXELS, dy_args).to(tl.float32)
    x = load_x(pixel, channel, mask, x_args).to(tl.float32)
    best = largest_along(tl.where(channel < C, x, float("-inf")), 1)[:, None]
    largest = (channel < C) & (x == best)
    if SHARED:
        share = tl.where(largest, 1.0, 0.0)
        dx = share * dy / tl.sum(share, axis=1)[:, None]
    else:
        chosen = tl.min(tl.where(largest | ((channel < C) & (x != x)), channel, C), axis=1)[:, None]
        dx = tl.where(channel == chosen, dy, 0.0)
    store_dx(dx, pixel, channel, mask, part, dx_args)


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
def layer_norm_grad(
    given: tl.constexpr, given_args, load: tl.constexpr, load_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SUMS: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """dx[pixel, c] = rstd * (g - mean(g) - xhat * mean(g * xhat)), means over c, for [N*PIXELS, C].

    Grid: (any number of programs up to cdiv(N*PIXELS, BLOCK_M),), each of which computes block after block; BLOCK_N is
    at least C, so a pixel's channels are read once. given(channel, args) gives what depends on the channel alone; then
    load(pixel, channel, mask, inside, given, args), with inside [BLOCK_M, 1] what the mask says of pixels, g = dy *
    weight, xhat and rstd; store_dx(tile, pixel, channel, mask, part, args), part the number of the block; all in fp32.

    With SUMS = 2 load gives dy and dy * xhat as well, and leave_sums(sums, 0, channel, program, args) is given their
    sums over the program's pixels, [1, BLOCK_N]; finish as in `conv2d_fprop`, with a part for each program. Where the
    mask is false, g, dy and dy * xhat are 0.
    """
    channel = tl.arange(0, BLOCK_N)[None, :]
    dbias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    dweight = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    of_channels = given(channel, given_args)  # once: in the loop its layout would become that of the tiles
    for part in tl.range(tl.program_id(0), tl.cdiv(N * PIXELS, BLOCK_M), tl.num_programs(0)):
        pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        inside = pixel < N * PIXELS
        mask = inside & (channel < C)
        loaded = load(pixel, channel, mask, inside, of_channels, load_args)
        g, xhat, rstd = loaded[0], loaded[1], loaded[2]
        mean = tl.sum(g, axis=1)[:, None] / C
        product = tl.sum(g * xhat, axis=1)[:, None] / C
        store_dx((g - mean - xhat * product) * rstd, pixel, channel, mask, part, dx_args)
        if SUMS > 0:
            dbias += loaded[3]
            dweight += loaded[4]
    if SUMS > 0:
        sums = tl.sum(dbias, axis=0)[None, :], tl.sum(dweight, axis=0)[None, :]
        leave_sums(sums, 0, channel, tl.program_id(0), leave_args)
    if finish is not None:
        finish(0, 0, C, tl.program_id(0), tl.num_programs(0), finish_args)
