"""Gradient of a convolution with stride 1 by its weights, of operands that are multiplied just as they lie in memory.

    dw[k,r,s,c] = sum over n,p,q of  dy[n,p,q,k] * x[n, p + r*DH - PT, q + s*DW - PL, c]

The sum runs over boxes [BOX_N, BOX_H, BOX_W] of dy's pixels. What a tap needs of x is the same box moved, so one bulk
copy (Hopper's TMA) brings each operand and no address of any pixel is computed. What lies outside of either image reads
as 0, and adds nothing.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot


@triton.jit
def conv2d_wgrad_boxes(
    dy, x, store_dw: tl.constexpr, dw_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SPLIT: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BESIDE: tl.constexpr = 1,
    DH: tl.constexpr = 1, DW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
):  # fmt: skip
    """dy: [N, P, Q, K], x: [N, H, W, C]  ->  SPLIT partial sums of dw: [K, R, S, C].

    dy is a descriptor in boxes of [BOX_N, BOX_H, BOX_W, BLOCK_M], x one in boxes of [BOX_N, BOX_H, BOX_W, BLOCK_N];
    C is a multiple of BLOCK_N. A program has BESIDE tiles of columns, a divisor of R*S*C/BLOCK_N, for all of which it
    loads dy once. Grid: (cdiv(K, BLOCK_M) * R*S*C/BLOCK_N/BESIDE, 1, SPLIT). store_dw as in `conv2d_wgrad`.
    """
    BLOCK_K: tl.constexpr = BOX_N * BOX_H * BOX_W
    BOXES_H: tl.constexpr = (P + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = (Q + BOX_W - 1) // BOX_W
    TAP_TILES: tl.constexpr = C // BLOCK_N
    PLACES: tl.constexpr = R * S * TAP_TILES // BESIDE

    first_tile = tl.program_id(0) % PLACES * BESIDE
    first_k = tl.program_id(0) // PLACES * BLOCK_M
    split = tl.program_id(2)

    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    chunk = tl.cdiv(boxes, SPLIT)
    begin = split * chunk
    end = tl.minimum(begin + chunk, boxes)
    n = begin // (BOXES_H * BOXES_W) * BOX_N
    p = begin // BOXES_W % BOXES_H * BOX_H
    q = begin % BOXES_W * BOX_W

    sums = ()
    for _ in tl.static_range(BESIDE):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for _ in range(begin, end):  # the counters are carried, not divided out of one: see conv2d_boxes
        a = dy.load([n, p, q, first_k]).reshape(BLOCK_K, BLOCK_M)
        added = ()
        for i in tl.static_range(BESIDE):
            tap, first_c = (first_tile + i) // TAP_TILES, (first_tile + i) % TAP_TILES * BLOCK_N
            b = x.load([n, p + (tap // S * DH - PT), q + (tap % S * DW - PL), first_c]).reshape(BLOCK_K, BLOCK_N)
            added += (dot(tl.trans(a), b, sums[i], IEEE),)
        sums = added
        q += BOX_W
        p = tl.where(q >= Q, p + BOX_H, p)
        q = tl.where(q >= Q, 0, q)
        n = tl.where(p >= P, n + BOX_N, n)
        p = tl.where(p >= P, 0, p)

    k = first_k + tl.arange(0, BLOCK_M)[:, None]
    for i in tl.static_range(BESIDE):
        column = (first_tile + i) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        store_dw(sums[i], k, column, (k < K) & (column < R * S * C), split, dw_args)
