"""Gradient of a convolution with stride 1 by its weights, of operands that are multiplied just as they lie in memory.

    dw[k,r,s,c] = sum over n,p,q of  dy[n,p,q,k] * x[n, p + r*DH - PT, q + s*DW - PL, c]

The sum runs over boxes [BOX_H, BOX_W, BOX_N] of dy's pixels. What a tap needs of x is the same box moved, so one bulk
copy (Hopper's TMA) brings each operand and no address of any pixel is computed. What lies outside of either image reads
as 0, and adds nothing.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot


@triton.jit
def next_box(n, p, q, P: tl.constexpr, Q: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr):
    """The first image, row and column of the box behind this one."""
    q += BOX_W
    p = tl.where(q >= Q, p + BOX_H, p)
    q = tl.where(q >= Q, 0, q)
    n = tl.where(p >= P, n + BOX_N, n)
    p = tl.where(p >= P, 0, p)
    return n, p, q


@triton.jit
def add_products(
    dy, x, store_dw: tl.constexpr, dw_args, first_k, first_tile, n, p, q, count, split,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BESIDE: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
):  # fmt: skip
    """Sum up ``count`` boxes from (n, p, q) on for BESIDE tiles of dw, and store them."""
    TAP_TILES: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    sums = ()
    for _ in tl.static_range(BESIDE):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for _ in range(count):  # the counters are carried, not divided out of one: see conv2d_boxes
        a = dy.load([p, q, n, first_k]).reshape(BOX_N * BOX_H * BOX_W, BLOCK_M)
        added = ()
        for i in tl.static_range(BESIDE):
            tap, first_c = (first_tile + i) // TAP_TILES, (first_tile + i) % TAP_TILES * BLOCK_N
            h, w = p + (tap // S * DH - PT), q + (tap % S * DW - PL)
            b = x.load([h, w, n, first_c]).reshape(BOX_N * BOX_H * BOX_W, BLOCK_N)
            added += (dot(tl.trans(a), b, sums[i], IEEE),)
        sums = added
        n, p, q = next_box(n, p, q, P, Q, BOX_N, BOX_H, BOX_W)

    k = first_k + tl.arange(0, BLOCK_M)[:, None]
    for i in tl.static_range(BESIDE):
        c = (first_tile + i) % TAP_TILES * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        column = (first_tile + i) // TAP_TILES * C + c
        store_dw(sums[i], k, column, (k < K) & (c < C), split, dw_args)


@triton.jit
def add_pixels(
    dy, store_bias: tl.constexpr, bias_args, first_k, n, p, q, count, split,
    K: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Sum up the pixels of ``count`` boxes of dy from (n, p, q) on, for each of BLOCK_M channels, and store them."""
    bias = tl.zeros([BLOCK_M], tl.float32)
    for _ in range(count):
        a = dy.load([p, q, n, first_k]).reshape(BOX_N * BOX_H * BOX_W, BLOCK_M)
        bias += tl.sum(a.to(tl.float32), axis=0)
        n, p, q = next_box(n, p, q, P, Q, BOX_N, BOX_H, BOX_W)
    k = first_k + tl.arange(0, BLOCK_M)
    store_bias(bias, k, k < K, split, bias_args)


@triton.jit
def conv2d_wgrad_boxes(
    dy, x, store_dw: tl.constexpr, dw_args, store_bias: tl.constexpr, bias_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SPLIT: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BESIDE: tl.constexpr = 1,
    DH: tl.constexpr = 1, DW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
    BIAS: tl.constexpr = False,
):  # fmt: skip
    """dy: [N, P, Q, K], x: [N, H, W, C]  ->  SPLIT partial sums of dw: [K, R, S, C].

    dy is a descriptor of [P, Q, N, K] in boxes of [BOX_H, BOX_W, BOX_N, BLOCK_M], x one of [H, W, N, C] in boxes of
    [BOX_H, BOX_W, BOX_N, BLOCK_N]: those of one pixel of each image are multiplied where they lie, in shared memory,
    while the left one of others passes through registers. The last tile of a tap's channels may end beyond them. A
    program has BESIDE tiles of columns, a divisor of R*S*cdiv(C, BLOCK_N), for all of which it loads dy once. With BIAS
    other programs add up dy: to do so beside the product, it would have to leave shared memory.
    Grid: (cdiv(K, BLOCK_M) * (R*S*cdiv(C, BLOCK_N)/BESIDE + BIAS), 1, SPLIT). store_dw and store_bias as in
    `conv2d_wgrad`.
    """
    BOXES_H: tl.constexpr = (P + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = (Q + BOX_W - 1) // BOX_W
    PLACES: tl.constexpr = R * S * ((C + BLOCK_N - 1) // BLOCK_N) // BESIDE
    TILES: tl.constexpr = (K + BLOCK_M - 1) // BLOCK_M * PLACES

    tile, split = tl.program_id(0), tl.program_id(2)
    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    chunk = tl.cdiv(boxes, SPLIT)
    begin = split * chunk
    count = tl.minimum(begin + chunk, boxes) - begin
    n = begin // (BOXES_H * BOXES_W) * BOX_N
    p = begin // BOXES_W % BOXES_H * BOX_H
    q = begin % BOXES_W * BOX_W
    if BIAS:  # decided when compiling, the inner one when running
        if tile >= TILES:
            add_pixels(
                dy, store_bias, bias_args, (tile - TILES) * BLOCK_M, n, p, q, count, split, K, P, Q, BOX_N, BOX_H,
                BOX_W, BLOCK_M,
            )  # fmt: skip
        else:
            add_products(
                dy, x, store_dw, dw_args, tile // PLACES * BLOCK_M, tile % PLACES * BESIDE, n, p, q, count, split,
                C, K, R, S, P, Q, BOX_N, BOX_H, BOX_W, BLOCK_M, BLOCK_N, BESIDE, DH, DW, PT, PL,
            )  # fmt: skip
    else:
        add_products(
            dy, x, store_dw, dw_args, tile // PLACES * BLOCK_M, tile % PLACES * BESIDE, n, p, q, count, split,
            C, K, R, S, P, Q, BOX_N, BOX_H, BOX_W, BLOCK_M, BLOCK_N, BESIDE, DH, DW, PT, PL,
        )  # fmt: skip
