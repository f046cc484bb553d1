"""Gradient of a grouped convolution by its weights, of groups that are multiplied together.

    dw[k,r,s,c] = sum over n,p,q of  dy[n,p,q,k] * x[n, p*SH + r*DH - PT, q*SW + s*DW - PL, c]

A product of 16 filters has the channels of all groups that these are of: so few that a program has a block for each of
its warps, and all taps of each block in registers. What it loads are boxes of x, moved by a column for each column of
taps, and of dy, moved by a row for each row of taps (by bulk copies, Hopper's TMA): every pair of them is a tap. Blocks
lie beside one another in the boxes, and their transposes are how a warp reads them. Of a block's pairs of filter and
channel those are kept that belong to one group.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot


@triton.jit
def conv2d_wgrad_packs(
    dy, x, store_dw: tl.constexpr, dw_args, N,
    C: tl.constexpr, H: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, Q: tl.constexpr,
    GROUPS: tl.constexpr, SPLIT: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, DH: tl.constexpr = 1, DW: tl.constexpr = 1,
    PT: tl.constexpr = 0, PL: tl.constexpr = 0,
):  # fmt: skip
    """dy: [N, P, Q, K], x: [N, H, W, C], C = K  ->  SPLIT partial sums of dw: [K, R, S, C/GROUPS].

    A program has WIDE filters and channels, in blocks of BLOCK_M filters and of BLOCK_N channels, which whole groups
    have: BLOCK_M divides BLOCK_N, that WIDE, and C/GROUPS divides BLOCK_N. dy and x are descriptors, with images as
    their last axis but one, in boxes of [BOX_H, BOX_W, BOX_N, WIDE]; with a stride x is one of [H/SH, SH, W/SW, N,
    SW*C] in boxes of [BOX_H, 1, BOX_W, BOX_N, WIDE]: SH divides H and is at most R, SW divides W, there is no dilation.
    The sum runs over boxes of rows of x, every SH of them, by columns of dy. Grid: (cdiv(C, WIDE), 1, SPLIT). store_dw
    as in `conv2d_wgrad`, but for tiles of [WIDE/BLOCK_M, BLOCK_M, BLOCK_N].
    """
    WIDTH: tl.constexpr = C // GROUPS
    PIXELS: tl.constexpr = BOX_N * BOX_H * BOX_W
    BLOCKS: tl.constexpr = WIDE // BLOCK_M
    ACROSS: tl.constexpr = WIDE // BLOCK_N
    ROWS: tl.constexpr = H // SH
    BOXES_H: tl.constexpr = (ROWS + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = (Q + BOX_W - 1) // BOX_W
    first = tl.program_id(0) * WIDE
    split = tl.program_id(2)

    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    chunk = tl.cdiv(boxes, SPLIT)
    begin = split * chunk
    end = tl.minimum(begin + chunk, boxes)
    n = begin // (BOXES_H * BOXES_W) * BOX_N
    h = begin // BOXES_W % BOXES_H * BOX_H
    q = begin % BOXES_W * BOX_W

    sums = ()  # of column after column of taps
    for _ in tl.static_range(R * S):
        sums += (tl.zeros([BLOCKS, BLOCK_M, BLOCK_N], tl.float32),)
    for _ in range(begin, end):  # the counters are carried, not divided out of one: see conv2d_boxes
        filters = ()  # for each row of taps
        for r in tl.static_range(R):
            if r > 0 and (r * DH - PT) // SH == ((r - 1) * DH - PT) // SH:
                filters += (filters[r - 1],)
            else:
                box = dy.load([h - (r * DH - PT) // SH, q, n, first])
                filters += (box.reshape(PIXELS, BLOCKS, BLOCK_M).permute(1, 2, 0),)
        added = ()
        for s in tl.static_range(S):
            channels = ()  # of the first rows of SH, the second ones, and so on
            for row in tl.static_range(SH):
                if SH * SW > 1:
                    box = x.load([h, row, q + (s - PL) // SW, n, (s - PL) % SW * C + first])
                else:
                    box = x.load([h, q + (s * DW - PL), n, first])
                if BLOCK_M < BLOCK_N:  # as many times as there are blocks of its filters
                    box = box.reshape(PIXELS, ACROSS, 1, BLOCK_N)
                    box = box.broadcast_to(PIXELS, ACROSS, BLOCK_N // BLOCK_M, BLOCK_N)
                channels += (box.reshape(PIXELS, BLOCKS, BLOCK_N).permute(1, 0, 2),)
            for r in tl.static_range(R):
                added += (dot(filters[r], channels[(r * DH - PT) % SH], sums[s * R + r], IEEE),)
        sums = added
        q += BOX_W
        h = tl.where(q >= Q, h + BOX_H, h)
        q = tl.where(q >= Q, 0, q)
        n = tl.where(h >= ROWS, n + BOX_N, n)
        h = tl.where(h >= ROWS, 0, h)

    filter_ = tl.arange(0, BLOCKS)[:, None, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :, None]
    channel = filter_ // BLOCK_N * BLOCK_N + tl.arange(0, BLOCK_N)[None, None, :]
    mask = (filter_ // WIDTH == channel // WIDTH) & (first + filter_ < K)
    for s in tl.static_range(S):
        for r in tl.static_range(R):
            column = (r * S + s) * WIDTH + channel % WIDTH
            store_dw(sums[s * R + r], first + filter_, column, mask, split, dw_args)
