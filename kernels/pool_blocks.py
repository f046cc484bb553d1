"""Pooling whose windows overlap, by blocks of results: what several windows share is loaded and compared once.

A program's tile has a block of HIGH by WIDE results in each place. Row by row of the image, the largest number (or the
sum) is found that each of the WIDE windows has in the row; and then that of each window, of its rows: for 3x3 windows
with stride 1 and blocks of 4 by 2, 3 loads and 5 comparisons for each result, where single windows take 9 of each.
"""

import triton
import triton.language as tl

from .pool import window_length
from .window import image_position


@triton.jit
def larger_of(best, index, x, number):
    """(best, index), or (x, number) if x is larger; a NaN is larger than whatever came before it."""
    better = (x > best) | (x != x)
    return tl.where(better, x, best), tl.where(better, number, index)


@triton.jit
def with_row(best, index, x, s, r: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """(best, index) of a window and its row r, whose largest number is x, at column s; the same if it has no row r."""
    if r >= 0 and r < R:
        best, index = larger_of(best, index, x, r * S + s)
    return best, index


@triton.jit
def row_of_image(
    load: tl.constexpr, args, n, h, first, channel, exists, H: tl.constexpr, W: tl.constexpr, COUNT: tl.constexpr,
    BESIDE: tl.constexpr,
):  # fmt: skip
    """COUNT columns of row h of image n, from column ``first`` on, in fp32: a tuple, BESIDE where no pixel is."""
    found = ()
    for e in tl.static_range(COUNT):
        v = first + e
        inside = exists & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        x = load((n * H + h) * W + v, channel, inside, args).to(tl.float32)
        found += (tl.where(inside, x, BESIDE),)
    return found


@triton.jit
def max_pool2d_blocks(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = max over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c], padding left out.

    Grid: (cdiv(N * cdiv(P, HIGH) * cdiv(Q, WIDE), BLOCK_M), cdiv(C, BLOCK_N)). load_x and store_y as in `max_pool2d`;
    store_y is called for each result of the blocks, with part the program's number.
    """
    BLOCKS_P: tl.constexpr = (P + HIGH - 1) // HIGH
    BLOCKS_Q: tl.constexpr = (Q + WIDE - 1) // WIDE
    part = tl.program_id(0)
    block = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    exists = (block < N * (BLOCKS_P * BLOCKS_Q)) & (channel < C)
    n, i, j = image_position(block, BLOCKS_P, BLOCKS_Q)
    p, q = i * HIGH, j * WIDE

    best, index = (), ()
    for result in tl.static_range(HIGH * WIDE):
        best += (tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32),)
        # Where all are -inf, the first of them that is not padding.
        r = tl.maximum(PT - (p + result // WIDE) * SH, 0)
        s = tl.maximum(PL - (q + result % WIDE) * SW, 0)
        index += (r * S + s + tl.zeros([BLOCK_M, BLOCK_N], tl.int32),)
    for row in tl.static_range((HIGH - 1) * SH + R):
        x = row_of_image(
            load_x, x_args, n, p * SH + (row - PT), q * SW - PL, channel, exists, H, W, (WIDE - 1) * SW + S,
            float("-inf"),
        )  # fmt: skip
        largest, where = (), ()
        for w in tl.static_range(WIDE):
            most = x[w * SW]
            at = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
            for s in tl.static_range(1, S):
                most, at = larger_of(most, at, x[w * SW + s], s)
            largest += (most,)
            where += (at,)
        now, numbers = (), ()
        for result in tl.static_range(HIGH * WIDE):
            found = with_row(
                best[result], index[result], largest[result % WIDE], where[result % WIDE], row - result // WIDE * SH, R,
                S,
            )  # fmt: skip
            now += (found[0],)
            numbers += (found[1],)
        best, index = now, numbers
    for result in tl.static_range(HIGH * WIDE):
        a, b = p + result // WIDE, q + result % WIDE
        there = exists & (a < P) & (b < Q)
        store_y(best[result], index[result], (n * P + a) * Q + b, channel, there, part, y_args)


@triton.jit
def avg_pool2d_blocks(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = sum over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c] / count(p, q), in fp32.

    Grid: (cdiv(N * cdiv(P, HIGH) * cdiv(Q, WIDE), BLOCK_M), cdiv(C, BLOCK_N)). The rest as in `avg_pool2d`; store_y is
    called for each result of the blocks, with part the program's number.
    """
    BLOCKS_P: tl.constexpr = (P + HIGH - 1) // HIGH
    BLOCKS_Q: tl.constexpr = (Q + WIDE - 1) // WIDE
    part = tl.program_id(0)
    block = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    exists = (block < N * (BLOCKS_P * BLOCKS_Q)) & (channel < C)
    n, i, j = image_position(block, BLOCKS_P, BLOCKS_Q)
    p, q = i * HIGH, j * WIDE

    totals = ()
    for _ in tl.static_range(HIGH * WIDE):
        totals += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for row in tl.static_range((HIGH - 1) * SH + R):
        x = row_of_image(
            load_x, x_args, n, p * SH + (row - PT), q * SW - PL, channel, exists, H, W, (WIDE - 1) * SW + S, 0.0
        )
        sums = ()
        for w in tl.static_range(WIDE):
            total = x[w * SW]
            for s in tl.static_range(1, S):
                total += x[w * SW + s]
            sums += (total,)
        now = ()
        for result in tl.static_range(HIGH * WIDE):
            total = totals[result]
            if row >= result // WIDE * SH and row < result // WIDE * SH + R:
                total += sums[result % WIDE]
            now += (total,)
        totals = now
    for result in tl.static_range(HIGH * WIDE):
        a, b = p + result // WIDE, q + result % WIDE
        count = (window_length(a * SH - PT, R, H, PT, PB, INCLUDE_PAD)
                 * window_length(b * SW - PL, S, W, PL, PR, INCLUDE_PAD))  # fmt: skip
        there = exists & (a < P) & (b < Q)
        mean = totals[result] / tl.maximum(count, 1).to(tl.float32)  # beyond the last result it may be 0
        store_y(mean, (n * P + a) * Q + b, channel, there, part, y_args)


@triton.jit
def avg_pool2d_grad_blocks(
    load_dy: tl.constexpr, dy_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dx[n,h,w,c] = sum of dy[n,p,q,c] / count(p, q) over the windows (p, q) that cover (h, w).

    Grid: (cdiv(N * cdiv(H, HIGH*SH) * cdiv(W, WIDE*SW), BLOCK_M), cdiv(C, BLOCK_N)): a place of a tile has a block of
    pixels. The rest as in `avg_pool2d_grad`; store_dx is called for each pixel of the blocks, with part the program's
    number.
    """
    BLOCK_H: tl.constexpr = HIGH * SH
    BLOCK_W: tl.constexpr = WIDE * SW
    BLOCKS_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    BLOCKS_W: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W
    # Of the windows that reach into a block, the first and how many; both count from the block's own number.
    FIRST_H: tl.constexpr = (PT - R + SH) // SH
    FIRST_W: tl.constexpr = (PL - S + SW) // SW
    DOWN: tl.constexpr = (BLOCK_H - 1 + PT) // SH - FIRST_H + 1
    ACROSS: tl.constexpr = (BLOCK_W - 1 + PL) // SW - FIRST_W + 1
    part = tl.program_id(0)
    block = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    exists = (block < N * (BLOCKS_H * BLOCKS_W)) & (channel < C)
    n, i, j = image_position(block, BLOCKS_H, BLOCKS_W)

    totals = ()
    for _ in tl.static_range(BLOCK_H * BLOCK_W):
        totals += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for down in tl.static_range(DOWN):
        p = i * HIGH + (FIRST_H + down)
        dy = row_of_image(load_dy, dy_args, n, p, j * WIDE + FIRST_W, channel, exists, P, Q, ACROSS, 0.0)
        high = window_length(p * SH - PT, R, H, PT, PB, INCLUDE_PAD)
        shares = ()
        for across in tl.static_range(ACROSS):
            q = j * WIDE + (FIRST_W + across)
            count = high * window_length(q * SW - PL, S, W, PL, PR, INCLUDE_PAD)
            shares += (dy[across] / tl.maximum(count, 1).to(tl.float32),)  # where no window is, it may be 0
        sums = ()
        for v in tl.static_range(BLOCK_W):
            total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for across in tl.static_range(ACROSS):
                if v + PL - (FIRST_W + across) * SW >= 0 and v + PL - (FIRST_W + across) * SW < S:
                    total += shares[across]
            sums += (total,)
        now = ()
        for pixel in tl.static_range(BLOCK_H * BLOCK_W):
            total = totals[pixel]
            if pixel // BLOCK_W + PT - (FIRST_H + down) * SH >= 0 and pixel // BLOCK_W + PT - (FIRST_H + down) * SH < R:
                total += sums[pixel % BLOCK_W]
            now += (total,)
        totals = now
    for pixel in tl.static_range(BLOCK_H * BLOCK_W):
        h, v = i * BLOCK_H + pixel // BLOCK_W, j * BLOCK_W + pixel % BLOCK_W
        there = exists & (h < H) & (v < W)
        store_dx(totals[pixel], (n * H + h) * W + v, channel, there, part, dx_args)
